"""The key commutes with the trunk and with Muon; AdamW is the control that does not."""

import numpy as np
import pytest
import torch

from ee.errors import EncryptionError, KeyMismatchError
from ee.hyper import TrainHyper
from ee.keys import TrunkKey, key_trunk, unkey_trunk
from ee.session import LocalTrunk, predict, train_local
from ee.spec import (
    Column,
    ModelSpec,
    initial_state,
    join,
    part,
    size,
    split,
    trunk_config,
)
from ee.table import final_norm, stem_tokens
from ee.trunk import Trunk

SPEC = ModelSpec(
    columns=(
        *(Column(f"n{i}", 0.5, 2.0) for i in range(4)),
        Column("c", levels=("a", "b", "c")),
    ),
    width=32,
    layers=2,
    heads=4,
    kv_heads=2,
    inner=48,
    seed=3,
)
SEED = bytes(range(32))


def _rows(dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(6, 6, 32)).astype(dtype)


def _weights(spec: ModelSpec = SPEC) -> dict:
    return part(split(spec, initial_state(spec)), "trunk")


def _records(count: int = 64) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    values = generator.normal(size=(count, 5))
    values[:, 4] = generator.integers(0, 3, count)
    values[generator.random((count, 5)) < 0.1] = np.nan
    labels = (np.nan_to_num(values[:, 0]) + generator.normal(size=count) > 0).astype(
        float
    )
    return values, labels


def test_a_keyed_trunk_computes_the_keyed_result():
    key, x = TrunkKey.generate(SEED, SPEC), _rows()
    plain = Trunk(trunk_config(SPEC), _weights()).forward(x, train=False)
    keyed = Trunk(trunk_config(SPEC), key_trunk(_weights(), key))
    back = key.leave(keyed.forward(key.enter(x), train=False))
    assert np.abs(back - plain).max() <= 1e-5 * np.abs(plain).max()


def test_a_wrong_key_gives_something_else_altogether():
    key, other = TrunkKey.generate(SEED, SPEC), TrunkKey.generate(bytes(32), SPEC)
    plain = Trunk(trunk_config(SPEC), _weights()).forward(_rows(), train=False)
    keyed = Trunk(trunk_config(SPEC), key_trunk(_weights(), key))
    back = other.leave(keyed.forward(key.enter(_rows()), train=False))
    assert np.linalg.norm(back - plain) > np.linalg.norm(plain)


def test_unkeying_returns_the_weights():
    key = TrunkKey.generate(SEED, SPEC)
    home = unkey_trunk(key_trunk(_weights(), key), key)
    for name, weight in _weights().items():
        np.testing.assert_allclose(home[name], weight, atol=1e-6)


def test_every_keyed_matrix_differs_from_the_plain_one():
    keyed = key_trunk(_weights(), TrunkKey.generate(SEED, SPEC))
    for name, weight in _weights().items():
        assert np.linalg.norm(keyed[name] - weight) > 0.5 * np.linalg.norm(weight), name


def test_a_layer_without_a_known_key_is_refused_by_name():
    odd = {"layers.0.self_attn.rotary.weight": np.zeros((4, 4), np.float32)}
    with pytest.raises(EncryptionError, match=r"layers\.0\.self_attn\.rotary"):
        key_trunk(odd, TrunkKey.generate(SEED, SPEC))


def test_a_key_for_another_shape_is_refused():
    with pytest.raises(KeyMismatchError, match="32"):
        wide = {"layers.0.mlp.up_proj.weight": np.zeros((48, 16), np.float32)}
        key_trunk(wide, TrunkKey.generate(SEED, SPEC))


