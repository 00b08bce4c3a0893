"""The integer trunk: its parts, its forward pass, and the replay of one layer.

A trunk is a value.  `forward` and `replay_layer` are pure functions of it and of the
rows, with one result on every machine: there is no tolerance anywhere below.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ee.integer import arith, ops, spec
from ee.integer.arith import Floats
from ee.integer.errors import IntegerModelError
from ee.integer.ops import Rows

RowArray = NDArray[np.int32]
"""Residual rows, (batch, tokens, width)."""


@dataclass(frozen=True)
class TrunkConfig:
    """Every number a layer needs beside its weights."""

    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    tokens: int
    """The longest sequence the RoPE tables reach."""
    residual_bits: int
    """Fraction bits of the residual."""
    norm_bias: int
    """E of the op-spec: the norm's epsilon, in squared residual units times width."""
    score_multiplier: int
    """M of the op-spec: log2(e) / sqrt(head_dim) in units of 2^-22."""
    causal: bool
    """A row attends to itself and what is before it; if not, to its whole sequence."""

    def matrix_shapes(self) -> dict[str, tuple[int, int]]:
        """Name to (outputs, inputs), in the order of the bytes."""
        query, value = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q": (query, self.width),
            "k": (value, self.width),
            "v": (value, self.width),
            "o": (self.width, query),
            "gate": (self.inner, self.width),
            "up": (self.inner, self.width),
            "down": (self.width, self.inner),
        }


@dataclass(frozen=True)
class Matrix:
    """y[o] = m[o] * 2^-shift * sum_k q[k] * weight[o][k]."""

    weight: NDArray[np.int8]
    multiplier: NDArray[np.int32]
    shift: int

    @functools.cached_property
    def weight32(self) -> NDArray[np.float32]:
        # Kept, because the conversion costs as much as a product of sixteen rows.
        return self.weight.astype(np.float32)

    @functools.cached_property
    def scale(self) -> Floats:
        """m[o] * 2^-shift, exact."""
        return np.ldexp(self.multiplier.astype(np.float64), -self.shift)

    def apply(self, rows: Rows, limit: int) -> Floats:
        """The spec's linear of 8-bit rows, clamped."""
        sums = arith.products(rows.q.astype(np.float32), self.weight32, 127)
        return self._rescaled(sums, rows, limit)

    def apply_wide(self, rows: Rows, limit: int) -> Floats:
        """The same of rows of 14 bits."""
        return self._rescaled(arith.limb_products(rows.q, self.weight32), rows, limit)

    def _rescaled(self, sums: Floats, rows: Rows, limit: int) -> Floats:
        sums *= self.scale
        sums *= np.ldexp(1.0, rows.s)[:, None]
        return arith.clamp(arith.nearest(sums), limit)


@dataclass(frozen=True)
class Layer:
    """One transformer block; the fields stand in the order of the bytes."""

    q: Matrix
    k: Matrix
    v: Matrix
    o: Matrix
    gate: Matrix
    up: Matrix
    down: Matrix

    def matrices(self) -> tuple[Matrix, ...]:
        """All seven, in the order of the fields."""
        return self.q, self.k, self.v, self.o, self.gate, self.up, self.down


