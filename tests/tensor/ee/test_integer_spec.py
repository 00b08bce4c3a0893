"""The numpy trunk against a second reading of the op-spec, in Python's own integers."""

from math import isqrt

import numpy as np
import pytest

from ee import integer
from ee.integer import known as drawn
from ee.integer import spec
from ee.integer.errors import SelfTestError

EXP = [int(value) for value in spec.exp_table()]
SIGMOID = [int(value) for value in spec.sigmoid_table()]
RESIDUAL, MID = (1 << 23) - 1, (1 << 24) - 1


def half(n, e):
    return ((n << 1) + (1 << e)) >> (e + 1) if e > 0 else n << -e


def clamp(n, limit):
    return max(-limit, min(limit, n))


def rows(values, bits):
    shift = max(0, max(abs(v) for v in values).bit_length() - bits)
    short = [half(v, shift) for v in values]
    return ([clamp(v, 127) for v in short] if bits == 7 else short), shift


def linear(short, matrix, limit):
    q, s = short
    biases = [0] * len(matrix.weight) if matrix.bias is None else matrix.bias.tolist()
    return [
        clamp(
            half(
                int(m) * sum(a * int(w) for a, w in zip(q, channel, strict=True)),
                matrix.shift - s,
            )
            + b,
            limit,
        )
        for m, channel, b in zip(matrix.multiplier, matrix.weight, biases, strict=True)
    ]


