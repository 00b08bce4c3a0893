"""How long is a masked update?  Random sketches after a rejection (docs/protocol.md §5.10).

Masks are linear, so a random functional of an update can be taken through them: members open
what their masks weigh under it, never the masks.  Thirty-two functionals per block estimate the
block's length to a few per cent, which finds an update that is scaled, or full of noise, or has
the ring's top bit set, behind masks that are sound.

Coefficients are -1, 0 or 1 with weights 1/4, 1/2, 1/4.  Plain signs would never see two entries
off by half the ring: both signs of 2^(w-1) are the same there, and two of them cancel.

What it tells: 32 linear functionals per block and the length of each member's update.  It runs
only after a rejection, and is no proof of good data.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from protocol.aggregate.masks import apply
from protocol.aggregate.ring import Elements, Ring
from protocol.errors import LocalProtocolError
from protocol.types import DIGEST_BYTES
from protocol.wire import require_length

FUNCTIONALS = 32
SKETCH_BLOCK = 1 << 16
"""Entries per block: sums of so many 32-bit entries are exact in binary64."""
SUSPICIOUS = 1.6
"""Lengths beyond the honest one by this: sixteen standard deviations of the estimate."""

Sketches = NDArray[np.uint64]
"""One row per block, one column per functional, in the ring."""

_LABEL = b"rexis-sketch-1"
_CHUNK = 1 << 13


def sketches(words: Elements, ring: Ring, seed: bytes) -> Sketches:
    """Every functional of every block of a whole vector."""
    require_length("sketch seed", seed, DIGEST_BYTES)
    key = hashlib.sha256(_LABEL + seed).digest()
    rows = -(-words.size // SKETCH_BLOCK)
    out = np.zeros((rows, FUNCTIONALS), np.int64)
    for at in range(0, words.size, _CHUNK):
        part = words[at : at + _CHUNK].astype(np.float64)
        exact = _coefficients(key, at, part.size) @ part
        out[at // SKETCH_BLOCK] += exact.astype(np.int64)
    return _in_ring(out, ring)


def of_mask(key: bytes, length: int, ring: Ring, seed: bytes) -> Sketches:
    """The same of one mask: what its two holders both open, and must agree on."""
    mask = np.zeros(length, ring.dtype)
    apply(mask, 0, [key], [])
    return sketches(mask, ring, seed)


def of_update(
    masked: Sketches, plus: Iterable[Sketches], minus: Iterable[Sketches], ring: Ring
) -> NDArray[np.int64]:
    """Functionals of an update from those of its masked form and of its masks; signed."""
    total = masked.astype(np.int64)
    for each in plus:
        total = total - each.astype(np.int64)
    for each in minus:
        total = total + each.astype(np.int64)
    half = 1 << (ring.bits - 1)
    return ((total + half) & ((1 << ring.bits) - 1)) - half


def lengths(functionals: NDArray[np.int64]) -> NDArray[np.float64]:
    """Estimated length of each block: a functional's square is half the length's on average."""
    out: NDArray[np.float64] = np.sqrt(
        2 * (functionals.astype(float) ** 2).mean(axis=1)
    )
    return out


def suspects(
    estimates: dict[bytes, NDArray[np.float64]],
) -> dict[bytes, NDArray[np.intp]]:
    """Members with blocks far longer than the median member's, and which blocks."""
    if len(estimates) < 3:
        raise LocalProtocolError(f"{len(estimates)} members have no typical one")
    typical = np.median(np.stack(list(estimates.values())), axis=0)
    found = {
        member: np.flatnonzero(each > SUSPICIOUS * np.maximum(typical, 1.0))
        for member, each in estimates.items()
    }
    return {member: where for member, where in found.items() if where.size}


def _coefficients(key: bytes, start: int, size: int) -> NDArray[np.float64]:
    raw = np.zeros(2 * size, "<u4")
    apply(raw, 2 * start, [key], [])
    bits = np.unpackbits(raw.view(np.uint8).reshape(size, 8), axis=1)
    signs = bits[:, :FUNCTIONALS].astype(np.int8) + bits[:, FUNCTIONALS:] - 1
    return np.ascontiguousarray(signs.T, dtype=np.float64)


def _in_ring(values: NDArray[np.int64], ring: Ring) -> Sketches:
    return (values & ((1 << ring.bits) - 1)).astype(np.uint64)