@dataclass(frozen=True)
class Header:
    """What every layer shares: the numbers and the RoPE tables (tokens, head_dim / 2)."""

    config: TrunkConfig
    cos: NDArray[np.int16]
    sin: NDArray[np.int16]

    def check_rows(self, rows: RowArray) -> RowArray:
        """`rows` if this trunk can take them; `IntegerModelError` says why not."""
        config = self.config
        if rows.dtype != np.int32 or rows.ndim != 3:
            raise IntegerModelError(
                f"rows are {rows.dtype} of {rows.ndim} axes, need int32 of 3"
            )
        batch, tokens, width = rows.shape
        if width != config.width:
            raise IntegerModelError(
                f"rows are {width} wide, trunk needs {config.width}"
            )
        if not 1 <= tokens <= config.tokens or batch < 1:
            raise IntegerModelError(
                f"{batch} sequences of {tokens} tokens, need at least 1 of 1"
                f" to {config.tokens}"
            )
        if max(int(rows.max()), -int(rows.min())) > spec.RESIDUAL_LIMIT:
            raise IntegerModelError(f"a row entry is beyond {spec.RESIDUAL_LIMIT}")
        return rows

    def replay(self, layer: Layer, rows: RowArray) -> RowArray:
        """Steps 1 to 9 of the op-spec for every sequence of the batch."""
        batch, tokens, width = self.check_rows(rows).shape
        flat = rows.reshape(batch * tokens, width)
        flat = _add(flat, self._attended(layer, flat, batch))
        normed = ops.norm(flat, self.config.norm_bias)
        gate = layer.gate.apply(normed, spec.MID_LIMIT)
        product = ops.gated(gate, layer.up.apply(normed, spec.MID_LIMIT))
        wide = ops.rows(product, spec.WIDE_BITS)
        flat = _add(flat, layer.down.apply_wide(wide, spec.RESIDUAL_LIMIT))
        return flat.reshape(batch, tokens, width)

    def _attended(self, layer: Layer, flat: RowArray, batch: int) -> Floats:
        """Steps 1 to 6, up to the sum: what attention adds to the residual."""
        config = self.config
        normed = ops.norm(flat, config.norm_bias)
        q, k, v = (
            self._by_head(matrix.apply(normed, spec.MID_LIMIT), batch)
            for matrix in (layer.q, layer.k, layer.v)
        )
        tokens = q.shape[1]
        cos, sin = (
            table[:tokens, None, :].astype(np.float64) for table in (self.cos, self.sin)
        )
        group = config.heads // config.kv_heads
        mixed = ops.attention(
            _heads_first(ops.rope(q, cos, sin), 1),
            _heads_first(ops.rope(k, cos, sin), group),
            _heads_first(v, group),
            config.score_multiplier,
            causal=config.causal,
        )
        # (batch * heads, tokens, dim) to (batch * tokens, heads * dim)
        by_token = mixed.reshape(batch, config.heads, tokens, -1).swapaxes(1, 2)
        joined = by_token.reshape(batch * tokens, -1)
        return layer.o.apply(ops.rows(joined, spec.ROW_BITS), spec.RESIDUAL_LIMIT)

    def _by_head(self, values: Floats, batch: int) -> Floats:
        # (batch, tokens, heads, dim)
        return values.reshape(batch, len(values) // batch, -1, self.config.head_dim)


@dataclass(frozen=True)
class Trace:
    """Rows before the first layer replayed, then after each; the last are the output."""

    boundaries: tuple[RowArray, ...]

    @property
    def output(self) -> RowArray:
        return self.boundaries[-1]


@dataclass(frozen=True)
class IntegerTrunk:
    """A whole trunk."""

    header: Header
    layers: tuple[Layer, ...]

    @property
    def config(self) -> TrunkConfig:
        return self.header.config

    def forward(self, rows: RowArray, *, start: int = 0) -> Trace:
        """Every boundary from `rows`, which stand before layer `start`, to the output."""
        self.require_layer(start)
        boundaries = [self.header.check_rows(rows)]
        for layer in self.layers[start:]:
            boundaries.append(self.header.replay(layer, boundaries[-1]))
        return Trace(tuple(boundaries))

    def replay_layer(self, index: int, rows: RowArray) -> RowArray:
        """Rows after layer `index`, given the rows before it."""
        self.require_layer(index)
        return self.header.replay(self.layers[index], rows)

    def require_layer(self, index: int) -> None:
        """Raise unless there is a layer `index`."""
        if not 0 <= index < len(self.layers):
            raise IntegerModelError(f"layer {index} of a trunk of {len(self.layers)}")


def _add(residual: RowArray, change: Floats) -> RowArray:
    change += residual
    return arith.clamp(change, spec.RESIDUAL_LIMIT).astype(np.int32)


def _heads_first(values: Floats, repeat: int) -> Rows:
    """8-bit rows per token and head, as (batch * heads, tokens, dim)."""
    short = ops.rows(values, spec.ROW_BITS)
    q, s = short.q.swapaxes(1, 2), short.s.swapaxes(1, 2)
    if repeat > 1:
        q, s = np.repeat(q, repeat, axis=1), np.repeat(s, repeat, axis=1)
    # (batch, heads, tokens, dim) to (batch * heads, tokens, dim)
    return Rows(q.reshape(-1, *q.shape[2:]), s.reshape(-1, s.shape[2]))
