"""Checkpoints on disk: cut, keyed, loaded by the stock library alone, brought home."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    EsmConfig,
    EsmForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from ee.arch.sites import Options, Strength, Turn
from ee.canonical import Cut
from ee.ledger import Context
from ee.split import build_gain, build_stem
from ee.testing import relative_error
from node.bench import keying
from node.errors import ModelError
from node.model import checkpoint, convert
from node.model.tensor_file import Layout, TensorFile, TensorWriter

pytestmark = pytest.mark.slow

SECRET = bytes(range(32))
CONTEXT = Context("north", "gpu-1", "run-1")
SIZES = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4}


def _llama():
    return LlamaForCausalLM(
        LlamaConfig(**SIZES, vocab_size=60, num_key_value_heads=2, pad_token_id=0)
    )


def _gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4))


def _esm():
    return EsmForMaskedLM(
        EsmConfig(
            **SIZES,
            vocab_size=60,
            position_embedding_type="rotary",
            pad_token_id=1,
            mask_token_id=4,
            token_dropout=True,
        )
    )


def _vit():
    return ViTForImageClassification(ViTConfig(**SIZES, image_size=8, patch_size=4))


def _bert():
    return BertForMaskedLM(BertConfig(**SIZES, vocab_size=60))


MAKERS = {"llama": _llama, "gpt2": _gpt2, "esm": _esm, "vit": _vit, "bert": _bert}
EACH = [
    pytest.param(name, marks=() if name in {"esm", "vit"} else pytest.mark.slow)
    for name in MAKERS
]
"""Fast: the two whose files have other names than their modules."""


def _model(name):
    torch.manual_seed(0)
    model = MAKERS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def _saved(name, folder: Path, **settings) -> tuple:
    model = _model(name)
    model.save_pretrained(folder, **settings)
    return model, folder


def _inputs(name):
    if name == "vit":
        return {"pixel_values": torch.randn(2, 3, 8, 8)}
    return {"input_ids": torch.randint(5, 60, (2, 7))}


def _key(source, tmp_path, **settings):
    trunk, ends = tmp_path / "trunk", tmp_path / "ends"
    made = convert.key(source, trunk, ends, secret=SECRET, context=CONTEXT, **settings)
    return made.key, trunk, ends


def _base(model):
    return getattr(model, type(model).base_model_prefix)


@pytest.mark.parametrize("name", EACH)
def test_a_keyed_folder_is_a_stock_checkpoint(name, tmp_path):
    model, source = _saved(name, tmp_path / "stock")
    key, trunk, ends = _key(source, tmp_path, stem_layers=1)
    loaded, report = AutoModel.from_pretrained(trunk, output_loading_info=True)
    assert not report["missing_keys"] | report["unexpected_keys"]
    cut = Cut(checkpoint.read_config(ends), 1)
    with TensorFile(ends / convert.ENDS) as file:
        rest = {cut.architecture.base_name(n): file.read(n) for n in file.slots}
    inputs = _inputs(name)
    with torch.no_grad():
        rows = key.enter(build_stem(cut, rest)(**inputs))
        found = cut.architecture.run(loaded.eval(), rows, None)
        found = build_gain(cut, rest)(key.leave(found))
        wanted = _base(model)(**inputs).last_hidden_state
    assert relative_error(found, wanted) <= 1e-5


def test_the_norm_a_post_norm_trunk_begins_with_comes_home_as_it_was_trained(tmp_path):
    _, source = _saved("bert", tmp_path / "stock")
    _, trunk, ends = _key(source, tmp_path, stem_layers=1)
    keyed = load_file(trunk / "model.safetensors")
    keyed["embeddings.LayerNorm.weight"] *= 2
    with checkpoint.Checkpoint(trunk) as before:
        marks = dict(before.metadata)
    save_file(keyed, trunk / "model.safetensors", marks)
    convert.unkey(trunk, ends, tmp_path / "home", secret=SECRET, context=CONTEXT)
    name = "bert.encoder.layer.0.output.LayerNorm.weight"
    whole, plain = (
        load_file(f / "model.safetensors")[name] for f in (tmp_path / "home", source)
    )
    torch.testing.assert_close(whole, 2 * plain)


@pytest.mark.parametrize("name", EACH)
def test_unkeying_gives_a_stock_model_with_the_stock_answer(name, tmp_path):
    model, source = _saved(name, tmp_path / "stock")
    _, trunk, ends = _key(source, tmp_path, stem_layers=1)
    out = tmp_path / "home"
    convert.unkey(trunk, ends, out, secret=SECRET, context=CONTEXT)
    back, report = type(model).from_pretrained(out, output_loading_info=True)
    assert not report["unexpected_keys"]
    inputs = _inputs(name)
    with torch.no_grad():
        found, wanted = back.eval()(**inputs).logits, model(**inputs).logits
    assert relative_error(found, wanted) <= 1e-5
    assert torch.equal(found.argmax(-1), wanted.argmax(-1))


PROGRAM = """
import sys
for name in ("ee", "node", "protocol"):
    sys.modules[name] = None  # an import of ours would fail
