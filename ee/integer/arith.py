"""Exact integer arithmetic carried by IEEE floats (docs/verify.md §3).

A float64 holds every integer below 2^53 and a float32 every integer below 2^24.  As long
as no intermediate leaves that range, addition and multiplication are exact, so neither
the order of a sum, nor fused multiply-add, nor the thread count can change a bit.  Each
function says which range it relies on; the loader of a trunk checks the bounds once.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ee.integer.spec import WEIGHT_LIMIT

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

FLOAT32_EXACT = 1 << 24


def half(values: Floats, exponent: Any) -> Floats:
    """floor(n / 2^e + 1/2) for integers |n| < 2^52, written over `values`.

    Scaling by a power of two is exact.  Adding one half is exact too, or the sum lies
    strictly inside (1/4, 3/4), or n / 2^e is an even number of units in the last place
    and the tie goes back to it; the floor is the same in all three cases.
    """
    values *= np.ldexp(1.0, -np.asarray(exponent, dtype=np.int64))
    return nearest(values)


def nearest(scaled: Floats) -> Floats:
    """The rest of `half`, for integers already multiplied by their power of two."""
    scaled += 0.5
    return np.floor(scaled, out=scaled)


def clamp(values: Floats, limit: float) -> Floats:
    """`values` limited to [-limit, limit], in place."""
    return np.clip(values, -limit, limit, out=values)


def quotient(numerator: Floats, denominator: Floats) -> Floats:
    """floor((2N + D) / (2D)) for |2N + D| < 2^53 and 0 < D < 2^51.

    A correctly rounded quotient reaches the next integer only from nearer than one part
    in 2^53, and a fraction with denominator 2D stays at least 1/(2D) below it.
    """
    doubled = 2.0 * denominator
    return np.floor((2.0 * numerator + denominator) / doubled)


def bit_length(values: Floats) -> Integers:
    """Bits of |n| for integers below 2^53; `frexp` is exact and gives 0 for 0."""
    return np.frexp(values)[1].astype(np.int64)


def isqrt(values: Integers) -> Integers:
    """Floor of the square root of integers in [0, 2^62).

    The float estimate is off by at most one either way; two comparisons settle it.
    """
    root = np.sqrt(values.astype(np.float64)).astype(np.int64)
    root -= root * root > values
    root += (root + 1) * (root + 1) <= values
    return root


def products(
    left: NDArray[np.float32], right: NDArray[np.float32], left_limit: int
) -> NDArray[Any]:
    """`left @ right.T` for integers, |left| <= `left_limit`, |right| <= 63.

    Blocks of the inner dimension are short enough that every partial sum of a block is
    below 2^24, hence exact in float32 in any order.  One block comes as float32, the sum of
    several as float64.
    """
    inner = left.shape[-1]
    block = FLOAT32_EXACT // (left_limit * WEIGHT_LIMIT)
    if inner <= block:
        return left @ right.T
    total = np.zeros((*left.shape[:-1], right.shape[0]), dtype=np.float64)
    for start in range(0, inner, block):
        stop = start + block
        total += left[..., start:stop] @ right[:, start:stop].T
    return total


def wide_products(
    left: Floats, right: NDArray[np.float32], wide: Callable[[], Floats]
) -> Floats:
    """`left @ right.T` for |left| <= 8192 times one power of two a row, |right| <= 63 and at
    most 65,536 terms.

    Most rows have few large entries, so blocks are as long as what is in them allows: whatever
    the weights, no partial sum of a block is beyond 63 times its distances from 0 added up.
    Rows that leave no room for that are multiplied in float64, where sums are below 2^35, with
    `wide`, which is `right` and takes twice the time and the memory.
    """
    cuts = _exact_cuts(left)
    if not cuts:
        return left @ wide().T
    total = np.zeros((len(left), len(right)), dtype=np.float64)
    short = left.astype(np.float32)
    for cut in cuts:
        total += short[:, cut] @ right[:, cut].T
    return total


_STEP = 128
"""Columns that stay together: shorter blocks cost more than they spare."""


def _exact_cuts(left: Floats) -> list[slice]:
    """Blocks of columns in which no row can reach 2^24; none where that is impossible."""
    starts = np.arange(0, left.shape[1], _STEP)
    parts = np.add.reduceat(np.abs(left), starts, axis=1)
    # Each row is counted in units of its own power of two.
    limit = float(FLOAT32_EXACT // WEIGHT_LIMIT)
    if parts.max() > limit:
        return []
    cuts, start, held = [], 0, np.zeros(len(left))
    for at, part in zip(starts.tolist(), parts.T, strict=True):
        held += part
        if held.max() > limit:
            cuts.append(slice(start, at))
            start, held = at, part.copy()
    return [*cuts, slice(start, left.shape[1])]
