"""Does a sum of shards equal the shards?  A few bytes per member tell (docs/protocol.md §5.9).

Members commit to their shards, the reporter to its sum; only then is a seed drawn.  It gives
every entry a coefficient in the field of p = 2^61 - 1 elements.  Each member signs the
combination of its own shard, 8 bytes; the combination of the true sum is their sum.

The coefficient of an entry is a product: one random number for its row of `ROW` entries,
another for its place within the row.  Were each entry's drawn by itself, drawing them would
cost more than all masks together.  A row that differs from the true one has a combination
of its places that is zero with probability 2^-60 at most (two of 2^61 draws are 0 mod p), and
if it is not, the combination of rows is zero with as much: a wrong sum passes with
probability 2^-59 at most.

Everything is read as whole numbers, not in the ring: mod 2^32 the coefficient of a changed
entry is even half of the time, and then a change of the top bit vanishes (zero divisors;
tests/unit/protocol/test_aggregate_checks.py has both).  So a sum comes with its carry: how
often each entry passed the end of the ring.  Carries are a function of masked shards and
tell nothing that those do not.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from protocol.aggregate.masks import BLOCK_BYTES, keystream
from protocol.aggregate.ring import Elements, Ring
from protocol.errors import LocalProtocolError
from protocol.types import DIGEST_BYTES
from protocol.wire import require_length

PRIME = (1 << 61) - 1
MEMBERS_AT_MOST = 256
"""A carry is one byte."""

ROW = 4096
"""Entries that share the first of their two numbers."""

_LABEL = b"rexis-check-2"
_TOP = np.uint64(3)
_ONES = np.uint64(PRIME)
_LIMB_BITS, _LIMBS = 21, 3
"""A coefficient in pieces: 16 bits of an entry times 21, 2^13 times, stay below 2^53, so float64
adds them without a rounding, whatever the order, at the speed of a dot product."""
_LIMB = np.uint64((1 << _LIMB_BITS) - 1)
_ROWS = 8
"""Rows worked on at a time: they stay in a core's second-level cache."""


def add(
    shards: Iterable[Elements], ring: Ring, *, carry: bool
) -> tuple[Elements, NDArray[np.uint8] | None]:
    """The sum of equally long shards in the ring, and how often each entry wrapped."""
    total: Elements | None = None
    wraps: NDArray[np.uint8] | None = None
    count = 0
    for shard in shards:
        count += 1
        if count > MEMBERS_AT_MOST:
            raise LocalProtocolError(f"more than {MEMBERS_AT_MOST} shards")
        if total is None:
            total = np.array(shard, ring.dtype)
            wraps = np.zeros(shard.size, np.uint8) if carry else None
            continue
        if total.shape != shard.shape:
            raise LocalProtocolError(
                f"shards of {total.size} and {shard.size} entries cannot be summed"
            )
        np.add(total, shard, out=total)
        if wraps is not None:
            # An unsigned sum is smaller than a term exactly where it wrapped.
            wraps += total < shard
    if total is None:
        raise LocalProtocolError("no shard to sum")
    return total, wraps


