"""Rings, pre-keys, slices, deadlines and messages, each alone."""

import itertools
import random

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)

from protocol.aggregate import masks
from protocol.aggregate.ring import (
    BLOCK,
    Ring,
    blocks,
    mean_factor,
    weight_factor,
)
from protocol.aggregate.shards import slices
from protocol.errors import (
    DealerError,
    LocalProtocolError,
    MalformedMessageError,
)
from protocol.rounds import prekeys
from protocol.rounds.deadlines import UploadTimes
from protocol.rounds.messages import Claim, Heard, Report, exclude_each_other
from protocol.rounds.policy import Cohort, Epoch, Policy, Seat, Thresholds
from protocol.rounds.prekeys import KEY, SEED
from protocol.rounds.settle import Released

CHANCE = random.Random(5)
SEALS = [X25519PrivateKey.from_private_bytes(bytes([i + 1]) * 32) for i in range(5)]
POLICY = Policy(100, 32, 20)


def agree(i: int):
    return lambda key: SEALS[i].exchange(X25519PublicKey.from_public_bytes(key))


def cohort(count: int = 5) -> Cohort:
    seats = tuple(
        Seat(bytes([i + 1]) * 32, SEALS[i].public_key().public_bytes_raw(), 10)
        for i in range(count)
    )
    return Cohort(Epoch(bytes(32), 0, seats, POLICY))


COHORT = cohort()


def dealt(member: int = 0, number: int = 0):
    coins = CHANCE.randbytes(prekeys.coins_bytes(COHORT))
    return prekeys.deal(COHORT, COHORT.members[member], number, 0, agree(member), coins)


# Thresholds and epochs -----------------------------------------------------------------


@pytest.mark.parametrize("n", range(3, 65))
def test_what_a_certificate_promises_holds_for_every_size(n):
    c = Thresholds(n)
    assert 2 * c.quorum - n >= c.liars + 1  # two quorums share an honest member
    assert c.shares > c.liars
    assert c.quorum <= n - c.liars  # liars cannot stop the rest
    assert c.shares <= n - c.liars
    assert n - c.quorum + c.liars < c.shares  # who refuses and who lies open nothing
    assert c.survivors >= 3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seats": 2}, "2 members"),
        ({"ring": (16, 16)}, "can reach"),
        ({"weight": 0}, "weight 0"),
        ({"twice": True}, "not sorted"),
        ({"length": 0}, "vector of 0"),
        ({"beat": 0}, "beat_ms is 0"),
    ],
)
def test_an_epoch_that_cannot_work_is_refused(change, told):
    seats = (
        list(cohort(change.get("seats", 5)).epoch.seats)
        if change.get("seats", 5) > 2
        else list(COHORT.epoch.seats[:2])
    )
    if "weight" in change:
        seats[1] = Seat(seats[1].node_key, seats[1].seal_key, 0)
    if change.get("twice"):
        seats[1] = seats[0]
    ring = change.get("ring", (32, 20))
    policy = Policy(change.get("length", 100), *ring, beat_ms=change.get("beat", 1000))
    with pytest.raises(MalformedMessageError, match=told):
        Epoch(bytes(32), 0, tuple(seats), policy).check()


# The ring --------------------------------------------------------------------------------


@pytest.mark.parametrize("ring", [Ring(16, 9), Ring(32, 20)])
def test_the_weighted_mean_comes_back_within_a_grid_step(ring):
    chance = np.random.default_rng(1)
    weights, length = [10, 20, 70], 2 * BLOCK + 17
    updates = [chance.normal(size=length).astype("f4") * 0.01 for _ in weights]
    exponents = np.array([-10, -9, -11], np.int8)
    total = np.zeros(length, ring.dtype)
    for update, weight in zip(updates, weights, strict=True):
        encoded = ring.encode(update, exponents, weight_factor(weight, 100, 3), chance)
        assert encoded.cut == 0
        total += encoded.words
    mean = ring.decode(total, exponents, mean_factor(100, 100, 3))
    wanted = sum(w * u for w, u in zip(weights, updates, strict=True)) / 100
    step = np.ldexp(1.0, np.repeat(exponents.astype(int), BLOCK)[:length])
    assert np.all(np.abs(mean - wanted) <= step * 1.001)


