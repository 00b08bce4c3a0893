"""Updates as integers: the grid they are rounded to and the ring they are summed in.

A member scales its update by its public weight, rounds it to a grid that is public per block
of entries, and adds it in Z mod 2^16 or 2^32.  The sum of all members' terms is then the
weighted mean itself, exact to the last bit whatever the order of summing, and it cannot
wrap: each term is held within its part of the ring.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from protocol.errors import LocalProtocolError, MalformedMessageError

Elements = NDArray[np.uint32] | NDArray[np.uint16]
Floats = NDArray[np.float32]

WORD_BYTES = 4
"""A parameter on disk: float32."""


BLOCK = 4096
"""Entries that share one public scale."""
HEADROOM = 6
"""The largest entry a block is scaled for, in root-mean-squares of the last sum's members: one
in 10^9 Gaussian entries is beyond it, and is cut."""
EXPONENT_LIMITS = (-100, 20)

Exponents = NDArray[np.int8]
_ROWS = 8
_STRETCH = _ROWS * BLOCK
"""Entries worked on at a time: two buffers of float64 stay in a core's second-level cache
(measured: three times as fast as stretches of 8 MiB)."""


@dataclass(frozen=True)
class Ring:
    """Z mod 2^bits, and how many bits of it one member's entry may use.

    An update is rounded to integers q with x ≈ q·2^e, where e is public and the same for a
    block of entries; rounding is up or down by chance, so that it is right on average.  The
    signed integers of all members add up without wrapping (`require_room`), so a sum outside
    of what its members can have sent proves that somebody changed it (`strays`).
    """

    bits: int
    input_bits: int

    @property
    def limit(self) -> int:
        """The largest magnitude of one member's entry."""
        return (1 << (self.input_bits - 1)) - 1

    @property
    def bytes_each(self) -> int:
        return self.bits // 8

    @property
    def dtype(self) -> np.dtype[Any]:
        """Unsigned, little-endian: what is masked and sent."""
        return np.dtype(f"<u{self.bytes_each}")

    def require_room(self, members: int) -> None:
        """No sum of `members` entries may wrap."""
        room = (1 << (self.bits - 1)) - 1
        if self.bits not in (16, 32) or self.input_bits < 2:
            raise MalformedMessageError(
                f"ring of {self.bits} bits with {self.input_bits}-bit entries"
            )
        if members * self.limit > room:
            raise MalformedMessageError(
                f"{members} entries of {self.input_bits} bits can reach"
                f" {members * self.limit}, the ring of {self.bits} bits holds {room}"
            )

    def encode(
        self,
        update: Floats,
        exponents: Exponents,
        factor: float,
        chance: "Chance",
    ) -> "EncodedUpdate":
        """`factor` is the member's weight over the mean weight: `weight_factor`."""
        require_blocks(update.size, exponents)
        out = np.empty(update.size, self.dtype)
        grid = np.ldexp(factor, -exponents.astype(np.int32))
        wide, drawn = np.empty(_STRETCH), np.empty(_STRETCH)
        cut = 0
        for at, rows, each in _stretches(update.size):
            size = rows * each
            part = wide[:size]
            part[:] = update[at : at + size]
            part.reshape(rows, each)[:] *= _column(grid, at, rows)
            chance.random(out=drawn[:size])
            part += drawn[:size]
            np.floor(part, out=part)
            low, high = float(part.min()), float(part.max())
            if not (math.isfinite(low) and math.isfinite(high)):
                raise LocalProtocolError("the update holds a number that is not finite")
            if low < -self.limit or high > self.limit:
                cut += int(np.count_nonzero(np.abs(part) > self.limit))
                np.clip(part, -self.limit, self.limit, out=part)
            np.copyto(self.signed(out[at : at + size]), part, casting="unsafe")
        return EncodedUpdate(out, cut)

    def decode(self, total: Elements, exponents: Exponents, factor: float) -> Floats:
        """The weighted mean; `factor` is `mean_factor` of the survivors."""
        require_blocks(total.size, exponents)
        out = np.empty(total.size, np.float32)
        grid = np.ldexp(factor, exponents.astype(np.int32))
        wide = np.empty(_STRETCH)
        for at, rows, each in _stretches(total.size):
            size = rows * each
            part = wide[:size].reshape(rows, each)
            # One thing after the other: numpy converts within a product in small steps.
            part[:] = self.signed(total[at : at + size]).reshape(rows, each)
            part *= _column(grid, at, rows)
            out[at : at + size] = wide[:size]
        return out

    def signed(self, words: Elements) -> NDArray[Any]:
        """Two's complement reading, no copy."""
        return words.view(np.dtype(f"<i{self.bytes_each}"))

    def strays(self, total: Elements, survivors: int) -> int:
        """Entries of a sum that `survivors` members cannot have made."""
        bound = survivors * self.limit
        signed = self.signed(total)
        return int(np.count_nonzero((signed > bound) | (signed < -bound)))

    def next_exponents(
        self, total: Elements, exponents: Exponents, survivors: int
    ) -> Exponents:
        """Scales of the next round from this round's sum; integers only, so all agree."""
        require_blocks(total.size, exponents)
        out = exponents.copy()
        low, high = EXPONENT_LIMITS
        for at, rows, each in _stretches(total.size):
            part = self.signed(total[at : at + rows * each]).reshape(rows, each)
            shifts, squares = _squares(part)
            for row, (shift, square) in enumerate(zip(shifts, squares, strict=True)):
                if square:
                    block = at // BLOCK + row
                    step = shift + _log4_above(
                        HEADROOM**2 * int(square), self.limit**2 * each * survivors
                    )
                    out[block] = min(high, max(low, int(exponents[block]) + step))
        return out