def norm(x, config, gain):
    """What the matrices read, and the base that what they make is added to."""
    base = x
    if config.style.centred:
        mean = (2 * sum(x) + len(x)) // (2 * len(x))
        x = [v - mean for v in x]
    total = sum(v * v for v in x) + config.norm_bias
    lift = (62 - total.bit_length()) & ~1
    scale = (isqrt(len(x) << 40) << 31) // isqrt(total << lift)
    y = [half(v * scale, 35 - lift // 2) for v in x]
    if config.style.post:
        pairs = zip(y, gain.multiplier.tolist(), gain.bias.tolist(), strict=True)
        y = base = [clamp(half(m * v, gain.shift) + b, RESIDUAL) for v, m, b in pairs]
    return rows(y, 7), base


def turned(head, cos, sin):
    middle = len(head) // 2
    pairs = list(zip(head[:middle], head[middle:], cos, sin, strict=True))
    first = [half(u * c - w * z, 14) for u, w, c, z in pairs]
    second = [half(w * c + u * z, 14) for u, w, c, z in pairs]
    return [clamp(v, MID) for v in first + second]


def attended(q, keys, values, multiplier):
    """One query against the keys and values in its sight."""
    z = [
        clamp(
            half(
                multiplier * sum(a * b for a, b in zip(q[0], k[0], strict=True)),
                42 - q[1] - k[1],
            ),
            1 << 30,
        )
        for k in keys
    ]
    e = [EXP[t] if t < 4096 else 0 for t in (max(z) - one for one in z)]
    top = max(v[1] for v in values)
    w = [half(one, top - v[1]) for one, v in zip(e, values, strict=True)]
    d = sum(e)
    out = []
    for place in range(len(q[0])):
        n = sum(a * v[0][place] for a, v in zip(w, values, strict=True)) << top
        out.append(clamp((2 * n + d) // (2 * d), MID))
    return out


def activated(gate, table):
    index = half(abs(gate), 6)
    if table is not None:
        index = min(index, 4096)
        return half(gate * table[4096 + (index if gate >= 0 else -index)], 16)
    c = SIGMOID[index] if index < 4096 else 1 << 16
    c = (1 << 16) - c if gate < 0 else c
    return half(gate * c, 16)


def layer_by_hand(header, layer, sequence):
    c = header.config
    dim, group = c.head_dim, c.heads // c.kv_heads
    table = None if header.activation is None else header.activation.tolist()
    gains = layer.gains or (None, None)
    heads = {"q": [], "k": [], "v": []}
    for place, row in enumerate(sequence):
        normed, _ = norm(row, c, gains[0])
        if c.style.rotary:
            cos, sin = header.cos[place].tolist(), header.sin[place].tolist()
        for name, column in heads.items():
            flat = linear(normed, getattr(layer, name), MID)
            split = [flat[i : i + dim] for i in range(0, len(flat), dim)]
            if name != "v" and c.style.rotary:
                split = [turned(head, cos, sin) for head in split]
            column.append([rows(head, 7) for head in split])
    out = []
    for i, row in enumerate(sequence):
        sight = range(i + 1) if c.causal else range(len(sequence))
        mixed = []
        for h in range(c.heads):
            keys = [heads["k"][j][h // group] for j in sight]
            values = [heads["v"][j][h // group] for j in sight]
            mixed += attended(heads["q"][i][h], keys, values, c.score_multiplier)
        change = linear(rows(mixed, 7), layer.o, RESIDUAL)
        _, base = norm(row, c, gains[0])
        x = [clamp(a + b, RESIDUAL) for a, b in zip(base, change, strict=True)]
        normed, x = norm(x, c, gains[1])
        hidden = [activated(g, table) for g in linear(normed, layer.gate, MID)]
        if layer.up is not None:
            up = linear(normed, layer.up, MID)
            hidden = [a * u for a, u in zip(hidden, up, strict=True)]
        change = linear(rows(hidden, 13), layer.down, RESIDUAL)
        out.append([clamp(a + b, RESIDUAL) for a, b in zip(x, change, strict=True)])
    return out


@pytest.mark.parametrize("number", range(5))
def test_numpy_computes_what_the_text_says(number):
    if number < 2:
        trunk = drawn.drawn_trunk(causal=bool(number))
    else:
        style, causal = drawn.STOCK[number - 2]
        trunk = drawn.drawn_stock(style, causal=causal)
    trace = trunk.forward(drawn.drawn_rows(trunk.config))
    for index, layer in enumerate(trunk.layers):
        before, after = trace.boundaries[index : index + 2]
        for sequence, expected in zip(before.tolist(), after.tolist(), strict=True):
            assert layer_by_hand(trunk.header, layer, sequence) == expected


@pytest.mark.parametrize("number", range(len(drawn.STOCK)))
def test_the_parts_of_a_layer_are_those_the_text_makes(number):
    """Norms, and the bases that only a block with its norms last has."""
    style, causal = drawn.STOCK[number]
    trunk = drawn.drawn_stock(style, causal=causal)
    (config, layer), token = (trunk.config, trunk.layers[0]), 3
    gains = layer.gains or (None, None)
    for case in drawn.drawn_rows(config):
        found = integer.trace_token(trunk.header, layer, case[None], token)
        base, normed, middle, base2, norm2 = (found[at] for at in (0, 1, 10, 11, 12))
        made = [norm(row, config, gains[0]) for row in case.tolist()]
        assert list(normed) == [short(row) for row, _ in made]
        assert list(base) == [big(row, 3) for _, row in made if style.post]
        row, last = norm(numbers(middle[0]), config, gains[1])
        assert norm2 == (short(row),)
        assert base2 == ((big(last, 3),) if style.post else ())


def big(row, size):
    return b"".join(n.to_bytes(size, "big", signed=True) for n in row)


def short(row):
    return bytes([row[1]]) + big(row[0], 1)


def numbers(leaf):
    steps = range(0, len(leaf), 4)
    return [int.from_bytes(leaf[i : i + 4], "big", signed=True) for i in steps]


def test_the_op_spec_and_its_tables_are_the_published_ones():
    # Whoever changes a rule, a letter or a table entry makes another model of every
    # published trunk.
    expected = "4a3cedd562391b6cb19c4c785803b8f4bf7923f4c6e5c91b312f3635d5796273"
    assert integer.op_spec_digest().hex() == expected
    expected = "cc89753ca6067d38fd6a5c0b74ddadb2ce61bfe653bd41f9c003571e46ff250a"
    assert integer.op_spec_digest(2).hex() == expected


def test_tables_agree_with_floating_point_to_the_last_unit():
    steps = np.arange(4096) / 256
    assert np.abs(spec.exp_table() - 16256 * 2.0**-steps).max() <= 0.5 + 1e-9
    assert (
        np.abs(spec.sigmoid_table() - 65536 / (1 + np.exp(-steps))).max() <= 0.5 + 1e-9
    )


def test_this_machine_passes_its_self_test():
    integer.self_test()


def test_a_blas_that_rounds_its_inputs_is_refused(monkeypatch):
    def rounded(left, right, left_limit):
        return (left.astype(np.float16) @ right.T.astype(np.float16)).astype(np.float64)

    monkeypatch.setattr("ee.integer.arith.products", rounded)
    with np.errstate(over="ignore"), pytest.raises(SelfTestError, match="not exact"):
        integer.self_test()


def test_a_machine_with_another_square_root_is_refused(monkeypatch):
    def off_by_one(values):
        return np.sqrt(values.astype(np.float64)).astype(np.int64) + 1

    monkeypatch.setattr("ee.integer.arith.isqrt", off_by_one)
    with pytest.raises(SelfTestError, match="rounding"):
        integer.self_test()


def test_a_machine_whose_softmax_drops_a_bit_is_refused(monkeypatch):
    exact = np.append(spec.exp_table(), 0.0)
    monkeypatch.setattr("ee.integer.ops._exp", lambda: exact - exact % 2)
    with pytest.raises(SelfTestError, match="where the op-spec gives"):
        integer.self_test()