def test_rounding_by_chance_is_right_on_average():
    ring, chance = Ring(32, 20), np.random.default_rng(2)
    update = np.full(200_000, 0.3, "f4")
    words = ring.encode(update, np.zeros(blocks(200_000), np.int8), 1.0, chance).words
    assert abs(ring.signed(words).mean() - 0.3) < 0.005


def test_what_is_beyond_its_scale_is_cut_and_counted():
    ring = Ring(16, 8)
    update = np.array([1000.0, -1000.0, 1.0], "f4")
    encoded = ring.encode(update, np.zeros(1, np.int8), 1.0, np.random.default_rng(0))
    assert encoded.cut == 2
    assert list(ring.signed(encoded.words)) == [127, -127, 1]


def test_a_sum_beyond_its_members_is_a_stray():
    ring = Ring(16, 8)
    total = np.array([381, -381, 382, -382], "<i2").view("<u2")
    assert ring.strays(total, 3) == 2


def test_scales_follow_the_sum_and_a_power_of_four_more_moves_them_one():
    ring, chance = Ring(32, 20), np.random.default_rng(3)
    total = (chance.normal(size=BLOCK) * 1000).astype("<i4").view("<u4")
    first = ring.next_exponents(total, np.zeros(1, np.int8), 4)
    more = (ring.signed(total) * 2).astype("<i4").view("<u4")
    assert ring.next_exponents(more, np.zeros(1, np.int8), 4)[0] == first[0] + 1
    grid = 2.0 ** int(first[0]) * ring.limit
    rms = float(np.sqrt((ring.signed(total).astype(float) ** 2).mean() / 4))
    assert 6 * rms <= grid < 12.1 * rms
    assert ring.next_exponents(total * 0, np.array([-7], np.int8), 4)[0] == -7


def test_no_number_that_is_not_finite_gets_in():
    with pytest.raises(LocalProtocolError, match="finite"):
        Ring(32, 20).encode(
            np.array([np.nan], "f4"),
            np.zeros(1, np.int8),
            1.0,
            np.random.default_rng(0),
        )


# Masks and slices --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["<u2", "<u4"])
def test_a_slice_is_masked_as_within_the_whole(kind):
    key, whole = bytes(range(32)), np.zeros(100_000, kind)
    masks.apply(whole, 0, [key], [])
    part = np.zeros(1000, kind)
    masks.apply(part, 4000, [key], [])
    np.testing.assert_array_equal(part, whole[4000:5000])
    masks.apply(whole, 0, [], [key])
    assert not whole.any()
    with pytest.raises(LocalProtocolError, match="multiple of 16"):
        masks.apply(part, 1, [key], [])


@pytest.mark.parametrize("length", [1, 7, 40, 1003])
@pytest.mark.parametrize("size", [2, 4])
def test_slices_cover_the_vector_once_and_start_on_blocks(length, size):
    cut = slices(length, size, COHORT.members, bytes(32))
    assert next(s.start for s in cut) == 0
    assert cut[-1].stop == length
    assert all(a.stop == b.start for a, b in itertools.pairwise(cut))
    assert all(s.start * size % 16 == 0 or s.start == length for s in cut)
    assert sorted(s.order[0] for s in cut) == list(COHORT.members)
    assert all(sorted(s.order) == list(COHORT.members) for s in cut)


# Pre-keys --------------------------------------------------------------------------------------


def test_a_threshold_of_members_opens_either_secret():
    own = dealt(2)
    taken = [
        prekeys.take(COHORT, COHORT.members[2], own.prekey, m, agree(i))
        for i, m in enumerate(COHORT.members)
    ]
    assert all(taken)
    for kind, secret in ((SEED, own.seed), (KEY, own.secret)):
        shares = {i: s.of(kind) for i, s in enumerate(taken) if i != 1}
        opened = prekeys.open_secret(
            COHORT, COHORT.members[2], own.prekey, kind, shares
        )
        assert opened == secret
    with pytest.raises(LocalProtocolError, match="3 shares, need 4"):
        prekeys.open_secret(
            COHORT, COHORT.members[2], own.prekey, SEED, {0: b"", 1: b"", 2: b""}
        )


