"""A stock model in a run: one vector, any key, the same update; nothing unknown is passed."""

import msgspec
import numpy as np
import pytest
import torch
from transformers import AutoModel

from ee import tuning
from ee.errors import EncryptionError, UnsupportedLayerError, UnsupportedModelError
from ee.hosted import HostedTrunk
from ee.hyper import TrainHyper
from ee.keys import Key
from ee.recipe import StockSpec
from ee.stock import Rows, StockModel, drawn_state
from ee.stock_config import PARAMETERS_AT_MOST, stock_config

SIZES = {
    "vocab_size": 24,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
CONFIGS = {
    "llama": {**SIZES, "num_key_value_heads": 2, "pad_token_id": 1},
    "qwen2": {**SIZES, "num_key_value_heads": 2, "pad_token_id": 1},
    "gpt2": {
        "vocab_size": 24,
        "n_embd": 32,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 64,
        "bos_token_id": 0,
        "eos_token_id": 2,
    },
    "biogpt": SIZES,
    "esm": {
        **SIZES,
        "position_embedding_type": "rotary",
        "pad_token_id": 1,
        "mask_token_id": 3,
    },
    "bert": SIZES,
}
HYPER = TrainHyper(steps=6, batch=16)


class LocalHost:
    """The worker's side without a wire."""

    def load(self, config, weights, adapters=None):
        self.weights = weights
        self._trunk = HostedTrunk(config, weights, adapters)

    def __getattr__(self, name):
        return getattr(self._trunk, name)

    def unload(self):
        pass


def spec_of(name, **changes):
    return StockSpec.from_dict(
        {
            "kind": "stock",
            "text": "sequence",
            "classes": ["no", "yes"],
            "config": {"model_type": name, **CONFIGS[name]},
            "letters": "ACDEFGHIKLMNPQRSTVWY",
            "rank": 4,
            **changes,
        }
    )


def made(name, **changes):
    spec = spec_of(name, **changes)
    config = stock_config(spec)
    return StockModel(spec, config, drawn_state(config, spec.seed))


def sequences(count=60):
    """Sequences of any length, and whether some letters are frequent in them."""
    draw = np.random.default_rng(0)
    ids = draw.integers(4, 24, (count, 20))
    mask = (np.arange(20) < draw.integers(12, 21, count)[:, None]).astype(np.int32)
    ids[mask == 0] = 1
    labels = ((ids < 8) & (mask > 0)).sum(1) >= 4
    return Rows(ids.astype(np.int64), mask), labels.astype(np.int64)


def trained(model, seed, state=None, hyper=HYPER, host=None):
    rows, labels = sequences()
    state = np.zeros(model.size, np.float32) if state is None else state
    host = LocalHost() if host is None else host
    return tuning.train_stock(
        model, state, rows, labels, hyper, host, seed, batch_seed=1
    )


@pytest.mark.parametrize("learns", ["adapters", "all"])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in {"llama", "bert"} else pytest.mark.slow)
        for name in CONFIGS
    ],
)
def test_an_update_is_the_same_under_every_key(name, learns):
    model = made(name, learns=learns)
    one, other = (trained(model, bytes([b]) * 32).delta for b in (1, 2))
    assert np.linalg.norm(one) > 0.05
    assert np.linalg.norm(one - other) <= 2e-3 * np.linalg.norm(one)
    # What the trunk learnt is in it, not only the ends.
    parts = {slot.name.partition(".")[0] for slot in model.slots}
    assert parts >= {"trunk", "head"}
    for slot in model.slots:
        if slot.name.startswith("trunk.") and slot.name.endswith(("lora_B", "weight")):
            assert one[slot.offset : slot.offset + slot.size].any(), slot.name


def test_a_key_other_than_the_trunks_brings_nothing_home(monkeypatch):
    model = made("llama", learns="all")
    right = trained(model, bytes(32)).delta
    wrong_key = Key(bytes([9]) * 32, model.plan)
    monkeypatch.setattr(
        Key, "unkey", lambda _, name, t: wrong_key._apply(name, t, inverse=True)
    )
    wrong = trained(model, bytes(32)).delta
    assert np.linalg.norm(wrong - right) > 10 * np.linalg.norm(right)