def _drift(optimiser: str, key: TrunkKey | None, dtype: type = np.float32) -> dict:
    """Weights after 30 steps towards a fixed target, brought home."""
    weights = {n: w.astype(dtype) for n, w in _weights().items()}
    generator = np.random.default_rng(2)
    x, target = _rows(dtype), generator.normal(size=(6, 6, 32)).astype(dtype)
    trunk = Trunk(
        trunk_config(SPEC), weights if key is None else key_trunk(weights, key)
    )
    adam = torch.optim.AdamW(trunk._named.values(), lr=0.01, weight_decay=0.1)
    for _ in range(30):
        y = trunk.forward(x if key is None else key.enter(x), train=True)
        plain = y if key is None else key.leave(y)
        gradient = (plain - target) / plain.size
        trunk.backward(gradient if key is None else key.enter(gradient))
        if optimiser == "muon":
            trunk.step(0.01, {"momentum": 0.9, "decay": 0.1, "clip": 1.0})
        else:
            adam.step()
            adam.zero_grad()
    out = trunk.export()
    return out if key is None else unkey_trunk(out, key)


def _distance(left: dict, right: dict) -> float:
    over = sum(np.sum((left[n].astype(float) - right[n]) ** 2) for n in left)
    return float((over / sum(np.sum(right[n].astype(float) ** 2) for n in left)) ** 0.5)


@pytest.mark.slow
def test_muon_trains_a_keyed_trunk_as_it_trains_the_plain_one():
    key = TrunkKey.generate(SEED, SPEC)
    plain = _drift("muon", None)
    moved = _distance(plain, _weights())
    rounding = _distance(plain, _drift("muon", None, np.float64))
    assert moved > 0.05  # the steps did something
    assert _distance(_drift("muon", key), plain) <= 3 * rounding + 1e-6


@pytest.mark.slow
def test_adamw_does_not_commute_with_a_dense_key():
    key = TrunkKey.generate(SEED, SPEC)
    plain = _drift("adamw", None)
    assert _distance(_drift("adamw", key), plain) > 0.05


@pytest.mark.slow
def test_training_lowers_the_loss_and_prediction_follows():
    values, labels = _records()
    hyper = TrainHyper(steps=60, batch=32, trunk_rate=0.02, ends_rate=0.01)
    state = initial_state(SPEC)
    result = train_local(
        SPEC, state, values, labels, hyper, LocalTrunk(), SEED, batch_seed=5
    )
    assert result.loss_last < 0.8 * result.loss_first
    scores = predict(SPEC, state + result.delta, values)
    assert scores[labels > 0].mean() > scores[labels < 1].mean() + 0.5


def test_training_under_two_keys_gives_the_same_update():
    values, labels = _records()
    hyper, state = TrainHyper(steps=10), initial_state(SPEC)
    one, two = (
        train_local(
            SPEC, state, values, labels, hyper, LocalTrunk(), seed, batch_seed=5
        ).delta
        for seed in (SEED, bytes(32))
    )
    assert np.linalg.norm(one - two) <= 1e-3 * np.linalg.norm(one)


def test_the_stem_in_numpy_is_the_stem_in_torch():
    from ee.session import _Ends

    values, labels = _records()
    arrays = split(SPEC, initial_state(SPEC))
    ends = _Ends(SPEC, arrays, values, labels, TrainHyper())
    there = ends.rows(np.arange(len(values)))
    here = stem_tokens(SPEC, part(arrays, "stem"), values)
    np.testing.assert_allclose(here, there, atol=1e-6)


def test_the_final_norm_is_idempotent():
    x = _rows()
    once = final_norm(SPEC, x)
    np.testing.assert_allclose(final_norm(SPEC, once), once, atol=1e-5)


def test_split_and_join_are_inverse_and_name_what_is_missing():
    state = initial_state(SPEC)
    arrays = split(SPEC, state)
    np.testing.assert_array_equal(join(SPEC, arrays), state)
    del arrays["stem.summary"]
    with pytest.raises(EncryptionError, match=r"stem\.summary is missing"):
        join(SPEC, arrays)
    with pytest.raises(EncryptionError, match=str(size(SPEC))):
        split(SPEC, state[:-1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 30}, "heads need an even size"),
        ({"layers": 0}, "layers is 0"),
        ({"kv_heads": 3}, "whole groups"),
        ({"columns": ()}, "0 columns"),
    ],
)
def test_a_specification_that_does_not_fit_names_the_value(change, words):
    with pytest.raises(EncryptionError, match=words):
        ModelSpec.from_dict({**SPEC.to_dict(), **change})
