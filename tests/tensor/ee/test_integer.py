"""Integer trunks: made from keyed floats, written as bytes, named by a root, replayed."""

import contextlib
import dataclasses
import hashlib
import struct

import numpy as np
import pytest

from ee import integer
from ee.integer import IntegerModelError, MalformedTrunkError, arith, bounds, ops, spec
from ee.integer import known as drawn
from ee.integer.agreement import check_agreement
from ee.integer.codec import layer_root, layer_size
from ee.keys import TrunkKey, key_trunk
from ee.spec import Column, ModelSpec, initial_state, part, split
from protocol import merkle

SPEC = ModelSpec(
    columns=tuple(Column(f"n{i}") for i in range(5)),
    width=32,
    layers=2,
    heads=4,
    kv_heads=2,
    inner=48,
    seed=3,
)
CONFIG = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
}


def weights():
    return part(split(SPEC, initial_state(SPEC)), "trunk")


def quantised(state=None, config=CONFIG, **options):
    options = {"tokens": SPEC.tokens, **options}
    return integer.quantise(weights() if state is None else state, config, **options)


@pytest.fixture(scope="module")
def trunk():
    return drawn.drawn_trunk(causal=True)


@pytest.fixture(scope="module")
def rows(trunk):
    return drawn.drawn_rows(trunk.config)