def test_a_host_is_not_given_the_canonical_trunk():
    model, host = made("llama", learns="all"), LocalHost()
    trained(model, bytes(32), host=host)
    for name in model.plan.keyed():
        plain = model.parts.trunk[name].numpy()
        assert np.linalg.norm(host.weights[name] - plain) > 0.5 * np.linalg.norm(plain)


@pytest.mark.parametrize("learns", ["adapters", "all"])
def test_answers_in_the_clear_are_those_training_sees(learns):
    """The loss of the first step is the loss of the state that training began with."""
    model = made("bert", learns=learns)
    rows, labels = sequences()
    state = trained(model, bytes(32), hyper=TrainHyper(steps=20, batch=60)).delta
    scores = torch.from_numpy(model.scores(state, rows))
    loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(labels))
    again = trained(model, bytes(32), state, TrainHyper(steps=1, batch=60))
    assert again.loss_first == pytest.approx(float(loss), rel=1e-4)
    start = model.scores(np.zeros(model.size, np.float32), rows)
    assert not start.any()  # the head begins at zero, so a loss of log 2 is chance
    assert float(loss) < 0.68


@pytest.mark.parametrize("learns", ["adapters", "all"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "esm"])
def test_the_whole_model_is_a_stock_model_with_the_same_answers(name, learns):
    model = made(name, learns=learns)
    rows, _ = sequences()
    state = 0.1 * np.random.default_rng(5).standard_normal(model.size)
    state = state.astype(np.float32)
    config, tensors = model.whole(state)
    stock = AutoModel.from_config(config).eval()
    missing, surplus = stock.load_state_dict(tensors, strict=False)
    assert not surplus
    made_anew = ("pooler.", "contact_head.", "rotary_embeddings.inv_freq")
    assert all(name.startswith(made_anew) for name in missing)
    ids, mask = torch.from_numpy(rows.ids), torch.from_numpy(rows.mask).long()
    head = model.tensors(state)
    with torch.no_grad():
        hidden = stock(input_ids=ids, attention_mask=mask).last_hidden_state
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        found = pooled @ head["head.weight"].T + head["head.bias"]
    np.testing.assert_allclose(found.numpy(), model.scores(state, rows), atol=1e-5)


def test_a_vector_becomes_tensors_and_a_vector_again():
    model = made("gpt2", learns="all")
    draw = np.random.default_rng(1)
    state = draw.standard_normal(model.size).astype(np.float32)
    first = model.tensors(np.zeros(model.size, np.float32))
    found = model.difference(model.tensors(state), first)
    np.testing.assert_allclose(found, state, atol=1e-6)
    with pytest.raises(EncryptionError, match="needs"):
        model.tensors(state[:-1])
    with pytest.raises(EncryptionError, match=r"head.bias is missing"):
        model.difference({n: t for n, t in first.items() if n != "head.bias"}, first)


def test_the_base_that_is_drawn_is_the_same_for_all_and_another_with_another_seed():
    config = stock_config(spec_of("llama"))
    one, same, other = (drawn_state(config, seed) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        (
            {"config": {"model_type": "mamba"}},
            UnsupportedModelError,
            "no keys .* mamba",
        ),
        ({"config": {"model_type": "nothing"}}, EncryptionError, "no stock conf"),
        (
            {"config": {"model_type": "bert", **SIZES, "hidden_act": "glu"}},
            UnsupportedLayerError,
            "hidden_act = 'glu'",
        ),
        ({"adapt": ["conv"]}, EncryptionError, "no layer that ends in 'conv'"),
        ({"stem_layers": 3}, EncryptionError, "3 blocks for the stem"),
        ({"rank": 40}, EncryptionError, "rank 40"),
    ],
)
def test_what_no_key_is_known_for_is_refused_by_name(changes, error, said):
    with pytest.raises(error, match=said):
        made("llama", **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": ["one"]}, "1 classes, need 2"),
        ({"letters": ""}, "without a checkpoint"),
        ({"letters": "AA"}, "name one twice"),
        ({"tokens": 1}, "tokens is 1, need 4"),
        ({"checkpoint": {"name": "a", "digest": "0" * 64}}, "one of the two"),
        ({"config": {}, "checkpoint": {"name": "../a", "digest": "0" * 64}}, "name is"),
        ({"config": {}, "checkpoint": {"name": "a", "digest": "12"}}, "digest is"),
        ({"learns": "nothing"}, "learns"),
        ({"optimiser": "adamw"}, "unknown field `optimiser`"),
    ],
)
def test_a_specification_that_cannot_be_is_refused_with_the_value(changes, said):
    with pytest.raises(EncryptionError, match=said):
        spec_of("llama", **changes)


