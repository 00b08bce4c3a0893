"""How long is a masked update?  Random sketches after a rejection (docs/protocol.md §5.10).

Masks are linear, so a random functional of an update can be taken through them: members say
what their masks weigh under it, never the masks.  Thirty-two functionals per block estimate the
block's length to an eighth, which finds an update that is scaled, or full of noise, or has
the ring's top bit set, behind masks that are sound.

Coefficients are -1, 0 or 1 with weights 1/4, 1/2, 1/4.  Plain signs would never see two entries
off by half the ring: both signs of 2^(w-1) are the same there, and two of them cancel.

What it tells: 32 linear functionals per block and the length of each member's update.  It is
no proof of good data.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from protocol.aggregate.masks import Masks, apply
from protocol.aggregate.ring import Elements, Ring
from protocol.types import DIGEST_BYTES
from protocol.wire import require_length

FUNCTIONALS = 32
ENTRIES_AT_LEAST = 64 * FUNCTIONALS
"""Of a shorter block, as many functionals would tell more than one part in sixty-four."""
_BLOCK_BITS_AT_MOST = 16
"""Sums of 2^17 entries of 32 bits are exact in binary64: the last block may be nearly twice as
long as the others."""

Sketches = NDArray[np.uint64]
"""One row per block, one column per functional, in the ring."""
Pieces = Sequence[Elements]
"""A vector in pieces, in order."""

_LABEL = b"rexis-sketch-1"
_CHUNK = 1 << 13


def block_entries(ring: Ring) -> int:
    """Entries per block, so that a functional of an update of usual size stays in the ring.

    Scales leave an entry six times its root-mean-square, so a functional of 4^(w-b) entries has
    a deviation of an eighth of half the ring, and of at most a sixth in the last block.
    """
    room = min(_BLOCK_BITS_AT_MOST // 2, ring.bits - ring.input_bits)
    return int(1 << 2 * max(0, room))


def rows(length: int, ring: Ring) -> int:
    """Blocks of a vector, the last one up to twice as long; 0: it is not to be sketched."""
    each = block_entries(ring)
    return max(1, length // each) if min(length, each) >= ENTRIES_AT_LEAST else 0


def sketches(
    vectors: Sequence[Pieces],
    keys: Sequence[bytes],
    length: int,
    ring: Ring,
    seed: bytes,
) -> list[Sketches]:
    """Every functional of every block of whole vectors, and of the masks under `keys`.

    All of them in one go, because making the coefficients costs more than using them.
    """
    require_length("sketch seed", seed, DIGEST_BYTES)
    key = hashlib.sha256(_LABEL + seed).digest()
    each, count = block_entries(ring), rows(length, ring)
    sources = [_Reader(pieces) for pieces in vectors]
    streams = [Masks(ring.dtype, 0, [each_key], []) for each_key in keys]
    out = np.zeros((len(sources) + len(streams), count, FUNCTIONALS), np.int64)
    chunk = min(_CHUNK, each)
    wide = np.empty((chunk, len(out)))
    for at in range(0, length, chunk):
        size = min(chunk, length - at)
        for column, source in enumerate(sources):
            wide[:size, column] = source.take(size)
        for column, stream in enumerate(streams, len(sources)):
            mask = np.zeros(size, ring.dtype)
            stream.apply(mask)
            wide[:size, column] = mask
        exact = _coefficients(key, at, size) @ wide[:size]
        out[:, min(at // each, count - 1)] += exact.T.astype(np.int64)
    return [in_ring(one, ring) for one in out]


def in_ring(values: NDArray[np.int64], ring: Ring) -> Sketches:
    """Whole numbers modulo the ring."""
    return (values & ((1 << ring.bits) - 1)).astype(np.uint64)


def total(terms: Sequence[Sketches], ring: Ring) -> Sketches:
    """Their sum in the ring."""
    return in_ring(np.sum([each.astype(np.int64) for each in terms], axis=0), ring)


def of_update(
    masked: Sketches, plus: Sequence[Sketches], minus: Sequence[Sketches], ring: Ring
) -> NDArray[np.int64]:
    """Functionals of an update from those of its masked form and of its masks; signed."""
    left = masked.astype(np.int64)
    for each in plus:
        left = left - each.astype(np.int64)
    for each in minus:
        left = left + each.astype(np.int64)
    half = 1 << (ring.bits - 1)
    return ((left + half) & ((1 << ring.bits) - 1)) - half


def lengths(functionals: NDArray[np.int64]) -> NDArray[np.float64]:
    """Estimated length of each block: a functional's square is half the length's on average."""
    out: NDArray[np.float64] = np.sqrt(
        2 * (functionals.astype(float) ** 2).mean(axis=1)
    )
    return out


def packed_bytes(count: int, length: int, ring: Ring) -> int:
    """Size of so many packed sketches."""
    return count * rows(length, ring) * FUNCTIONALS * ring.bytes_each


def pack(several: Sequence[Sketches], ring: Ring) -> bytes:
    """Sketches one after the other, block by block, as entries of the ring."""
    return np.stack(several).astype(ring.dtype).tobytes()


def unpack(data: bytes, count: int, length: int, ring: Ring) -> list[Sketches] | None:
    """The sketches that `pack` made; None for another size."""
    if len(data) != packed_bytes(count, length, ring):
        return None
    words = np.frombuffer(data, ring.dtype).astype(np.uint64)
    return list(words.reshape(count, rows(length, ring), FUNCTIONALS))


class _Reader:
    """The next entries of a vector that lies in pieces."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = [piece for piece in pieces if piece.size]
        self._index = self._at = 0

    def take(self, count: int) -> NDArray[np.float64]:
        out, done = np.empty(count), 0
        while done < count:
            piece = self._pieces[self._index]
            part = piece[self._at : self._at + count - done]
            out[done : done + part.size] = part
            done += part.size
            self._at += part.size
            if self._at == piece.size:
                self._index, self._at = self._index + 1, 0
        return out


def _coefficients(key: bytes, start: int, size: int) -> NDArray[np.float64]:
    raw = np.zeros(2 * size, "<u4")
    apply(raw, 2 * start, [key], [])
    bits = np.unpackbits(raw.view(np.uint8).reshape(size, 8), axis=1)
    signs = bits[:, :FUNCTIONALS].astype(np.int8) + bits[:, FUNCTIONALS:] - 1
    return np.ascontiguousarray(signs.T, dtype=np.float64)