def float_trunk(state, x):
    """The same block in float64 numpy, for the size of the rounding error."""
    dim, groups = SPEC.head_dim, SPEC.heads // SPEC.kv_heads
    angle = np.arange(x.shape[1])[:, None] / 10_000.0 ** (np.arange(dim // 2) * 2 / dim)
    cos, sin = np.cos(angle), np.sin(angle)
    mask = np.where(np.tri(x.shape[1], dtype=bool), 0.0, -np.inf)

    def norm(y):
        return y / np.sqrt((y * y).mean(-1, keepdims=True) + 1e-6)

    def heads(y, count, repeat, *, turn):
        y = y.reshape(*y.shape[:2], count, dim).swapaxes(1, 2)
        if turn:
            u, w = y[..., : dim // 2], y[..., dim // 2 :]
            y = np.concatenate([u * cos - w * sin, w * cos + u * sin], -1)
        return np.repeat(y, repeat, axis=1)

    for index in range(SPEC.layers):
        w = {
            name.split(".")[3].removesuffix("_proj"): value.astype(np.float64)
            for name, value in state.items()
            if name.startswith(f"layers.{index}.")
        }
        y = norm(x)
        q = heads(y @ w["q"].T, SPEC.heads, 1, turn=True)
        k = heads(y @ w["k"].T, SPEC.kv_heads, groups, turn=True)
        v = heads(y @ w["v"].T, SPEC.kv_heads, groups, turn=False)
        scores = np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(dim) + mask)
        mixed = (scores / scores.sum(-1, keepdims=True)) @ v
        x = x + mixed.swapaxes(1, 2).reshape(*x.shape[:2], -1) @ w["o"].T
        y = norm(x)
        gate = y @ w["gate"].T
        x = x + (gate / (1 + np.exp(-gate)) * (y @ w["up"].T)) @ w["down"].T
    return x


def test_a_quantised_trunk_stays_near_the_float_trunk():
    x = np.random.default_rng(5).normal(size=(4, 6, 32))
    made = integer.decode_rows(quantised().forward(integer.encode_rows(x)).output)
    wanted = float_trunk(weights(), x)
    change = wanted - x
    assert np.linalg.norm(made - wanted) < 0.03 * np.linalg.norm(change)


def test_a_keyed_trunk_gives_the_keyed_answer():
    key = TrunkKey.generate(bytes(range(32)), SPEC)
    x = np.random.default_rng(5).normal(size=(4, 6, 32))
    keyed = quantised(key_trunk(weights(), key))
    rows = integer.encode_rows(key.enter(x))
    back = key.leave(integer.decode_rows(keyed.forward(rows).output))
    wanted = float_trunk(weights(), x)
    assert np.linalg.norm(back - wanted) < 0.05 * np.linalg.norm(wanted - x)
    other = TrunkKey.generate(bytes(32), SPEC)
    wrong = other.leave(integer.decode_rows(keyed.forward(rows).output))
    assert np.linalg.norm(wrong - wanted) > 0.5 * np.linalg.norm(wanted)


def test_norm_gains_are_folded_in():
    gains = np.linspace(0.5, 2.0, 32)
    state = weights()
    folded = dict(state)
    for index in range(2):
        state[f"layers.{index}.input_layernorm.weight"] = gains
        for name in ("q", "k", "v"):
            full = f"layers.{index}.self_attn.{name}_proj.weight"
            folded[full] = state[full].astype(np.float64) * gains
    assert integer.encode(quantised(state)) == integer.encode(quantised(folded))


def test_a_sequence_does_not_know_its_batch(trunk, rows):
    together = trunk.forward(rows).output
    for index in range(len(rows)):
        alone = trunk.forward(rows[index : index + 1]).output
        np.testing.assert_array_equal(alone[0], together[index])


def test_attention_in_blocks_of_heads_moves_no_bit(trunk, rows, monkeypatch):
    whole = trunk.forward(rows).output
    monkeypatch.setattr("ee.integer.ops.SCORES_AT_ONCE", 1)
    monkeypatch.setattr("ee.integer.ops.ROWS_AT_ONCE", 2)
    np.testing.assert_array_equal(trunk.forward(rows).output, whole)


def test_a_causal_trunk_does_not_look_ahead_and_an_encoder_does(rows):
    for causal in (True, False):
        trunk = drawn.drawn_trunk(causal=causal)
        changed = rows.copy()
        changed[:, -1] += 1000 * np.sign(-changed[:, -1])
        same = (
            trunk.forward(rows).output[:, :-1] == trunk.forward(changed).output[:, :-1]
        )
        assert bool(same.all()) == causal


def test_a_forward_can_begin_at_any_layer(trunk, rows):
    whole = trunk.forward(rows)
    later = trunk.forward(whole.boundaries[1], start=1)
    np.testing.assert_array_equal(later.output, whole.output)
    assert len(later.boundaries) == 2


def test_one_layer_replays_from_its_slice(trunk, rows):
    trace = trunk.forward(rows)
    for index in range(2):
        piece = integer.decode_slice(integer.encode_slice(integer.cut(trunk, index)))
        assert piece.model_root == integer.model_root(trunk)
        np.testing.assert_array_equal(
            piece.replay(trace.boundaries[index]), trace.boundaries[index + 1]
        )


def test_bytes_are_canonical_and_carry_everything(trunk, rows):
    data = integer.encode(trunk)
    back = integer.decode(data)
    assert integer.encode(back) == data
    assert back.config == trunk.config
    assert integer.model_root(back) == integer.model_root(trunk)
    np.testing.assert_array_equal(back.forward(rows).output, trunk.forward(rows).output)
    assert len(data) == 22 + 32 + 52 + 2 * 2 * 7 * 3 + 2 * layer_size(trunk.config)


def test_every_altered_byte_is_refused_or_changes_the_root(trunk):
    data, root = integer.encode(trunk), integer.model_root(trunk)
    generator = np.random.default_rng(7)
    head = 22 + 32 + 52 + 84
    places = [*range(head), *generator.integers(head, len(data), 300).tolist()]
    for place in places:
        altered = bytearray(data)
        altered[place] ^= 1 << int(generator.integers(8))
        try:
            assert integer.model_root(integer.decode(bytes(altered))) != root
        except MalformedTrunkError:
            continue


@pytest.mark.parametrize(
    "place", ["magic", "spec", "numbers", "index", "roots", "layer"]
)
def test_an_altered_slice_is_refused_or_names_another_model(trunk, place):
    data = bytearray(integer.encode_slice(integer.cut(trunk, 1)))
    head = 22 + 32 + 52 + 84
    at = {"magic": 3, "spec": 30, "numbers": 100, "index": head, "roots": head + 4}
    data[at.get(place, head + 4 + 64 + 5)] ^= 1
    with contextlib.suppress(MalformedTrunkError):
        assert integer.decode_slice(bytes(data)).model_root != integer.model_root(trunk)
    if place in {"index", "layer"}:
        with pytest.raises(MalformedTrunkError, match="root"):
            integer.decode_slice(bytes(data))


@pytest.mark.parametrize("cut", [0, 10, 40, 80, 150, 2000, -1])
def test_bytes_that_end_early_or_late_are_refused(trunk, cut):
    data = integer.encode(trunk)
    with pytest.raises(MalformedTrunkError):
        integer.decode(data[:cut])
    with pytest.raises(MalformedTrunkError, match="need"):
        integer.decode(data + b"\x00")


def test_a_header_that_claims_a_giant_allocates_nothing(trunk):
    data = bytearray(integer.encode(trunk))
    struct.pack_into("<I", data, 22 + 32, 1024)  # layers
    struct.pack_into("<I", data, 22 + 36, 16_384)  # width
    with pytest.raises(MalformedTrunkError, match="follow the header"):
        integer.decode(bytes(data))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("layers", 3, "2 layers, its header says 3"),
        ("heads", 1025, "heads is 1025, must be 1 to 1024"),
        ("kv_heads", 3, "do not divide"),
        ("tokens", 8, "cos table"),
        ("width", 25, "q is int8"),
        ("norm_bias", 0, "norm_bias is 0"),
    ],
)
def test_a_trunk_outside_the_bounds_is_not_encoded(trunk, field, value, message):
    config = dataclasses.replace(trunk.config, **{field: value})
    header = dataclasses.replace(trunk.header, config=config)
    with pytest.raises(IntegerModelError, match=message):
        integer.encode(integer.IntegerTrunk(header, trunk.layers))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": np.full((24, 24), 64, np.int8)}, "q weight holds 64"),
        ({"multiplier": np.full(24, -1, np.int32)}, "q multiplier holds -1"),
        ({"multiplier": np.full(24, 1 << 23, np.int32)}, "q multiplier holds 8388608"),
        ({"shift": 128}, "q shift is 128"),
        ({"weight": np.zeros((24, 24), np.int16)}, "needs int8"),
    ],
)
def test_a_matrix_outside_the_bounds_is_not_encoded(trunk, change, message):
    first = trunk.layers[0]
    bad = dataclasses.replace(first, q=dataclasses.replace(first.q, **change))
    layers = (bad, *trunk.layers[1:])
    with pytest.raises(IntegerModelError, match=message):
        integer.encode(integer.IntegerTrunk(trunk.header, layers))


