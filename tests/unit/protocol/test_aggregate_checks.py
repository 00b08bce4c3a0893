import numpy as np
import pytest

from protocol.aggregate import checks
from protocol.aggregate.ring import Ring
from protocol.errors import LocalProtocolError

SEED = bytes(range(32))


def shards(ring: Ring, members: int, size: int, seed: int = 0) -> list[np.ndarray]:
    chance = np.random.default_rng(seed)
    return [
        chance.integers(0, 1 << ring.bits, size, dtype=np.uint64).astype(ring.dtype)
        for _ in range(members)
    ]


@pytest.mark.parametrize("ring", [Ring(16, 8), Ring(32, 20)])
@pytest.mark.parametrize("members", [2, 3, 64])
def test_a_sum_is_what_its_members_combinations_add_up_to(ring, members):
    parts = shards(ring, members, 40_001)
    total, carry = checks.add(parts, ring, carry=True)
    tag = sum(checks.combination(part, 8, SEED) for part in parts)
    assert checks.holds(total, carry, ring, 8, SEED, members=members, tag=tag)


def coefficient(entry: int) -> int:
    """Of one entry, by the combination of a vector that is 1 there and nowhere else."""
    start = entry - entry % 8
    one = np.zeros(8, np.uint32)
    one[entry % 8] = 1
    return checks.combination(one, start, SEED)


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("start", [0, 8, 4088, 9000])
def test_the_combination_is_the_one_of_whole_numbers(bits, start):
    chance = np.random.default_rng(bits)
    words = chance.integers(0, 1 << bits, 10_000, dtype=np.uint64).astype(
        f"<u{bits // 8}"
    )
    words[chance.random(10_000) < 0.998] = 0
    words[[0, -1]] = (1 << bits) - 1
    wanted = sum(
        int(words[at]) * coefficient(start + int(at)) for at in np.flatnonzero(words)
    )
    assert checks.combination(words, start, SEED) == wanted % checks.PRIME


def test_an_empty_slice_weighs_nothing():
    for kind in ("<u2", "<u4"):
        assert checks.combination(np.zeros(0, kind), 8, SEED) == 0


def test_the_largest_entries_add_up_without_a_rounding():
    for kind in ("<u2", "<u4"):
        full = np.full(3 * checks.ROW, np.iinfo(kind).max, kind)
        ones = checks.combination(np.ones(full.size, kind), 0, SEED)
        wanted = np.iinfo(kind).max * ones % checks.PRIME
        assert checks.combination(full, 0, SEED) == wanted


def test_no_two_rows_and_no_two_places_weigh_the_same():
    row = checks.ROW
    found = {coefficient(at) for at in (0, 1, 2, row, row + 1, 2 * row, 2 * row + 1)}
    assert len(found) == 7
    # A product of the two numbers, not their sum: exchanges across rows do not cancel.
    cross = coefficient(0) - coefficient(1) - coefficient(row) + coefficient(row + 1)
    assert cross % checks.PRIME


@pytest.mark.parametrize("ring", [Ring(16, 8), Ring(32, 20)])
def test_one_changed_entry_never_passes(ring):
    parts = shards(ring, 4, 5000, 1)
    total, carry = checks.add(parts, ring, carry=True)
    tag = sum(checks.combination(part, 0, SEED) for part in parts)
    chance = np.random.default_rng(2)
    for _ in range(50):
        wrong = total.copy()
        wrong[chance.integers(5000)] ^= ring.dtype.type(1 << chance.integers(ring.bits))
        assert not checks.holds(wrong, carry, ring, 0, SEED, members=4, tag=tag)
        moved = carry.copy()
        moved[chance.integers(5000)] ^= 1
        assert not checks.holds(total, moved, ring, 0, SEED, members=4, tag=tag)


def test_a_changed_carry_cannot_pay_for_a_changed_entry():
    ring = Ring(32, 20)
    parts = shards(ring, 4, 1000, 3)
    total, carry = checks.add(parts, ring, carry=True)
    tag = sum(checks.combination(part, 0, SEED) for part in parts)
    # +2^31 twice in one entry is a carry; in two entries it is a forgery.
    wrong = total.copy()
    wrong[[5, 6]] += np.uint32(1 << 31)
    moved = carry.copy()
    moved[5] += np.uint8(1)
    assert not checks.holds(wrong, moved, ring, 0, SEED, members=4, tag=tag)


def test_in_the_ring_a_top_bit_would_pass_half_of_the_time():
    """Why the check is over whole numbers: the same combination mod 2^32, forged."""
    chance = np.random.default_rng(4)
    passed = 0
    for _ in range(400):
        r = chance.integers(0, 1 << 32, 64, dtype=np.uint64)
        total = chance.integers(0, 1 << 32, 64, dtype=np.uint64)
        forged = total.copy()
        forged[7] ^= np.uint64(1 << 31)
        ring_sum = (r * total).sum() & np.uint64(0xFFFFFFFF)
        passed += ring_sum == (r * forged).sum() & np.uint64(0xFFFFFFFF)
    assert 140 < passed < 260


def test_a_false_tag_fails_too():
    ring = Ring(16, 8)
    parts = shards(ring, 3, 100)
    total, carry = checks.add(parts, ring, carry=True)
    tag = sum(checks.combination(part, 0, SEED) for part in parts) + 1
    assert not checks.holds(total, carry, ring, 0, SEED, members=3, tag=tag)


def test_carries_of_more_members_than_there_are_fail():
    ring = Ring(16, 8)
    parts = shards(ring, 3, 100)
    total, carry = checks.add(parts, ring, carry=True)
    tag = checks.combination_of_sum(total, carry, ring, 0, SEED)
    assert checks.holds(total, carry, ring, 0, SEED, members=3, tag=tag)
    assert not checks.holds(
        total, np.full_like(carry, 3), ring, 0, SEED, members=3, tag=tag
    )


def test_nothing_and_unequal_shards_are_refused():
    ring = Ring(32, 20)
    with pytest.raises(LocalProtocolError, match="no shard"):
        checks.add([], ring, carry=False)
    with pytest.raises(LocalProtocolError, match="cannot be summed"):
        checks.add([np.zeros(3, "<u4"), np.zeros(4, "<u4")], ring, carry=False)
    with pytest.raises(LocalProtocolError, match="cannot be checked"):
        checks.combination_of_sum(
            np.zeros(3, "<u4"), np.zeros(2, np.uint8), ring, 0, SEED
        )
