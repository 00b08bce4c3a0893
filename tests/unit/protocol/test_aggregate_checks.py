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


def test_the_combination_is_the_one_of_whole_numbers():
    words = shards(Ring(32, 20), 1, 1000)[0]
    ones = checks.combination(np.eye(1, 8, 3, dtype=np.uint32)[0], 992, SEED)
    assert (
        checks.combination(words[992:], 992, SEED)
        == sum(
            int(w)
            * checks.combination(np.array([1], np.uint32), 992 + 2 * (j // 2), SEED)
            if j % 2 == 0
            else int(w)
            * checks.combination(np.array([0, 1], np.uint32), 992 + j - 1, SEED)
            for j, w in enumerate(words[992:])
        )
        % checks.PRIME
    )
    assert ones == checks.combination(np.array([0, 1], np.uint32), 994, SEED)


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