def test_the_bounds_keep_every_intermediate_exact():
    limits = bounds.LIMITS
    assert limits["width"] * bounds.spec.RESIDUAL_LIMIT**2 + limits["norm_bias"] < 2**62
    assert 127 * 127 * limits["head_dim"] < 2**24
    assert 127 * 127 * limits["head_dim"] * limits["score_multiplier"] < 2**52
    assert 2 * bounds.spec.EXP_TOP * limits["tokens"] * 127 * 2**17 < 2**52
    for inputs in (1, 768, 65_536, limits["heads"] * limits["head_dim"]):
        for wide, top in ((True, 8192), (False, 127)):
            most = bounds.multiplier_limit(inputs, wide=wide)
            assert most * inputs * 63 * top < 2**52


def test_the_layer_root_is_the_tree_of_rfc_9162(trunk):
    leaves = []
    for tag, matrix in enumerate(trunk.layers[0].matrices()):
        for row, channel in enumerate(matrix.weight):
            place = struct.pack("<BBII", tag, matrix.shift, row, len(channel))
            scale = struct.pack("<i", matrix.multiplier[row])
            leaves.append(place + scale + channel.tobytes())
    assert layer_root(trunk.layers[0]) == merkle.root(leaves)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope of type 'yarn'"),
        ({"num_attention_heads": None}, "not the configuration of a Llama"),
        ({"num_key_value_heads": 3}, "do not divide"),
        ({"intermediate_size": 0}, "inner is 0"),
    ],
)
def test_a_configuration_the_op_spec_does_not_cover_is_refused(change, message):
    with pytest.raises(IntegerModelError, match=message):
        quantised(config={**CONFIG, **change})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layers.0.self_attn.q_proj.bias", np.zeros(32), "no place for"),
        ("layers.7.mlp.up_proj.weight", np.zeros((48, 32)), "no place for"),
        ("layers.0.mlp.up_proj.weight", np.zeros((40, 32)), "needs"),
        ("layers.0.mlp.up_proj.weight", np.full((48, 32), np.nan), "not finite"),
        ("layers.0.mlp.up_proj.weight", np.full((48, 32), 1e30), "too large"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_by_name(name, value, message):
    with pytest.raises(IntegerModelError, match=message):
        quantised({**weights(), name: value})


def test_a_missing_matrix_is_named():
    state = weights()
    del state["layers.1.mlp.down_proj.weight"]
    with pytest.raises(IntegerModelError, match=r"lacks layers\.1\.mlp\.down_proj"):
        quantised(state)


def test_a_channel_of_zeros_stays_zero():
    state = weights()
    state["layers.0.mlp.up_proj.weight"] = np.zeros((48, 32), np.float32)
    assert not quantised(state).layers[0].up.weight.any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -2048.1, 1e30])
