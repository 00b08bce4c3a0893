"""Matrices of small integers, and what one does to rows."""

import functools
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ee.integer import arith
from ee.integer.arith import Floats
from ee.integer.ops import ROWS_AT_ONCE, Rows
from ee.integer.spec import RESIDUAL_LIMIT


class Linear(Protocol):
    """The spec's linear, clamped.

    A block asks for nothing else of a matrix, so one that records its sums, or checks
    somebody's, can stand in for one that has weights.
    """

    def apply(self, rows: Rows, limit: int) -> Floats:
        """Of 8-bit rows."""

    def apply_wide(self, rows: Rows, limit: int) -> Floats:
        """Of rows of 14 bits."""


@dataclass(frozen=True)
class Matrix:
    """y[o] = m[o] * 2^-shift * sum_k q[k] * weight[o][k] + bias[o]."""

    weight: NDArray[np.int8]
    multiplier: NDArray[np.int32]
    shift: int
    bias: NDArray[np.int32] | None = None
    """In units of what comes out; a trunk of op-spec 1 has none."""

    @functools.cached_property
    def weight32(self) -> NDArray[np.float32]:
        # Kept, because the conversion costs as much as a product of sixteen rows.
        return self.weight.astype(np.float32)

    @functools.cached_property
    def scale(self) -> Floats:
        """m[o] * 2^-shift, exact."""
        return np.ldexp(self.multiplier.astype(np.float64), -self.shift)

    def sums(self, rows: Rows) -> NDArray[Any]:
        """sum_k q[k] * weight[o][k] of 8-bit rows, exact in whatever float it comes as."""
        return arith.products(rows.q.astype(np.float32), self.weight32, 127)

    def sums_wide(self, rows: Rows) -> Floats:
        """The same of rows of 14 bits."""
        return arith.wide_products(
            rows.q, self.weight32, lambda: self.weight.astype(np.float64)
        )

    def apply(self, rows: Rows, limit: int) -> Floats:
        # Powers of two are exact wherever they are multiplied; rows are shorter than sums.
        lifted = (rows.q * _powers(rows)).astype(np.float32)
        sums = arith.products(lifted, self.weight32, 127)
        return _finished(sums, self.scale, limit, self.bias)

    def apply_wide(self, rows: Rows, limit: int) -> Floats:
        return rescaled(self.sums_wide(rows), self.scale, rows, limit, self.bias)


@dataclass(frozen=True)
class Gain:
    """What a post-norm trunk's norm does to each entry: y[k] = m[k] * 2^-shift * y[k] + bias[k]."""

    multiplier: NDArray[np.int32]
    shift: int
    bias: NDArray[np.int32]

    def apply(self, normed: Floats) -> Floats:
        """Over `normed`, whose entries have 16 fraction bits; the residual's bits come out."""
        normed *= np.ldexp(self.multiplier.astype(np.float64), -self.shift)
        arith.nearest(normed)
        normed += self.bias
        return arith.clamp(normed, RESIDUAL_LIMIT)


def rescaled(
    sums: NDArray[Any],
    scale: Floats,
    rows: Rows,
    limit: int,
    bias: NDArray[np.int32] | None = None,
) -> Floats:
    """half(m * sum, R - s) + bias, clamped."""
    return _finished(sums * _powers(rows), scale, limit, bias)


def _powers(rows: Rows) -> Floats:
    """2^s of each row, as a column."""
    return np.ldexp(1.0, rows.s)[:, None]


def _finished(
    lifted: NDArray[Any], scale: Floats, limit: int, bias: NDArray[np.int32] | None
) -> Floats:
    """`rescaled` of sums that were multiplied by their rows' powers of two."""
    out = np.empty(lifted.shape)
    for start in range(0, len(lifted), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        made = arith.nearest(np.multiply(lifted[part], scale, out=out[part]))
        if bias is not None:
            made += bias
        arith.clamp(made, limit)
    return out