SIZE_OF = {"gpt2": ("n_embd", "n_layer", "n_head", "n_positions", "n_inner")}
HOSTILE = (-1, 0, 1.5, float("nan"), float("inf"), "64", True, 1 << 40, 10**30, [8], {})


@pytest.mark.parametrize("name", CONFIGS)
def test_a_hostile_size_is_refused_by_its_name_and_before_anything_is_built(
    name, monkeypatch
):
    """Nothing here may reach a draw; a width of 2^40 would need the memory of a data centre."""
    monkeypatch.setattr(np.random, "Generator", None)
    usual = tuple(k for k in CONFIGS[name] if k != "position_embedding_type")
    named = SIZE_OF.get(name, tuple(k for k in usual if not k.endswith("_id")))
    for setting in (*named, "vocab_size"):
        for value in HOSTILE:
            config = {"model_type": name, **CONFIGS[name], setting: value}
            with pytest.raises(EncryptionError) as caught:
                stock_config(spec_of(name, config=config))
            if isinstance(value, int | float) and not isinstance(value, bool):
                said = str(caught.value)
                assert setting in said or "no stock configuration" in said, said
                assert str(value) in said or "no stock configuration" in said, said


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("llama", {"hidden_size": -32}, "hidden_size is -32, need 0 to 1048576"),
        (
            "llama",
            {"num_hidden_layers": 129},
            "num_hidden_layers is 129, need 0 to 128",
        ),
        ("qwen2", {"num_hidden_layers": 1 << 20}, "is 1048576, need 0 to 128"),
        (
            "llama",
            {"vocab_size": 1 << 20, "hidden_size": 2048},
            "has [0-9]{10} parameters",
        ),
        ("gpt2", {"n_positions": 1 << 18, "n_embd": 8192}, "has [0-9]+ parameters"),
        ("llama", {"rms_norm_eps": float("nan")}, "rms_norm_eps is nan, need 0 to"),
        ("llama", {"rms_norm_eps": "small"}, "no stock configuration|rms_norm_eps"),
        (
            "llama",
            {"rope_parameters": {"rope_theta": -1.0}},
            "rope_theta is -1.0, need",
        ),
        ("llama", {"rope_parameters": {"rope_type": "x" * 300}}, "has 300 characters"),
        ("llama", {"id2label": [[[[[0]]]]]}, "nested more than 4 deep"),
        ("llama", {"id2label": [0] * 5000}, "more than 4096 values"),
        ("llama", {"num_attention_heads": 5}, "no stock|heads"),
        ("bert", {"hidden_size": 33}, "no stock"),
    ],
)
def test_a_configuration_beyond_a_limit_is_refused_with_the_value(name, changes, said):
    config = {"model_type": name, **CONFIGS[name], **changes}
    with pytest.raises(EncryptionError, match=said):
        stock_config(spec_of(name, config=config))


def test_a_model_just_within_the_limits_is_believed(monkeypatch):
    config = stock_config(spec_of("llama"))
    assert config.hidden_size == 32
    monkeypatch.setattr("ee.stock_config.PARAMETERS_AT_MOST", 1000)
    with pytest.raises(EncryptionError, match="parameters, limit is 1000"):
        stock_config(spec_of("llama"))
    assert PARAMETERS_AT_MOST >= 10**9


def test_a_specification_survives_the_way_through_json():
    spec = spec_of("llama")
    assert StockSpec.from_dict(msgspec.json.decode(msgspec.json.encode(spec))) == spec
    assert spec.to_dict()["kind"] == "stock"
