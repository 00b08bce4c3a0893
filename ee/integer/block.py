"""Steps 1 to 9 of the op-spec: one transformer block over rows of whole sequences.

With a `Past` the rows are the next ones of sequences under way.  Every step treats rows one
by one except attention, which sees keys and values only through what `Past` keeps of them, so
rows decoded one at a time are, bit for bit, those of the whole sequence at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ee.integer import arith, ops, spec
from ee.integer.arith import Floats
from ee.integer.linear import Gain, Linear
from ee.integer.ops import Rows

MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
"""In the order of the bytes; `gate` goes into the activation, `up` is there in a gated block."""


class Linears(Protocol):
    """The matrices of a block, or what stands in for them, and its norms' gains."""

    @property
    def q(self) -> Linear: ...
    @property
    def k(self) -> Linear: ...
    @property
    def v(self) -> Linear: ...
    @property
    def o(self) -> Linear: ...
    @property
    def gate(self) -> Linear: ...
    @property
    def up(self) -> Linear | None: ...
    @property
    def down(self) -> Linear: ...
    @property
    def gains(self) -> tuple[Gain, ...]: ...


@dataclass(frozen=True)
class StandIn:
    """A block whose matrices are something else: they record, or check somebody's sums."""

    q: Linear
    k: Linear
    v: Linear
    o: Linear
    gate: Linear
    up: Linear | None
    down: Linear
    gains: tuple[Gain, ...]

    @classmethod
    def of(cls, linears: Sequence[Linear], gains: tuple[Gain, ...]) -> "StandIn":
        """From seven, or six where a block is not gated, in the order of the bytes."""
        *first, down = linears
        q, k, v, o, gate = first[:5]
        return cls(q, k, v, o, gate, first[5] if len(first) > 5 else None, down, gains)


@dataclass(frozen=True)
class Style:
    """What an op-spec 2 trunk says of its blocks; `LLAMA` is what op-spec 1 fixes."""

    centred: bool
    """LayerNorm: the mean is taken out first."""
    post: bool
    """Norms stand on the residual itself, with gains, as in BERT."""
    rotary: bool
    gated: bool


LLAMA = Style(centred=False, post=False, rotary=True, gated=True)


@dataclass(frozen=True)
class Shape:
    """What a block must know of its trunk."""

    heads: int
    kv_heads: int
    head_dim: int
    norm_bias: int
    score_multiplier: int
    causal: bool
    style: Style
    cos: NDArray[np.int16]
    sin: NDArray[np.int16]
    activation: Floats


class Past:
    """Keys and values of the rows so far, as 8-bit rows (batch, kv heads, tokens, dim)."""

    def __init__(self) -> None:
        self.k: Rows | None = None
        self.v: Rows | None = None

    @property
    def tokens(self) -> int:
        return 0 if self.k is None else self.k.q.shape[2]

    def extend(self, k: Rows, v: Rows) -> tuple[Rows, Rows]:
        """All keys and values, with these at the end."""
        self.k, self.v = _joined(self.k, k), _joined(self.v, v)
        return self.k, self.v


def replayed(
    shape: Shape,
    layer: Linears,
    residual: NDArray[np.int32],
    past: Past | None = None,
) -> NDArray[np.int32]:
    """(batch, tokens, width) rows before a block to rows after it."""
    batch, tokens, width = residual.shape
    flat = residual.reshape(batch * tokens, width)
    short, base = normed(shape, layer, flat, 0)
    flat = _add(base, _attended(shape, layer, short, batch, past or Past()))
    short, base = normed(shape, layer, flat, 1)
    hidden = ops.activated(layer.gate.apply(short, spec.MID_LIMIT), shape.activation)
    if layer.up is not None:
        hidden *= layer.up.apply(short, spec.MID_LIMIT)
    wide = ops.rows(hidden, spec.WIDE_BITS)
    flat = _add(base, layer.down.apply_wide(wide, spec.RESIDUAL_LIMIT))
    return flat.reshape(batch, tokens, width)


def normed(
    shape: Shape, layer: Linears, flat: NDArray[np.int32], which: int
) -> tuple[Rows, NDArray[np.int32]]:
    """What the matrices read, and the base that what they make is added to."""
    values = ops.norm(flat, shape.norm_bias, centred=shape.style.centred)
    if shape.style.post:
        flat = layer.gains[which].apply(values).astype(np.int32)
    return ops.rows(values, spec.ROW_BITS), flat


def _attended(
    shape: Shape, layer: Linears, normed: Rows, batch: int, past: Past
) -> Floats:
    """Steps 1 to 6, up to the sum: what attention adds to the residual."""
    tokens = len(normed.q) // batch
    q, k, v = (
        # (batch, tokens, heads, dim)
        matrix.apply(normed, spec.MID_LIMIT).reshape(batch, tokens, -1, shape.head_dim)
        for matrix in (layer.q, layer.k, layer.v)
    )
    if shape.style.rotary:
        now = slice(past.tokens, past.tokens + tokens)
        cos, sin = (
            table[now, None, :].astype(np.float64) for table in (shape.cos, shape.sin)
        )
        q, k = ops.rope(q, cos, sin), ops.rope(k, cos, sin)
    keys, values = past.extend(_heads_first(k), _heads_first(v))
    group = shape.heads // shape.kv_heads
    mixed = ops.attention(
        _flattened(_heads_first(q), 1),
        _flattened(keys, group),
        _flattened(values, group),
        shape.score_multiplier,
        causal=shape.causal,
    )
    # (batch * heads, tokens, dim) to (batch * tokens, heads * dim)
    by_token = mixed.reshape(batch, shape.heads, tokens, -1).swapaxes(1, 2)
    joined = by_token.reshape(batch * tokens, -1)
    return layer.o.apply(ops.rows(joined, spec.ROW_BITS), spec.RESIDUAL_LIMIT)


def _add(residual: NDArray[np.int32], change: Floats) -> NDArray[np.int32]:
    change += residual
    return arith.clamp(change, spec.RESIDUAL_LIMIT).astype(np.int32)


def _heads_first(values: Floats) -> Rows:
    """8-bit rows per token and head, as (batch, heads, tokens, dim)."""
    short = ops.rows(values, spec.ROW_BITS)
    return Rows(short.q.swapaxes(1, 2), short.s.swapaxes(1, 2))


def _flattened(rows: Rows, repeat: int) -> Rows:
    """(batch * heads, tokens, dim), each key-value head once for each of its queries."""
    q, s = rows.q, rows.s
    if repeat > 1:
        q, s = np.repeat(q, repeat, axis=1), np.repeat(s, repeat, axis=1)
    return Rows(q.reshape(-1, *q.shape[2:]), s.reshape(-1, s.shape[2]))


def _joined(before: Rows | None, after: Rows) -> Rows:
    if before is None:
        return after
    return Rows(
        np.concatenate([before.q, after.q], axis=2),
        np.concatenate([before.s, after.s], axis=2),
    )