import torch
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1]).eval()
rows = torch.load(sys.argv[2])
with torch.no_grad():
    torch.save(model(inputs_embeds=rows).last_hidden_state, sys.argv[3])
"""


@pytest.mark.slow
def test_a_keyed_folder_runs_where_rexis_is_not_installed(tmp_path):
    _, source = _saved("llama", tmp_path / "stock")
    key, trunk, _ = _key(source, tmp_path)
    rows = torch.randn(2, 5, 32)
    torch.save(key.enter(rows), tmp_path / "rows")
    environment = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, trunk, tmp_path / "rows", tmp_path / "y"],
        check=True,
        cwd=tmp_path,
        env=environment | {"HF_HUB_OFFLINE": "1"},
    )
    found = key.leave(torch.load(tmp_path / "y"))
    with torch.no_grad():
        stock = AutoModel.from_pretrained(source).eval()
        wanted = stock(inputs_embeds=rows).last_hidden_state / stock.norm.weight
    assert relative_error(found, wanted) <= 1e-5


def test_shards_are_read_and_written(tmp_path):
    _, source = _saved("llama", tmp_path / "stock", max_shard_size="30KB")
    assert len(list(source.glob("*.safetensors"))) > 2
    _, trunk, ends = _key(source, tmp_path, shard_bytes=20_000)
    assert len(list(trunk.glob("*.safetensors"))) > 2
    assert AutoModel.from_pretrained(trunk).config.vocab_size == 1
    convert.unkey(trunk, ends, tmp_path / "home", secret=SECRET, context=CONTEXT)


def test_our_files_are_what_the_reference_reader_reads(tmp_path):
    tensors = {
        "a": torch.randn(3, 5),
        "b": torch.arange(4),
        "half": torch.randn(7).bfloat16(),
        "none": torch.zeros(0, 2),
    }
    layout = Layout.of(
        {n: (t.dtype, tuple(t.shape)) for n, t in tensors.items()}, {"k": "v"}
    )
    writer = TensorWriter(tmp_path / "x.safetensors", layout)
    for name in reversed(tensors):
        writer.write(name, tensors[name])
    writer.close()
    with safe_open(tmp_path / "x.safetensors", "pt") as reference:
        assert reference.metadata() == {"format": "pt", "k": "v"}
        for name, tensor in tensors.items():
            assert torch.equal(reference.get_tensor(name), tensor)
    with TensorFile(tmp_path / "x.safetensors") as own:
        for name, tensor in tensors.items():
            assert torch.equal(own.read(name), tensor)


def test_a_writer_misses_what_did_not_come(tmp_path):
    layout = Layout.of({"a": (torch.float32, (2,)), "b": (torch.float32, (2,))}, {})
    writer = TensorWriter(tmp_path / "x", layout)
    writer.write("a", torch.zeros(2))
    with pytest.raises(ModelError, match="came twice"):
        writer.write("a", torch.zeros(2))
    with pytest.raises(ModelError, match="lacks 1 tensors, first b"):
        writer.close()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "too short"),
        (b"\xff" * 8, "too long"),
        ((2).to_bytes(8, "little") + b"[]", "cannot be read"),
    ],
)
def test_a_damaged_file_is_refused(data, words, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=words):
        TensorFile(path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
        {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]},
        {"dtype": "F32", "shape": [2]},
    ],
)
def test_a_header_that_lies_is_refused(entry, tmp_path):
    text = json.dumps({"x": entry}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(ModelError, match=r"cannot be read|lies outside"):
        TensorFile(path)


def test_pickled_weights_and_custom_code_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match="pickled"):
        checkpoint.Checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {}}))
    with pytest.raises(ModelError, match="code that comes with"):
        checkpoint.read_config(tmp_path)


def test_an_index_may_not_lead_out_of_its_folder(tmp_path):
    table = {"weight_map": {"x": "../other.safetensors"}}
    (tmp_path / checkpoint.INDEX).write_text(json.dumps(table))
    with pytest.raises(ModelError, match="outside of its folder"):
        checkpoint.Checkpoint(tmp_path)


def test_nothing_is_overwritten_and_nothing_half_is_left(tmp_path):
    _, source = _saved("gpt2", tmp_path / "stock")
    _key(source, tmp_path)
    with pytest.raises(ModelError, match="exists already"):
        _key(source, tmp_path)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "n_layer": 3}))
    with pytest.raises(ModelError, match="lacks 4 matrices"):
        convert.key(
            source, tmp_path / "t2", tmp_path / "e2", secret=SECRET, context=CONTEXT
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ends", "stock", "trunk"]


@pytest.mark.parametrize(
    ("secret", "context"),
    [
        (bytes(32), CONTEXT),
        (SECRET, Context("north", "gpu-1", "run-2")),
        (SECRET, Context("south", "gpu-1", "run-1")),
    ],
)
def test_another_key_or_another_session_does_not_open(secret, context, tmp_path):
    _, source = _saved("bert", tmp_path / "stock")
    _, trunk, ends = _key(source, tmp_path)
    with pytest.raises(ModelError, match="is under the key"):
        convert.unkey(trunk, ends, tmp_path / "x", secret=secret, context=context)


def test_a_narrow_checkpoint_is_widened(tmp_path):
    model = _model("llama").bfloat16()
    model.save_pretrained(tmp_path / "stock")
    options = Options(Strength.GENERAL, Turn.HADAMARD)
    _, trunk, ends = _key(tmp_path / "stock", tmp_path, options=options)
    assert AutoModel.from_pretrained(trunk).dtype is torch.float32
    convert.unkey(
        trunk, ends, tmp_path / "home", secret=SECRET, context=CONTEXT, options=options
    )
    back = LlamaForCausalLM.from_pretrained(tmp_path / "home").eval()
    inputs = _inputs("llama")
    with torch.no_grad():
        wide = LlamaForCausalLM.from_pretrained(tmp_path / "stock", dtype="float32")
        found, wanted = back(**inputs).logits, wide.eval()(**inputs).logits
    assert relative_error(found, wanted) <= 1e-5


def test_early_names_of_a_vision_model_are_understood(tmp_path):
    """What the stock library saves still has the names of its earlier releases."""
    _, source = _saved("vit", tmp_path / "stock")
    with safe_open(source / "model.safetensors", "pt") as file:
        assert any("attention.attention.query" in name for name in file.keys())  # noqa: SIM118
    _key(source, tmp_path)


@pytest.mark.slow
def test_keying_holds_slices_and_not_the_checkpoint(tmp_path):
    """Growth beyond the loaded libraries is less than a file and a few matrices.

    The bound for a 4 GB checkpoint, twice the largest file and 1 GiB, would let all of this
    one be held.  Growth was seen to be 130 MB, whatever the size.
    """
    keying.make(tmp_path / "source", layers=6, width=1024)
    done = subprocess.run(
        [sys.executable, "-m", "node.bench.keying", tmp_path, "0", "hadamard"],
        check=True,
        capture_output=True,
        text=True,
    )
    report = json.loads(done.stdout)
    assert report["checkpoint_bytes"] > 300e6
    assert report["peak_bytes"] <= report["limit_bytes"]
    assert report["grown_bytes"] <= report["largest_file_bytes"] + (100 << 20)
