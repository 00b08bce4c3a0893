"""`rexis smode tune` as somebody types it: a small checkpoint, a table, two hosts."""

import csv
import json
import random
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
)

from ee import stock
from node.smode import tune
from node.smode.local import host_process
from node.smode.tune import Job, main

pytestmark = pytest.mark.slow
WORDS = [*"abcdefghij"]


@pytest.fixture
def folder(tmp_path):
    """A checkpoint with a tokenizer, and a table whose label follows from two words."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=12,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(tmp_path / "base")
    numbers = {word: i for i, word in enumerate(["[UNK]", "[PAD]", *WORDS])}
    cutter = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    cutter.pre_tokenizer = pre_tokenizers.Whitespace()
    cutter.save(str(tmp_path / "base/tokenizer.json"))
    draw = random.Random(0)
    with (tmp_path / "notes.csv").open("w") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["id", "note", "outcome"])
        for number in range(60):
            ill = number % 2
            pool = WORDS[:2] * (4 * ill) + WORDS
            note = " ".join(draw.choices(pool, k=draw.randint(5, 9)))
            writer.writerow([number, note, ("well", "ill")[ill]])
    return tmp_path


def rexis(folder, *words, base="base"):
    columns = ("--text", "note", "--label", "outcome", "--id", "id")
    args = [str(folder / base), str(folder / "notes.csv"), *columns, *words]
    return CliRunner().invoke(main, [str(word) for word in args])


def test_two_hosts_that_were_started_elsewhere_fine_tune_on_a_table(folder):
    out = folder / "learnt.safetensors"
    with (
        host_process(folder / "a") as one,
        host_process(folder / "b") as two,
    ):
        hosts = ("--host", one, "--host", two)
        done = rexis(folder, *hosts, "--steps", 60, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["relative_error"] < 1e-4
    assert found["leak_bits_in_all"] == 0  # the ring tells nothing
    assert abs(found["forward_traffic_ratio"] - 1) < 0.1
    assert abs(found["step_traffic_ratio"] - 1) < 0.1
    assert found["held_out_loss"][1] < 0.9 * found["held_out_loss"][0]
    assert found["classes"] == ["ill", "well"]
    learnt = load_file(out)
    assert learnt["head.weight"].shape == (2, 32)
    assert any(name.endswith(".up") and t.any() for name, t in learnt.items())
    # Merged as docs/attacks.md says, a stock model in the clear answers as the hosts did.
    job = Job(
        folder / "base", folder / "notes.csv", "note", "outcome", "id",
        pad="ring64", steps=0, batch=8, rank=4, tokens=32, hosts=(), out=None,
    )  # fmt: skip
    task = tune._Task(job)
    model = BertModel.from_pretrained(folder / "base", add_pooling_layer=False).eval()
    named = dict(model.named_parameters())
    for name in learnt:
        if name.endswith(".up"):
            layer = name.removesuffix(".up")
            named[f"{layer}.weight"].data += learnt[name] @ learnt[f"{layer}.down"]
    rows, truth = task.rows.part(task.held), torch.from_numpy(task.labels[task.held])
    weight = torch.from_numpy(rows.mask).unsqueeze(-1).float()
    with torch.no_grad():
        pooled = (tune._hidden(model, rows) * weight).sum(1) / weight.sum(1)
    scores = pooled @ learnt["head.weight"].T + learnt["head.bias"]
    loss = float(torch.nn.functional.cross_entropy(scores, truth))
    assert loss == pytest.approx(found["held_out_loss"][1], rel=1e-3)


def test_a_gaussian_pad_prints_what_it_may_tell(folder):
    done = rexis(folder, "--steps", 1, "--pad", "gauss64/2^20", "--json")
    found = json.loads(done.stdout)
    assert 0 < found["leak_bits_per_value"] < 1e-12
    assert found["leak_bits_in_all"] > found["leak_bits_per_value"]
    assert found["relative_error"] < 1e-3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--host", "a"), "1 hosts, needs two"),
        (("--host", "a", "--host", "a"), "1 hosts, needs two"),
        (("--host", "a", "--host", "b"), "no S-mode host"),
        (("--label", "none"), "no column 'none'"),
        (("--pad", "xor"), "xor"),
    ],
)
def test_what_cannot_be_is_refused_with_the_value(folder, words, said):
    done = rexis(folder, "--steps", 1, *words)
    assert done.exit_code == 1, done.output
    assert said in done.stderr


def test_a_narrow_checkpoint_with_heads_of_its_own_size_is_widened_and_counted(folder):
    config = LlamaConfig(
        vocab_size=12, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=64, max_position_embeddings=32,
        head_dim=12, dtype="bfloat16",
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaModel(config).bfloat16().save_pretrained(folder / "llama")
    (folder / "llama/tokenizer.json").write_bytes(
        (folder / "base/tokenizer.json").read_bytes()
    )
    done = rexis(folder, "--steps", 0, "--json", base="llama")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["relative_error"] < 1e-4
    assert found["forward_traffic_ratio"] == pytest.approx(1, abs=0.1)


def test_an_architecture_without_a_plan_is_refused_by_name(folder):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=12, n_embd=16, n_layer=1, n_head=2)
    GPT2Model(config).save_pretrained(folder / "gpt2")
    (folder / "gpt2/tokenizer.json").write_bytes(
        (folder / "base/tokenizer.json").read_bytes()
    )
    done = rexis(folder, base="gpt2")
    assert done.exit_code == 1
    assert "no S-mode plan for 'gpt2'" in done.stderr


def test_held_out_texts_are_scored_in_parts_and_as_if_at_once(folder, monkeypatch):
    """A host's memory and a frame's limit are for so many rows, a table for as many as it has."""
    job = Job(
        folder / "base", folder / "notes.csv", "note", "outcome", "id",
        pad="ring64", steps=0, batch=8, rank=2, tokens=16, hosts=(), out=None,
    )  # fmt: skip
    task = tune._Task(job)
    model = BertModel.from_pretrained(folder / "base", add_pooling_layer=False).eval()
    clear = SimpleNamespace(model=model, adapt=lambda **_: [])
    session = SimpleNamespace(run=lambda work: work())
    learner = tune._Learner(session, clear, task, job)
    seen, hidden = [], tune._hidden

    def watched(model, rows):
        seen.append(len(rows))
        return hidden(model, rows)

    monkeypatch.setattr(tune, "_hidden", watched)
    whole = learner.score()
    held = int(task.held.sum())
    assert seen == [held]
    monkeypatch.setattr(stock, "AT_ONCE", 5)
    assert learner.score() == pytest.approx(whole, rel=1e-5)
    assert seen[1:] == [5] * (held // 5) + [held % 5] * (held % 5 > 0)
    assert len(seen) > 3
