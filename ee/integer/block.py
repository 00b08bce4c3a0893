"""Steps 1 to 9 of the op-spec: one transformer block over rows of whole sequences.

With a `Past` the rows are the next ones of sequences under way.  Every step treats rows one
by one except attention, which sees keys and values only through what `Past` keeps of them, so
rows decoded one at a time are, bit for bit, those of the whole sequence at once.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ee.integer import arith, ops, spec
from ee.integer.arith import Floats
from ee.integer.linear import Linear
from ee.integer.ops import Rows


class Linears(Protocol):
    """The seven matrices of a block, or what stands in for them."""

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
    def up(self) -> Linear: ...
    @property
    def down(self) -> Linear: ...


@dataclass(frozen=True)
class Shape:
    """What a block must know of its trunk."""

    heads: int
    kv_heads: int
    head_dim: int
    norm_bias: int
    score_multiplier: int
    causal: bool
    cos: NDArray[np.int16]
    sin: NDArray[np.int16]


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
    flat = _add(flat, _attended(shape, layer, flat, batch, past or Past()))
    normed = ops.norm(flat, shape.norm_bias)
    gate = layer.gate.apply(normed, spec.MID_LIMIT)
    product = ops.gated(gate, layer.up.apply(normed, spec.MID_LIMIT))
    wide = ops.rows(product, spec.WIDE_BITS)
    flat = _add(flat, layer.down.apply_wide(wide, spec.RESIDUAL_LIMIT))
    return flat.reshape(batch, tokens, width)


def _attended(
    shape: Shape, layer: Linears, flat: NDArray[np.int32], batch: int, past: Past
) -> Floats:
    """Steps 1 to 6, up to the sum: what attention adds to the residual."""
    tokens = len(flat) // batch
    normed = ops.norm(flat, shape.norm_bias)
    q, k, v = (
        # (batch, tokens, heads, dim)
        matrix.apply(normed, spec.MID_LIMIT).reshape(batch, tokens, -1, shape.head_dim)
        for matrix in (layer.q, layer.k, layer.v)
    )
    now = slice(past.tokens, past.tokens + tokens)
    cos, sin = (
        table[now, None, :].astype(np.float64) for table in (shape.cos, shape.sin)
    )
    keys, values = past.extend(_heads_first(ops.rope(k, cos, sin)), _heads_first(v))
    group = shape.heads // shape.kv_heads
    mixed = ops.attention(
        _flattened(_heads_first(ops.rope(q, cos, sin)), 1),
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
