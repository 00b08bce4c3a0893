"""`rexis model key | unkey | inspect`, as somebody types them."""

import json

import click
import pytest
import torch
from click.testing import CliRunner
from transformers import LlamaConfig, LlamaForCausalLM

from node.errors import ModelError
from node.model.cli import COMMANDS

pytestmark = pytest.mark.slow


@click.group()
def model():
    """Stands for `rexis model`."""


for _command in COMMANDS:
    model.add_command(_command)


@pytest.fixture
def rexis(tmp_path, monkeypatch):
    """Run in a folder with a small checkpoint `stock` and a passphrase file."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "stock")
    (tmp_path / "passphrase").write_text("correct horse")
    monkeypatch.setenv("REXIS_PASSPHRASE_FILE", str(tmp_path / "passphrase"))
    monkeypatch.chdir(tmp_path)

    def run(*words):
        result = CliRunner().invoke(model, [str(w) for w in words])
        if result.exception is not None and not isinstance(
            result.exception, SystemExit
        ):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


NAMES = ("--institution", "north", "--host", "gpu", "--session", "one")
KEY = ("key", "stock", "--out", "trunk", "--ends", "ends", "--key-file", "k", *NAMES)
UNKEY = ("unkey", "trunk", "--ends", "ends", "--key-file", "k", "--out", "home")


def test_there_and_back(rexis, tmp_path):
    made = json.loads(rexis(*KEY, "--stem-layers", 1, "--turn", "hadamard", "--json"))
    assert made["architecture"] == "llama"
    trunk = json.loads(rexis("inspect", "trunk", "--json"))
    assert trunk["kind"] == "keyed trunk"
    key = json.loads(rexis("inspect", "k", "--json"))
    assert trunk["fingerprint"] == key["fingerprint"] == made["fingerprint"]
    assert key["opens"]["turn"] == "hadamard"
    assert json.loads(rexis("inspect", "ends", "--json"))["kind"] == "ends"
    back = json.loads(rexis(*UNKEY, "--destroy", "--json"))
    assert back["fingerprint"] == made["fingerprint"]
    assert not (tmp_path / "k").exists()
    tokens = torch.randint(0, 40, (2, 6))
    with torch.no_grad():
        one, two = (
            LlamaForCausalLM.from_pretrained(tmp_path / name).eval()(tokens).logits
            for name in ("stock", "home")
        )
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


def test_inspect_says_whether_a_checkpoint_can_be_keyed(rexis, tmp_path):
    assert "can be keyed: True" in rexis("inspect", "stock")
    config = json.loads((tmp_path / "stock" / "config.json").read_text())
    config["attention_dropout"] = 0.1
    (tmp_path / "stock" / "config.json").write_text(json.dumps(config))
    answer = json.loads(rexis("inspect", "stock", "--json"))
    assert answer["can_be_keyed"] is False
    assert "attention_dropout" in answer["why"]


def test_a_key_file_serves_once(rexis):
    rexis(*KEY)
    with pytest.raises(ModelError, match="not used again"):
        rexis(*KEY)


def test_the_passphrase_is_needed(rexis, tmp_path):
    rexis(*KEY)
    (tmp_path / "passphrase").write_text("something else")
    with pytest.raises(ModelError, match="passphrase does not open"):
        rexis(*UNKEY)
    assert not (tmp_path / "home").exists()


def test_a_session_without_a_name_is_refused(rexis):
    with pytest.raises(ModelError, match="session is ''"):
        rexis(*KEY[:-1], "")