def test_rows_that_do_not_fit_are_refused(value):
    with pytest.raises(IntegerModelError, match="within 2048"):
        integer.encode_rows(np.full((1, 1, 4), value))


def test_rows_pack_into_three_bytes_and_back():
    top = (1 << 23) - 1
    rows = np.array([[[0, 1, -1, top], [-top, 255, -256, 65_536]]], dtype=np.int32)
    data = integer.pack_rows(rows)
    assert len(data) == 24
    assert data[3:9] == b"\x01\x00\x00\xff\xff\xff"
    np.testing.assert_array_equal(integer.unpack_rows(data, rows.shape), rows)
    with pytest.raises(IntegerModelError, match="23 bytes"):
        integer.unpack_rows(data[:-1], rows.shape)
    with pytest.raises(IntegerModelError, match="beyond"):
        integer.unpack_rows(b"\x00\x00\x80", (1, 1, 1))
    with pytest.raises(IntegerModelError, match="beyond"):
        integer.pack_rows(rows - 2)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((1, 2, 24), np.int64), "int64"),
        (np.zeros((2, 24), np.int32), "2 axes"),
        (np.zeros((1, 2, 23), np.int32), "23 wide"),
        (np.zeros((1, 8, 24), np.int32), "of 8 tokens"),
        (np.zeros((0, 2, 24), np.int32), "0 sequences"),
        (np.full((1, 1, 24), 1 << 23, np.int32), "beyond 8388607"),
        (np.full((1, 1, 24), -(1 << 31), np.int32), "beyond 8388607"),
    ],
)
def test_rows_a_trunk_cannot_take_are_refused(trunk, bad, message):
    with pytest.raises(IntegerModelError, match=message):
        trunk.forward(bad)


def test_a_layer_that_is_not_there_is_refused(trunk, rows):
    with pytest.raises(IntegerModelError, match="layer 2 of a trunk of 2"):
        trunk.replay_layer(2, rows)
    with pytest.raises(IntegerModelError, match="layer -1"):
        integer.cut(trunk, -1)


def test_two_releases_of_one_state_have_different_roots():
    roots = {
        integer.model_root(
            quantised(key_trunk(weights(), TrunkKey.generate(seed, SPEC)))
        )
        for seed in (bytes(32), bytes(range(32)))
    }
    assert len(roots) == 2
    assert hashlib.sha256().digest() not in roots


@pytest.mark.parametrize("steps", [[7], [1] * 7, [3, 1, 2, 1], [5, 2]])
def test_rows_decoded_one_by_one_are_the_rows_of_the_whole(trunk, rows, steps):
    whole, cache = trunk.forward(rows), integer.Cache()
    done = 0
    for count in steps:
        part = trunk.extend(rows[:, done : done + count], cache)
        for found, wanted in zip(part.boundaries, whole.boundaries, strict=True):
            np.testing.assert_array_equal(found, wanted[:, done : done + count])
        done += count
        assert cache.tokens == done
    with pytest.raises(IntegerModelError, match="of 8 tokens"):
        trunk.extend(rows[:, :1], cache)


def test_a_cache_is_of_one_trunk_and_one_batch(trunk, rows):
    cache = integer.Cache()
    trunk.extend(rows[:, :2], cache)
    with pytest.raises(IntegerModelError, match="3 sequences of one trunk, not of 1"):
        trunk.extend(rows[:1, 2:3], cache)
    other = drawn.drawn_trunk(causal=True)
    with pytest.raises(IntegerModelError, match="of another"):
        other.extend(rows[:, 2:3], cache)
    with pytest.raises(IntegerModelError, match="keeps no cache"):
        drawn.drawn_trunk(causal=False).extend(rows, integer.Cache())


def test_a_trunk_agrees_with_the_weights_it_was_made_of_and_their_noise():
    key = TrunkKey.generate(bytes(range(32)), SPEC)
    keyed = key_trunk(weights(), key)
    trunk = quantised(keyed)
    check_agreement(trunk, keyed, CONFIG, tokens=SPEC.tokens)
    generator = np.random.default_rng(31)
    # Another machine's keying: the last bit of a float32 either way.
    noisy = {
        name: np.nextafter(w, w + generator.choice([-1, 1], w.shape).astype(w.dtype))
        for name, w in keyed.items()
    }
    assert integer.encode(quantised(noisy)) != integer.encode(trunk)
    check_agreement(trunk, noisy, CONFIG, tokens=SPEC.tokens)


