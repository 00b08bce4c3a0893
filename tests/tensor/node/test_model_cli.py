"""`rexis model key | unkey | rotate | forget | inspect`, as somebody types them."""

import errno
import json
import os
import stat
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
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


ROTATE = (
    *("rotate", "trunk", "--ends", "ends", "--key-file", "k", "--out", "trunk2"),
    *("--new-key-file", "k2"),
)


def test_a_rotated_trunk_opens_under_its_new_key_and_no_more_under_the_old(
    rexis, tmp_path
):
    first = json.loads(rexis(*KEY, "--stem-layers", 1, "--json"))
    made = json.loads(rexis(*ROTATE, "--session", "two", "--json"))
    assert made["old_fingerprint"] == first["fingerprint"] != made["fingerprint"]
    keyed = json.loads(rexis("inspect", "trunk2", "--json"))
    assert keyed["fingerprint"] == made["fingerprint"]
    one, two = (
        load_file(tmp_path / n / "model.safetensors") for n in ("trunk", "trunk2")
    )
    name = "layers.0.mlp.down_proj.weight"
    assert (one[name] - two[name]).norm() > 0.5 * one[name].norm()
    again = ("unkey", "trunk2", "--ends", "ends", "--out", "home")
    with pytest.raises(ModelError, match="under the key"):
        rexis(*again, "--key-file", "k")
    rexis(*again, "--key-file", "k2")
    plain, back = (
        load_file(tmp_path / n / "model.safetensors") for n in ("stock", "home")
    )
    name = "model.layers.1.self_attn.o_proj.weight"
    torch.testing.assert_close(back[name], plain[name], atol=1e-5, rtol=1e-4)


def test_a_rotation_wants_a_new_session_and_may_destroy_what_was(rexis, tmp_path):
    rexis(*KEY)
    with pytest.raises(ModelError, match="session 'one' at gpu has a key already"):
        rexis(*ROTATE, "--session", "one")
    assert not (tmp_path / "trunk2").exists()
    rexis(*ROTATE, "--session", "one", "--host", "other", "--destroy")
    assert not (tmp_path / "k").exists()
    assert json.loads(rexis("forget", "k2", "--json"))["key_destroyed"]
    assert not (tmp_path / "k2").exists()
    with pytest.raises(ModelError, match="cannot read"):
        rexis("forget", "k2")


def test_inspect_says_whether_a_checkpoint_can_be_keyed(rexis, tmp_path):
    assert "can be keyed: True" in rexis("inspect", "stock")
    config = json.loads((tmp_path / "stock" / "config.json").read_text())
    config["hidden_act"] = "softmax"
    (tmp_path / "stock" / "config.json").write_text(json.dumps(config))
    answer = json.loads(rexis("inspect", "stock", "--json"))
    assert answer["can_be_keyed"] is False
    assert "hidden_act" in answer["why"]


def test_what_is_not_there_is_said_so(rexis):
    with pytest.raises(ModelError, match="there is no folder nowhere"):
        rexis("inspect", "nowhere")


def test_a_keyed_trunk_is_not_keyed_again_but_rotated(rexis):
    rexis(*KEY)
    words = ("--out", "t2", "--ends", "e2", "--key-file", "k2", *NAMES)
    with pytest.raises(ModelError, match="is under the key") as caught:
        rexis("key", "trunk", *words, "--stem-layers", 0)
    assert "rotate" in caught.value.hint()


def test_a_key_file_serves_once(rexis):
    rexis(*KEY)
    with pytest.raises(ModelError, match="not used again"):
        rexis(*KEY)


@pytest.mark.parametrize("command", ["key", "rotate"])
def test_without_a_place_for_the_key_nothing_is_keyed(command, rexis, tmp_path):
    """A trunk whose key was lost is minutes of work that nobody can open."""
    (tmp_path / "file").write_text("")
    if command == "key":
        words = [*KEY[:7], "file/k", *NAMES]
    else:
        rexis(*KEY)
        words = [*ROTATE, "--session", "two", "--new-key-file", "file/k"]
    there = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ModelError, match="cannot make the folder of file/k") as caught:
        rexis(*words)
    assert "may write to" in caught.value.hint()
    assert sorted(path.name for path in tmp_path.iterdir()) == there


@pytest.mark.parametrize("command", ["key", "rotate"])
def test_a_key_that_cannot_be_kept_leaves_no_trunk(
    command, rexis, tmp_path, monkeypatch
):
    """A disk may fill up behind the model."""
    if command == "rotate":
        rexis(*KEY)

    flushed = os.fsync

    def full(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").readlink().name in {"k", "k2"}:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flushed(descriptor)

    there = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.setattr(os, "fsync", full)
    words = {"key": KEY, "rotate": (*ROTATE, "--session", "two")}
    with pytest.raises(ModelError, match=r"cannot write k2?: No space left") as caught:
        rexis(*words[command])
    assert "room" in caught.value.hint()
    assert sorted(path.name for path in tmp_path.iterdir()) == there


def test_a_key_goes_into_a_folder_of_its_own_that_others_cannot_read(rexis, tmp_path):
    rexis(*KEY[:7], "keys/k", *NAMES)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert json.loads(rexis("inspect", "keys/k", "--json"))["kind"] == "key"


def test_a_person_is_told_of_dropout_that_is_left_out(rexis, tmp_path):
    path = tmp_path / "stock" / "config.json"
    assert "dropout left out: none" in rexis("inspect", "stock")
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"attention_dropout": 0.1})
    )
    for words in (("inspect", "stock"), KEY):
        assert "dropout left out: attention_dropout = 0.1" in rexis(*words)
    assert json.loads((tmp_path / "trunk/config.json").read_text())[
        "attention_dropout"
    ] == 0.0  # fmt: skip
    rexis(*UNKEY)
    home = json.loads((tmp_path / "home/config.json").read_text())
    assert home["attention_dropout"] == 0.1


def test_the_passphrase_is_needed(rexis, tmp_path):
    rexis(*KEY)
    (tmp_path / "passphrase").write_text("something else")
    with pytest.raises(ModelError, match="passphrase does not open"):
        rexis(*UNKEY)
    assert not (tmp_path / "home").exists()


def test_a_session_without_a_name_is_refused(rexis):
    with pytest.raises(ModelError, match="session is ''"):
        rexis(*KEY[:-1], "")
