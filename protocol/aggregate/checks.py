"""Does a sum of shards equal the shards?  A few bytes per member tell (docs/protocol.md §5.9).

Members commit to their shards, the reporter to its sum; only then is a seed drawn.  It gives
every entry a coefficient in the field of p = 2^61 - 1 elements.  Each member signs the
combination of its own shard, 8 bytes; the combination of the true sum is their sum.  A sum
that differs anywhere passes with probability 1/p.

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

from protocol.aggregate.masks import apply
from protocol.aggregate.ring import Elements, Ring
from protocol.errors import LocalProtocolError
from protocol.types import DIGEST_BYTES
from protocol.wire import require_length

PRIME = (1 << 61) - 1
MEMBERS_AT_MOST = 256
"""A carry is one byte."""

_LABEL = b"rexis-check-1"
_CHUNK = 1 << 15
_LOW = np.uint64((1 << 31) - 1)
_HALF = np.uint64((1 << 32) - 1)


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
    """Σ r_j · x_j mod p over entries `start` and following of the vector.

    Entries are below 2^32; `start` is even, as starts of shards are.
    """
    require_length("check seed", seed, DIGEST_BYTES)
    key = hashlib.sha256(_LABEL + seed).digest()
    low = high = 0
    for at in range(0, words.size, _CHUNK):
        x = words[at : at + _CHUNK].astype(np.uint64)
        r = np.zeros(2 * x.size, "<u4")
        apply(r, 2 * (start + at), [key], [])
        # 61 bits: the top three of eight bytes go.  p itself may come up, and counts as 0.
        wide = r.view("<u8") >> np.uint64(3)
        ends, tops = wide & _LOW, wide >> np.uint64(31)
        if words.dtype.itemsize <= 2:
            # 31 bits times 16, 2^15 times, stay below 2^63: no product need be kept.
            low += int(np.dot(ends, x))
            high += int(np.dot(tops, x))
        else:
            low += _total(ends * x)
            high += _total(tops * x)
    return (low + (high << 31)) % PRIME


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


def _total(products: NDArray[np.uint64]) -> int:
    """The exact sum of up to 2^31 products below 2^64."""
    upper = int((products >> np.uint64(32)).sum(dtype=np.uint64))
    lower = int((products & _HALF).sum(dtype=np.uint64))
    return (upper << 32) + lower