@pytest.mark.parametrize(
    "what", ["state", "key", "weight", "multiplier", "table", "config"]
)
def test_a_trunk_of_anything_else_does_not_agree(what):
    seed = bytes(range(32)) if what != "key" else bytes(32)
    mine = key_trunk(weights(), TrunkKey.generate(bytes(range(32)), SPEC))
    state = key_trunk(weights(), TrunkKey.generate(seed, SPEC))
    config, trunk = dict(CONFIG), quantised(state)
    if what == "state":
        # A back door the size of one step in one weight.
        name = "layers.1.mlp.up_proj.weight"
        bent = {**state, name: state[name].copy()}
        bent[name][3, 4] += np.abs(bent[name][3]).max() / 63
        trunk = quantised(bent)
    elif what in {"weight", "multiplier"}:
        layer = trunk.layers[0]
        weight, multiplier = layer.v.weight.copy(), layer.v.multiplier.copy()
        weight[0, 0] += 0 if what == "multiplier" else 1 if weight[0, 0] < 0 else -1
        multiplier[1] += 40 if what == "multiplier" else 0
        bent = dataclasses.replace(
            layer, v=integer.Matrix(weight, multiplier, layer.v.shift)
        )
        trunk = integer.IntegerTrunk(trunk.header, (bent, *trunk.layers[1:]))
    elif what == "table":
        cos = trunk.header.cos - np.int16(2)
        header = dataclasses.replace(trunk.header, cos=cos)
        trunk = integer.IntegerTrunk(header, trunk.layers)
    elif what == "config":
        config["rms_norm_eps"] = 1e-4
    with pytest.raises(IntegerModelError):
        check_agreement(trunk, mine, config, tokens=SPEC.tokens)


def wide(rows, weights):
    """Rows of 14 bits by weights, and whether float64 was needed."""
    called = []

    def plain():
        called.append(True)
        return weights.astype(np.float64)

    found = arith.wide_products(
        rows.astype(np.float64), weights.astype(np.float32), plain
    )
    return found, bool(called)


def test_wide_rows_come_in_blocks_that_a_float_holds_whatever_the_weights():
    generator = np.random.default_rng(5)
    weights = generator.integers(-63, 64, (9, 2000))
    weights[0], weights[1] = 63, -63
    few = generator.integers(-8192, 8193, (7, 2000))
    few = np.where(generator.random(few.shape) < 0.02, few, few // 100)
    # Every block just as full as it may be: odd sums next to 2^24, of either sign.
    full = np.full((2, 2000), (1 << 24) // 63 // 128)
    full[1] *= -1
    for rows, needed in ((few, False), (full, False), (8192 * np.sign(few), True)):
        found, plain = wide(rows, weights)
        assert np.array_equal(found, rows @ weights.T)
        assert plain == needed


def test_blocks_that_are_too_long_are_not_exact(monkeypatch):
    """What the bound is for: the same rows in one block."""
    weights, rows = np.full((1, 2000), 63), np.full((1, 2000), 4095)
    weights[0, -1] = 62
    assert wide(rows, weights)[0][0, 0] == (rows @ weights.T)[0, 0]
    monkeypatch.setattr(arith, "_exact_cuts", lambda left: [slice(0, left.shape[1])])
    assert wide(rows, weights)[0][0, 0] != (rows @ weights.T)[0, 0]


def test_the_activation_is_looked_up_where_the_op_spec_says():
    gate = np.array([*range(-300_000, 300_000), -(2**24) + 1, 2**24 - 1], np.float64)
    table = np.arange(spec.ACTIVATION_SIZE, dtype=np.float64)
    index = np.minimum((np.abs(gate).astype(np.int64) + 32) >> 6, 4096)
    place = 4096 + np.where(gate < 0, -index, index)
    wanted = (gate.astype(np.int64) * place + (1 << 15)) >> 16
    assert np.array_equal(ops.activated(gate[None], table)[0], wanted)
    minus_nothing = ops.activated(np.array([[-0.0]]), table + 1)
    assert minus_nothing[0, 0] == 0
