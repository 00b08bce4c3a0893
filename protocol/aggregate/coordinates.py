"""Which entries of an update travel in a round, where a run's links are thin (docs/protocol.md §5.12).

The vector is cut into stretches of `one_in` entries, and of each stretch one entry travels, drawn
from a seed that every member knows: the run's name and the round's number.  So all members sum
the same entries, nothing is sent to say which, and each entry has the same chance.  Drawn within
stretches rather than from the whole vector, the entries are in order, their number is fixed, and
any part of them can be drawn by itself.

What does not travel is kept by its member (`kept`) and added to its next update.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.aggregate import masks
from protocol.aggregate.ring import Floats
from protocol.errors import LocalProtocolError
from protocol.types import KEY_BYTES, Digest, digest
from protocol.wire import require_length

ONE_IN_AT_MOST = 64
"""Bounds what a step holds of the base at a time, 16 MiB; thinner sums learn too slowly to matter."""

_LABEL = b"rexis-coordinates-1"
_WORDS = masks.BLOCK_BYTES // 4
"""Words of a cipher block: where a part may begin."""


def count(size: int, one_in: int) -> int:
    """Entries that travel of a vector of `size`; the last stretch may be short."""
    return -(-size // one_in)


def seed(run: bytes, number: int) -> Digest:
    """The seed of round `number`: one for all its attempts, whose update is the same."""
    return digest(_LABEL + run + number.to_bytes(8, "big"))


@dataclass(frozen=True)
class Chosen:
    """The entries of a vector of `size` that travel in one round."""

    seed: bytes
    size: int
    one_in: int

    def check(self) -> None:
        """Raise `LocalProtocolError` unless there is such a choice."""
        require_length("seed of a choice", self.seed, KEY_BYTES)
        if not 1 <= self.one_in <= ONE_IN_AT_MOST:
            raise LocalProtocolError(
                f"one entry in {self.one_in}, need 1 to {ONE_IN_AT_MOST}"
            )

    def span(self, first: int, many: int) -> tuple[int, int]:
        """Which part of the vector holds the entries `first` to `first + many`."""
        return first * self.one_in, min((first + many) * self.one_in, self.size)

    def places(self, first: int = 0, many: int | None = None) -> NDArray[np.int64]:
        """Where they are, ascending: one in each stretch; `first` is a multiple of 4."""
        self.check()
        if many is None:
            many = count(self.size, self.one_in) - first
        # The keystream of §5.4, four bytes to a stretch.  Of 2^32 values a remainder by at
        # most 64 favours none by more than 2^-26.
        words = np.zeros(-(-many // _WORDS) * _WORDS, np.uint32)
        masks.apply(words, first, (self.seed,), ())
        starts = np.arange(first, first + many, dtype=np.int64) * self.one_in
        widths = np.minimum(self.one_in, self.size - starts)
        return starts + words[:many].astype(np.int64) % widths


def kept(update: Floats, places: NDArray[np.int64]) -> Floats:
    """What of an update has not travelled."""
    left = update.copy()
    left[places] = 0
    return left
