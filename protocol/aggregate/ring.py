"""Updates as integers: the grid they are rounded to and the ring they are summed in.

A member scales its update by its public weight, rounds it to a grid of 2^-fraction and adds
it in Z mod 2^32.  The sum of all members' terms is then the weighted mean itself, exact to
the last bit whatever the order of summing, and it cannot wrap: each term is held within its
part of the ring.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.errors import LocalProtocolError

Words = NDArray[np.uint32]
Elements = NDArray[np.uint32] | NDArray[np.uint16]
Floats = NDArray[np.float32]

FRACTION_BITS = 24
WORD_BYTES = 4
LENGTH_AT_MOST = 1 << 30


@dataclass(frozen=True)
class Encoded:
    """An update as ring elements, and how many of its entries had to be cut."""

    words: Words
    cut: int


def limit(members: int) -> int:
    """The largest magnitude of one member's entry, in grid units, so that no sum wraps."""
    if members < 1:
        raise LocalProtocolError(f"{members} members")
    return ((1 << 31) - 1) // members


def encode(update: Floats, weight: float, members: int) -> Encoded:
    """`weight` is this member's share of the mean; the shares of all members add up to 1."""
    if not 0 < weight <= 1:
        raise LocalProtocolError(f"weight is {weight}, need more than 0 and at most 1")
    if not bool(np.all(np.isfinite(update))):
        raise LocalProtocolError("the update holds a number that is not finite")
    scaled = np.ldexp(update.astype(np.float64) * weight, FRACTION_BITS)
    rounded = np.floor(scaled + 0.5)
    top = float(limit(members))
    cut = int(np.count_nonzero(np.abs(rounded) > top))
    whole = np.clip(rounded, -top, top).astype(np.int64)
    return Encoded(whole.astype(np.int32).view(np.uint32), cut)


def decode(total: Words) -> Floats:
    """The weighted mean that a sum of encoded updates stands for."""
    return np.ldexp(total.view(np.int32).astype(np.float64), -FRACTION_BITS).astype(
        np.float32
    )
