"""The steps of one layer, in the order of the op-spec (`spec.TEXT`).

Rows are (tokens, width) of all sequences of a batch, one below the other; only attention
knows where a sequence ends.  Every array holds integers, most of them in float64, within
the ranges that `arith` relies on.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import isqrt as integer_sqrt

import numpy as np
from numpy.typing import NDArray

from ee.integer import arith, spec
from ee.integer.arith import Floats, Integers

SCORES_AT_ONCE = 1 << 16
"""Scores of one block of heads: half a MiB for each of the few arrays of that size, so that the
steps between two products find them in a cache; 2^21 takes twice the time."""
ROWS_AT_ONCE = 32
"""Rows of one block of what comes between two products, for the same reason."""


@dataclass(frozen=True)
class Rows:
    """Short integers with one exponent for each row: value = q * 2^s."""

    q: Floats
    s: Integers


def rows(values: Floats, bits: int) -> Rows:
    """Short rows of B bits (rows of the op-spec) along the last axis; `values` is used up."""
    largest = np.maximum(values.max(axis=-1), -values.min(axis=-1))
    shift = np.maximum(0, arith.bit_length(largest) - bits)
    arith.half(values, shift[..., None])
    if bits == spec.ROW_BITS:
        arith.clamp(values, 127)
    return Rows(values, shift)


def norm(residual: NDArray[np.int32], bias: int, *, centred: bool = False) -> Floats:
    """RMS normalisation of int32 rows, or with `centred` that of a LayerNorm, in units of 2^-16."""
    width = residual.shape[-1]
    wide = residual.astype(np.int64)
    if centred:
        wide -= (2 * wide.sum(axis=-1, keepdims=True) + width) // (2 * width)
    total = np.einsum("ij,ij->i", wide, wide) + bias
    # Bits of a 61-bit number, by halves, because float64 would round it upwards.
    high = arith.bit_length((total >> 31).astype(np.float64))
    low = arith.bit_length((total & 0x7FFFFFFF).astype(np.float64))
    bits = np.where(high > 0, high + 31, low)
    lift = (62 - bits) & ~1
    root = arith.isqrt(total << lift)
    gain = (integer_sqrt(width << 40) << 31) // root
    scaled = wide * gain.astype(np.float64)[:, None]
    return arith.half(scaled, (35 - lift // 2)[:, None])


def rope(values: Floats, cos: Floats, sin: Floats) -> Floats:
    """Rotate the halves of each head; `values` is (batch, tokens, heads, dim)."""
    middle = values.shape[-1] // 2
    first, second = values[..., :middle], values[..., middle:]
    turned, crossed = np.empty_like(values), np.empty_like(first)
    left, right = turned[..., :middle], turned[..., middle:]
    np.multiply(first, cos, out=left)
    left -= np.multiply(second, sin, out=crossed)
    np.multiply(second, cos, out=right)
    right += np.multiply(first, sin, out=crossed)
    return arith.clamp(arith.half(turned, spec.ROPE_BITS), spec.MID_LIMIT)


def attention(q: Rows, k: Rows, v: Rows, multiplier: int, *, causal: bool) -> Floats:
    """Steps 4 and 5; all (sequences * heads, tokens, dim), exponents without dim.

    The queries are those of the last tokens; keys and values are there for every token.
    """
    out = np.empty_like(q.q)
    # Heads do not see each other, so cutting here bounds memory and moves no bit.
    step = max(1, SCORES_AT_ONCE // (q.q.shape[-2] * k.q.shape[-2]))
    for start in range(0, len(out), step):
        part = slice(start, start + step)
        left, right, values = (Rows(x.q[part], x.s[part]) for x in (q, k, v))
        weights = _weights(left, right, multiplier, causal=causal)
        out[part] = _weighted(weights, values, causal=causal)
    return out


def _weights(q: Rows, k: Rows, multiplier: int, *, causal: bool) -> Floats:
    """Step 4: EXP of how far each score lies below the largest one in sight."""
    scores = np.multiply(
        _score_products(q, k), float(multiplier), dtype=np.float64, casting="safe"
    )
    arith.clamp(arith.nearest(scores), spec.SCORE_LIMIT)
    if causal:
        # Below every score by more than the table reaches, and still an integer.
        tokens, all_tokens = scores.shape[-2:]
        ahead = ~np.tri(tokens, all_tokens, all_tokens - tokens, dtype=bool)
        np.copyto(scores, -4.0 * spec.SCORE_LIMIT, where=ahead)
    top = scores.max(axis=-1, keepdims=True)
    below = np.empty(scores.shape, np.intp)
    np.subtract(top, scores, out=below, casting="unsafe")
    return _exp().take(below, mode="clip", out=scores)


def _weighted(weights: Floats, v: Rows, *, causal: bool) -> Floats:
    """Step 5: the exact quotient of weighted values by the sum of weights."""
    total = weights.sum(axis=-1, keepdims=True)
    tokens = weights.shape[-2]
    if causal:
        top = np.maximum.accumulate(v.s, axis=-1)[..., -tokens:]
    else:
        top = np.broadcast_to(
            v.s.max(axis=-1, keepdims=True), (*v.s.shape[:-1], tokens)
        )
    # Ahead of the diagonal the weight is 0 and so is its product, whatever the power.
    weights *= np.ldexp(1.0, -top)[..., :, None]
    weights *= np.ldexp(1.0, v.s)[..., None, :]
    numerator = arith.nearest(weights) @ v.q
    numerator *= np.ldexp(1.0, top)[..., None]
    return arith.clamp(arith.quotient(numerator, total), spec.MID_LIMIT)


def _score_products(q: Rows, k: Rows) -> NDArray[np.float32]:
    """Q @ k^T * 2^(sq + sk - 42) in float32: 127^2 * dim < 2^24 for every head of at most 1024.

    Scaling by powers of two is exact, and rows are shorter than their scores.
    """
    left = q.q * np.ldexp(1.0, q.s - spec.SCORE_SHIFT)[..., None]
    right = k.q * np.ldexp(1.0, k.s)[..., None]
    return left.astype(np.float32) @ right.astype(np.float32).swapaxes(-1, -2)


def activated(gate: Floats, table: Floats) -> Floats:
    """Step 8 up to a, in units of 2^-14 as `gate`; `table` is ACT, or op-spec 1's sigmoid."""
    out = np.empty_like(gate)
    scaled = table * 2.0**-spec.SIGMOID_BITS
    for start in range(0, len(gate), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        index = _activation_index(gate[part])
        # Beyond either end the table's last entry holds, so clipping the index is step 8.
        made = scaled.take(index, mode="clip", out=out[part])
        made *= gate[part]
        arith.nearest(made)
    return out


def _activation_index(gate: Floats) -> NDArray[np.intp]:
    """Place in the table of half(|g|, 6) with the sign of g.

    That is floor(g/64 + 1/2), but for ties below 0, which go down; taking half of the step
    between two values of g/64 from all that are negative moves the ties and nothing else.
    What lies before the table comes out as 0 or less.
    """
    index = np.copysign(1.0 / 256, gate)
    index += gate * (1.0 / 64)
    index += spec.TABLE_SIZE + 0.5 - 1.0 / 256
    return index.astype(np.intp)


@lru_cache(maxsize=1)
def _exp() -> Floats:
    """EXP with the 0 that stands for everything beyond it."""
    return np.append(spec.exp_table(), 0.0)
