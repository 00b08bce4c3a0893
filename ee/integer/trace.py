"""The parts of one layer that one token's row follows from (docs/verify.md §10.2).

What a block hands to its matrices and gets back is written down as it passes: a block asks for
nothing else of a matrix, so one that keeps copies stands in for it.  Attention and activation
lie between matrices, so their parts are computed here a second time, in long integers and not
in the floats of `ops`; a test holds the two together.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ee.integer import arith, ops, spec
from ee.integer.arith import Floats, Integers
from ee.integer.block import normed
from ee.integer.errors import IntegerModelError
from ee.integer.linear import Gain, Linear
from ee.integer.ops import Rows
from ee.integer.trunk import Header, Layer, RowArray

PARTS = (
    *("base", "norm", "query", "key", "value", "column", "score"),
    *("mixed", "mixed top", "mixed row", "middle"),
    *("base2", "norm2", "gate", "up", "product", "product top", "wide"),
)
"""In the order of the op-spec, and each follows from those before it."""
BLOCK = 64
"""Entries of a leaf where a row is cut into blocks."""

Leaves = tuple[bytes, ...]


@dataclass
class _Recorder:
    """A matrix, and copies of the last rows it was given and gave back."""

    matrix: Linear
    given: list[Rows] = field(default_factory=list)
    made: list[Floats] = field(default_factory=list)

    def apply(self, rows: Rows, limit: int) -> Floats:
        return self._noted(self.matrix.apply, rows, limit)

    def apply_wide(self, rows: Rows, limit: int) -> Floats:
        return self._noted(self.matrix.apply_wide, rows, limit)

    def _noted(
        self, apply: Callable[[Rows, int], Floats], rows: Rows, limit: int
    ) -> Floats:
        # A block works over its arrays, so what is kept is a copy.
        self.given.append(Rows(rows.q.copy(), rows.s.copy()))
        made = apply(rows, limit)
        self.made.append(made.copy())
        return made


@dataclass(frozen=True)
class _Recorded:
    """The matrices of a block, recording."""

    q: _Recorder
    k: _Recorder
    v: _Recorder
    o: _Recorder
    gate: _Recorder
    up: _Recorder | None
    down: _Recorder
    gains: tuple[Gain, ...]

    @classmethod
    def of(cls, layer: Layer) -> "_Recorded":
        q, k, v, o, gate = map(_Recorder, layer.matrices()[:5])
        up = None if layer.up is None else _Recorder(layer.up)
        return cls(q, k, v, o, gate, up, _Recorder(layer.down), layer.gains)


def trace_token(
    header: Header, layer: Layer, rows: RowArray, token: int
) -> tuple[Leaves, ...]:
    """The leaves' entries of every part, for `token` of the rows (1, tokens, width).

    Numbers are signed and big-endian; a row with an exponent begins with it.  A block that is not
    gated has no part `up`, one with its norms first no `base` and no `base2`.
    """
    if len(rows) != 1 or not 0 <= token < rows.shape[1]:
        raise IntegerModelError(f"token {token} of rows of shape {rows.shape}")
    seen = _Recorded.of(layer)
    header.replay(seen, rows)
    _, base = normed(header.shape, layer, rows[0], 0)
    middle = arith.clamp(base + seen.o.made[0], spec.RESIDUAL_LIMIT)
    _, base2 = normed(header.shape, layer, middle.astype(np.int32), 1)
    post = header.config.style.post
    gate = seen.gate.made[0][token]
    product = _activated(gate.astype(np.int64), header.activations.astype(np.int64))
    ups: Leaves = ()
    if seen.up is not None:
        up = seen.up.made[0][token].astype(np.int64)
        product, ups = product * up, _blocks(up, ">i4")
    return (
        tuple(map(_base, base)) if post else (),
        tuple(_short(seen.q.given[0], one, ">i1") for one in range(rows.shape[1])),
        *_attention(header, seen, token),
        (_short(seen.o.given[0], token, ">i1"),),
        (_packed(middle[token], ">i4"),),
        (_base(base2[token]),) if post else (),
        (_short(seen.gate.given[0], token, ">i1"),),
        _blocks(gate, ">i4"),
        ups,
        _blocks(product, ">i8"),
        (_tops(product),),
        (_short(seen.down.given[0], token, ">i2"),),
    )


def _attention(header: Header, seen: _Recorded, token: int) -> tuple[Leaves, ...]:
    """Parts 2 to 8."""
    config = header.config
    tokens = len(seen.k.made[0])
    kv = (tokens, config.kv_heads, config.head_dim)
    q = seen.q.made[0][token].reshape(1, config.heads, config.head_dim)
    k, v = seen.k.made[0].reshape(kv), seen.v.made[0].reshape(kv)
    columns = ops.rows(v.copy(), spec.ROW_BITS)
    value, exponent = columns.q.astype(np.int64), columns.s
    turned_q = _turned(header, q, slice(token, token + 1))
    turned_k = _turned(header, k, slice(0, tokens))
    visible = token + 1 if config.causal else tokens
    scores, mixed = [], []
    for head in range(config.heads):
        group = head * config.kv_heads // config.heads
        sums = turned_k.q[:visible, group].astype(np.int64) @ turned_q.q[
            0, head
        ].astype(np.int64)
        shift = spec.SCORE_SHIFT - turned_q.s[0, head] - turned_k.s[:visible, group]
        score = _half(config.score_multiplier * sums, shift)
        score = np.clip(score, -spec.SCORE_LIMIT, spec.SCORE_LIMIT)
        scores.append(score)
        part = value[:visible, group], exponent[:visible, group]
        mixed.append(_mixed(score, *part))
    row = np.concatenate(mixed)
    pairs = [(g, d) for g in range(kv[1]) for d in range(kv[2])]
    return (
        tuple(_packed(one, ">i4") for one in q[0]),
        tuple(_packed(one, ">i4") for one in k.reshape(-1, kv[2])),
        tuple(_packed(one, ">i4") for one in v.reshape(-1, kv[2])),
        tuple(
            _packed(exponent[:, g], "u1") + _packed(value[:, g, d], ">i1")
            for g, d in pairs
        ),
        tuple(_packed(one, ">i4") for one in scores),
        _blocks(row, ">i4"),
        (_tops(row),),
    )


def _turned(header: Header, heads: Floats, positions: slice) -> Rows:
    """Steps 2 and 3 for (tokens, heads, dim)."""
    if not header.config.style.rotary:
        return ops.rows(heads.copy(), spec.ROW_BITS)
    cos, sin = (
        table[positions, None, :].astype(np.float64)
        for table in (header.cos, header.sin)
    )
    return ops.rows(ops.rope(heads, cos, sin), spec.ROW_BITS)


def _mixed(score: Integers, value: Integers, exponent: Integers) -> Integers:
    """Steps 4 and 5 for one head: scores (seen,), values (seen, dim), exponents (seen,)."""
    table = spec.exp_table().astype(np.int64)
    below = score.max() - score
    weight = np.where(
        below < spec.TABLE_SIZE, table[np.minimum(below, spec.TABLE_SIZE - 1)], 0
    )
    top = exponent.max()
    above = (_half(weight, top - exponent) @ value) << top
    total = weight.sum()
    made = (2 * above + total) // (2 * total)
    return np.clip(made, -spec.MID_LIMIT, spec.MID_LIMIT)


def _activated(gate: Integers, table: Integers) -> Integers:
    """Step 8 up to a."""
    found = table[[activation_entry(one) for one in gate.tolist()]]
    return (gate * found + (1 << 15)) >> spec.SIGMOID_BITS


def activation_entry(gate: int) -> int:
    """Which entry of ACT step 8 takes."""
    index = min((abs(gate) + 32) >> 6, spec.TABLE_SIZE)
    return spec.TABLE_SIZE + (-index if gate < 0 else index)


def _half(numbers: Integers, exponent: Integers) -> Integers:
    """`half` of the op-spec for exponents from 0 on."""
    return (numbers + ((1 << exponent) >> 1)) >> exponent


def _short(rows: Rows, token: int, kind: str) -> bytes:
    return bytes([int(rows.s[token])]) + _packed(rows.q[token], kind)


def _blocks(row: NDArray[Any], kind: str) -> Leaves:
    return tuple(
        _packed(row[start : start + BLOCK], kind) for start in range(0, len(row), BLOCK)
    )


def _tops(row: NDArray[Any]) -> bytes:
    """The largest distance from 0 in each block."""
    starts = range(0, len(row), BLOCK)
    tops = [int(np.abs(row[start : start + BLOCK]).max()) for start in starts]
    return _packed(np.array(tops), ">i8")


def _base(row: NDArray[np.int32]) -> bytes:
    """Three bytes a number: none is beyond what a row between layers has."""
    return row.astype(">i4").view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()


def _packed(values: NDArray[Any], kind: str) -> bytes:
    return np.asarray(values).astype(kind).tobytes()