class Chance(Protocol):
    """Where the coins for rounding come from; a numpy generator is one."""

    def random(self, *, out: NDArray[np.float64]) -> object:
        """Fill `out` with numbers uniform in [0, 1)."""


@dataclass(frozen=True)
class EncodedUpdate:
    """An update in the ring, and how many of its entries were beyond their scale."""

    words: Elements
    cut: int


def blocks(length: int) -> int:
    """Scales of a vector."""
    return -(-length // BLOCK)


def require_blocks(length: int, exponents: Exponents) -> None:
    if exponents.dtype != np.int8 or exponents.size != blocks(length):
        raise LocalProtocolError(
            f"{exponents.size} scales for {length} entries, need {blocks(length)}"
        )


def weight_factor(weight: int, total: int, members: int) -> float:
    """What a member multiplies its update by: 1 if all weigh the same."""
    return weight * members / total


def mean_factor(survivors_weight: int, total: int, members: int) -> float:
    """What makes the sum over the survivors their weighted mean."""
    return total / (members * survivors_weight)


def _squares(part: NDArray[Any]) -> tuple[list[int], list[int]]:
    """For each row how far its entries were shifted, and the sum of their squares then."""
    if part.dtype.itemsize == 2:
        # 15 bits squared, 4096 times, stay below 2^53: float64 adds them without rounding.
        wide = part.astype(np.float64)
        return [0] * len(part), [int(each) for each in np.vecdot(wide, wide)]
    sizes = np.abs(part.astype(np.int64))
    # 25 bits squared, 4096 times, stay below 2^63.
    shifts = [max(0, int(top).bit_length() - 25) for top in sizes.max(axis=1)]
    if any(shifts):
        sizes >>= np.array(shifts)[:, np.newaxis]
    return shifts, np.einsum("ij,ij->i", sizes, sizes).tolist()


def _log4_above(wanted: int, unit: int) -> int:
    """The least whole k, of either sign, with 4^k · unit >= wanted."""
    k = (wanted.bit_length() - unit.bit_length()) // 2 - 1
    while unit << max(0, 2 * k) < wanted << max(0, -2 * k):
        k += 1
    return k


def _stretches(length: int) -> Iterator[tuple[int, int, int]]:
    """Where a stretch starts, and its rows and their length; one row for a short last block."""
    whole = length - length % BLOCK
    for at in range(0, whole, _STRETCH):
        yield at, min(_STRETCH, whole - at) // BLOCK, BLOCK
    if whole < length:
        yield whole, 1, length - whole


def _column(grid: NDArray[np.float64], at: int, rows: int) -> NDArray[np.float64]:
    """One number for each row of a stretch that starts at entry `at`."""
    first = at // BLOCK
    return grid[first : first + rows, np.newaxis]


def spread(exponents: Exponents, at: int, size: int) -> NDArray[np.int32]:
    """The exponent of each of `size` entries from entry `at`, which starts a block."""
    first = at // BLOCK
    used = exponents[first : first + blocks(size)].astype(np.int32)
    return np.repeat(used, BLOCK)[:size]