def test_a_share_of_another_kind_holder_or_number_is_not_taken_for_it():
    one, other = dealt(0, 0), dealt(0, 1)
    dealer, me = COHORT.members[0], COHORT.members[1]
    shares = prekeys.take(COHORT, dealer, one.prekey, me, agree(1))
    assert prekeys.is_share(COHORT, dealer, one.prekey, 1, SEED, shares.seed)
    assert not prekeys.is_share(COHORT, dealer, one.prekey, 1, KEY, shares.seed)
    assert not prekeys.is_share(COHORT, dealer, one.prekey, 2, SEED, shares.seed)
    assert not prekeys.is_share(COHORT, dealer, other.prekey, 1, SEED, shares.seed)


def test_right_shares_of_another_secret_name_the_dealer():
    honest, cheat = dealt(0), dealt(0)
    from msgspec.structs import replace

    forged = replace(cheat.prekey, seed=honest.prekey.seed, public=honest.prekey.public)
    dealer = COHORT.members[0]
    shares = {
        i: prekeys.take(COHORT, dealer, forged, m, agree(i))
        for i, m in enumerate(COHORT.members)
    }
    for kind in (SEED, KEY):
        with pytest.raises(DealerError, match=dealer.hex()[:16]):
            prekeys.open_secret(
                COHORT, dealer, forged, kind, {i: s.of(kind) for i, s in shares.items()}
            )


def test_shares_that_do_not_open_are_not_held():
    from msgspec.structs import replace

    own = dealt(0)
    spoilt = replace(own.prekey, sealed=(bytes(80),) * 5)
    dealer, me = COHORT.members[0], COHORT.members[1]
    assert prekeys.take(COHORT, dealer, spoilt, me, agree(1)) is None


def test_a_public_key_that_agrees_on_nothing_is_unusable():
    assert not prekeys.is_usable(bytes(32))
    assert prekeys.is_usable(dealt().prekey.public)


def test_secrets_are_not_in_any_repr():
    own = dealt()
    assert own.secret.hex() not in repr(own)
    assert repr(own.seed) not in repr(own)


def test_the_ledger_refuses_the_other_kind():
    ledger = Released()
    ledger.enter(b"prekey", SEED)
    ledger.enter(b"prekey", SEED)
    with pytest.raises(LocalProtocolError, match="both kinds"):
        ledger.enter(b"prekey", KEY)


# Deadlines and evidence ----------------------------------------------------------------------------


def test_deadlines_follow_what_uploads_took_within_floor_and_cap():
    times = UploadTimes(
        Policy(1, upload_floor_ms=100, upload_cap_ms=5000, slowest_bytes_per_s=1000)
    )
    assert times.allowed(10) == 400
    assert times.allowed(1000) == 4000
    for _ in range(8):
        times.add([900, 1000, 1100])
    assert times.allowed(10) == 1400
    assert times.allowed(3000) == 3000
    for _ in range(8):
        times.add([90_000])
    assert times.allowed(10) == 5000


def said(body, sender=b"a" * 32) -> Heard:
    return Heard(sender, b"c" * 32, bytes(32), 0, 0, body, b"", b"")


def test_only_two_different_words_in_one_place_exclude_each_other():
    one = Report(0, 0, 7, bytes(32), bytes(32), b"")
    assert exclude_each_other(
        said(one), said(Report(0, 0, 6, bytes(32), bytes(32), b""))
    )
    assert not exclude_each_other(said(one), said(one))
    assert not exclude_each_other(
        said(one), said(Report(0, 1, 6, bytes(32), bytes(32), b""))
    )
    assert not exclude_each_other(
        said(one), said(Report(0, 0, 6, bytes(32), bytes(32), b""), b"b" * 32)
    )
    claim = Claim(0, bytes(32), bytes(32), True, 0, 0)
    assert not exclude_each_other(said(one), said(claim))