def combination(words: NDArray[np.unsignedinteger], start: int, seed: bytes) -> int:
    """Σ r_j · x_j mod p over entries `start` and following of the vector; 8, 16 or 32 bits each."""
    require_length("check seed", seed, DIGEST_BYTES)
    key = hashlib.sha256(_LABEL + seed).digest()
    if not words.size:  # the last slices of a short vector
        return 0
    first, stop = start // ROW, -(-(start + words.size) // ROW)
    lanes = max(1, words.dtype.itemsize // 2)
    # Short vectors are met where nothing is short of time but simulations.
    low, high = (start % ROW, words.size) if stop - first == 1 else (0, ROW)
    limbs = _places(key, low, high, lanes)
    numbers = _drawn(key, ROW + first, stop - first).tolist()
    wide = np.empty((_ROWS, limbs.shape[1]))
    total = at = 0
    for row in range(first, stop, _ROWS):
        end = min(ROW * (row + _ROWS) - start, words.size)
        halves = words[at:end].view("<u2") if lanes > 1 else words[at:end]
        sums = _row_sums(halves, ((start + at) % ROW - low) * lanes, wide, limbs)
        for number, each in zip(numbers[row - first :], sums, strict=False):
            total += number * each
        at = end
    return total % PRIME


def _drawn(key: bytes, first: int, count: int) -> NDArray[np.uint64]:
    """Random numbers `first` and following: 61 of every 64 bits; p itself counts as 0."""
    at = first - first % 2
    stream = keystream(key, 8 * at // BLOCK_BYTES, 8 * (first - at + count))
    return np.frombuffer(stream, "<u8")[first - at :] >> _TOP


def _places(key: bytes, low: int, count: int, lanes: int) -> NDArray[np.float64]:
    """Numbers of `count` places from `low` on, in limbs."""
    return _limbs(_drawn(key, low, count), lanes)


def _limbs(numbers: NDArray[np.uint64], lanes: int) -> NDArray[np.float64]:
    """Numbers of places in limbs; an entry of 32 bits is two lanes of 16."""
    each = np.empty((numbers.size, lanes), np.uint64)
    each[:, 0] = numbers
    if lanes > 1:  # times 2^16 mod 2^61 - 1 is a rotation of 61 bits
        each[:, 1] = (numbers << np.uint64(16) | numbers >> np.uint64(45)) & _ONES
    shifts = [np.uint64(_LIMB_BITS * limb) for limb in range(_LIMBS)]
    return np.array([(each.reshape(-1) >> by & _LIMB).astype(float) for by in shifts])


def _row_sums(
    words: NDArray[np.unsignedinteger],
    place: int,
    wide: NDArray[np.float64],
    limbs: NDArray[np.float64],
) -> list[int]:
    """For each row: Σ of its entries times the numbers of their places, exactly.

    `words` begin at `place` of the first row; what is missing of the first and last is zero.
    """
    rows = wide[: -(-(place + words.size) // wide.shape[1])]
    flat = rows.reshape(-1)
    flat[:place], flat[place + words.size :] = 0, 0
    flat[place : place + words.size] = words
    out = [0] * len(rows)
    for index, limb in enumerate(limbs):
        for row, each in enumerate(np.vecdot(rows, limb).tolist()):
            out[row] += int(each) << _LIMB_BITS * index
    return out


def combination_of_sum(
    total: Elements, carry: NDArray[np.uint8], ring: Ring, start: int, seed: bytes
) -> int:
    """The same of a sum over whole numbers, given as its ring part and its carry."""
    if total.size != carry.size:
        raise LocalProtocolError(
            f"{total.size} entries with {carry.size} carries cannot be checked"
        )
    ring_part = combination(total, start, seed)
    return (ring_part + (combination(carry, start, seed) << ring.bits)) % PRIME


def holds(
    total: Elements,
    carry: NDArray[np.uint8],
    ring: Ring,
    start: int,
    seed: bytes,
    *,
    members: int,
    tag: int,
) -> bool:
    """Is this the sum of the shards that members' combinations add up to `tag` for?"""
    if carry.size and int(carry.max()) >= members:
        return False
    return combination_of_sum(total, carry, ring, start, seed) == tag % PRIME


def packed_bytes(entries: int, members: int) -> int:
    """Size of a packed carry."""
    return max(1, (members - 1).bit_length()) * -(-entries // 8)


def pack(carry: NDArray[np.uint8], members: int) -> bytes:
    """A carry below `members` in as few bits per entry as that takes, bit by bit."""
    bits = max(1, (members - 1).bit_length())
    planes = [np.packbits((carry >> bit) & 1).tobytes() for bit in range(bits)]
    return b"".join(planes)


def unpack(packed: bytes, entries: int, members: int) -> NDArray[np.uint8]:
    """The carry that `pack` made; raises `LocalProtocolError` for another length."""
    wanted, each = packed_bytes(entries, members), -(-entries // 8)
    if len(packed) != wanted:
        raise LocalProtocolError(
            f"carry of {len(packed)} bytes, need {wanted} for {entries} entries"
        )
    bits = wanted // each if each else 0
    carry = np.zeros(entries, np.uint8)
    for bit in range(bits):
        plane = np.frombuffer(packed, np.uint8, each, bit * each)
        carry |= np.unpackbits(plane, count=entries) << bit
    return carry
