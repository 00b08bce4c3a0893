"""Sums of queries that survive a drop-out, and what nobody can open."""

import dataclasses
import hashlib

import msgspec
import numpy as np
import pytest

from node.adapters.memory_signer import memory_signer
from protocol.errors import (
    DealerError,
    MalformedMessageError,
    ProtocolError,
    VerificationError,
)
from protocol.queries import recovery
from protocol.queries.recovery import Asked, Opened, Survivors
from protocol.queries.spec import Named, Query
from protocol.rounds import prekeys
from protocol.wire import decode, encode

SIZE = 6


def coins(cohort, number):
    size = prekeys.coins_bytes(cohort)
    return hashlib.shake_256(b"%d" % number).digest(size)


class Institutions:
    """What each of six deals, sends, signs and gives."""

    def __init__(self, size=SIZE):
        self.keys = sorted(
            (memory_signer(n) for n in range(size)), key=lambda k: k.public_key
        )
        named = tuple(Named(n, bytes([n]) * 32) for n in range(size))
        self.query = Query(
            "histogram", named, ("x",), 1000, bytes(32), bytes(32), bins=8, high=1.0
        )
        owners = {key.public_key: key.seal_key for key in self.keys}
        self.cohort = recovery.cohort_of(self.query, owners)
        self.dealt = [
            prekeys.deal(
                self.cohort, key.public_key, 0, 0, key.agree, coins(self.cohort, n)
            )
            for n, key in enumerate(self.keys)
        ]
        self.readys = tuple(
            recovery.seal_ready(key.sign, key.public_key, self.query, dealt.prekey)
            for key, dealt in zip(self.keys, self.dealt, strict=True)
        )
        self.made = recovery.open_readys(self.readys, self.query, self.cohort)
        self.context = recovery.context_of(self.query, self.made)
        self.plain = [np.arange(8, dtype=np.uint64) + 100 * n for n in range(size)]

    def vector(self, n):
        words = self.plain[n].copy()
        me = self.keys[n].public_key
        recovery.mask(words, self.dealt[n], me, self.made, self.context)
        return words

    def said(self, places):
        return Survivors(self.query.id(), self.context, sum(1 << p for p in places))

    def vote(self, n, places):
        key = self.keys[n]
        return recovery.seal_vote(
            key.sign, key.public_key, self.query, self.said(places)
        )

    def opened(self, n, survivors):
        me = self.keys[n]
        held = {
            dealer: prekeys.take(self.cohort, dealer, made, me.public_key, me.agree)
            for dealer, made in self.made.items()
        }
        return recovery.released(held, self.cohort, survivors)

    def secrets(self, survivors, holders):
        opened = {self.keys[n].public_key: self.opened(n, survivors) for n in holders}
        return recovery.opened_secrets(opened, self.made, self.cohort, survivors)


@pytest.fixture(scope="module")
def all_six():
    return Institutions()


def added(vectors):
    return np.sum(vectors, axis=0, dtype=np.uint64)


@pytest.mark.parametrize("gone", [(), (0,), (3,), (5,)])
def test_the_sum_over_the_survivors_is_theirs_to_the_last_bit(all_six, gone):
    alive = [n for n in range(SIZE) if n not in gone]
    said = all_six.said(alive)
    secrets = all_six.secrets(said.set, alive[:4])
    total = added([all_six.vector(n) for n in alive])
    assert not np.array_equal(total, added([all_six.plain[n] for n in alive]))
    recovery.unmask(total, secrets, all_six.made, all_six.cohort, said)
    assert np.array_equal(total, added([all_six.plain[n] for n in alive]))


def test_a_vector_that_comes_late_stays_masked_by_its_seed(all_six):
    """The others' shares open the pair masks of who dropped out, never both of its masks."""
    alive = [0, 1, 2, 3, 4]
    said = all_six.said(alive)
    secrets = all_six.secrets(said.set, alive)
    late = all_six.vector(5)
    key = all_six.keys[5].public_key
    pairs = prekeys.exchanges(
        secrets[5], [all_six.made[all_six.keys[n].public_key].public for n in alive]
    )
    plus, minus = [], []
    for n, agreed in zip(alive, pairs, strict=True):
        other = all_six.keys[n].public_key
        pair = recovery.pair_key(agreed, all_six.context, key, other)
        (minus if key < other else plus).append(pair)
    recovery.apply(late, 0, plus, minus)
    assert not np.array_equal(late, all_six.plain[5])
    own = recovery.self_key(all_six.dealt[5].seed, all_six.context, key)
    recovery.apply(late, 0, [], [own])
    assert np.array_equal(
        late, all_six.plain[5]
    )  # control: the seed was all that hid it


def test_fewer_shares_than_the_threshold_and_forged_ones_open_nothing(all_six):
    said = all_six.said(range(SIZE))
    with pytest.raises(VerificationError, match="3 good shares, 4 open"):
        all_six.secrets(said.set, [0, 1, 2])
    opened = {all_six.keys[n].public_key: all_six.opened(n, said.set) for n in range(4)}
    first = all_six.keys[0].public_key
    forged = (bytes(32), *opened[first].shares[1:])
    opened[first] = Opened(forged)
    with pytest.raises(VerificationError, match="3 good shares"):
        recovery.opened_secrets(opened, all_six.made, all_six.cohort, said.set)
    # Of one kind for one member only: a seed's shares are no key's.
    other = all_six.said([0, 1, 2, 3, 4])
    mixed = {all_six.keys[n].public_key: all_six.opened(n, other.set) for n in range(4)}
    with pytest.raises(VerificationError, match="good shares"):
        recovery.opened_secrets(mixed, all_six.made, all_six.cohort, said.set)


def test_a_set_is_certified_by_a_quorum_of_its_own_members_and_by_no_less(all_six):
    alive = [0, 1, 2, 3, 4]
    votes = [all_six.vote(n, alive) for n in alive]
    certified = recovery.certified(votes, all_six.query, all_six.cohort)
    assert certified == all_six.said(alive)
    check = (all_six.query, all_six.cohort)
    for bad in (votes[:4], [*votes[:4], votes[3]], []):
        with pytest.raises(VerificationError, match="needs 5"):
            recovery.certified(bad, *check)
    split = [*votes[:4], all_six.vote(4, [0, 1, 2, 4, 5])]
    with pytest.raises(VerificationError, match="4 have signed the same"):
        recovery.certified(split, *check)
    with pytest.raises(VerificationError, match="not in the set"):
        recovery.certified([*votes[:4], all_six.vote(5, alive)], *check)
    small = [all_six.vote(n, [0, 1, 2, 3]) for n in range(4)]
    with pytest.raises(VerificationError, match="needs 5"):
        recovery.certified(small, *check)
    with pytest.raises(VerificationError, match="2 of 6"):
        recovery.survivors_of(all_six.cohort, [k.public_key for k in all_six.keys[:2]])
    other = msgspec.structs.replace(all_six.query, nonce=bytes([1]) * 32)
    with pytest.raises(ProtocolError):
        recovery.certified(votes, other, all_six.cohort)


def test_pre_keys_of_another_question_or_missing_ones_are_refused(all_six):
    with pytest.raises(VerificationError, match="institutions with a pre-key"):
        recovery.open_readys(all_six.readys[:5], all_six.query, all_six.cohort)
    other = msgspec.structs.replace(all_six.query, nonce=bytes([1]) * 32)
    with pytest.raises(VerificationError, match="query of a pre-key"):
        recovery.open_readys(all_six.readys, other, all_six.cohort)
    five = Institutions(5)
    moved = [
        recovery.seal_ready(k.sign, k.public_key, all_six.query, d.prekey)
        for k, d in zip(five.keys, five.dealt, strict=True)
    ]
    with pytest.raises(VerificationError, match="other institutions"):
        recovery.open_readys(moved, all_six.query, all_six.cohort)


def bent_ready(made, n, **changes):
    """What institution n says, with something else in its pre-key."""
    prekey = msgspec.structs.replace(made.dealt[n].prekey, **changes)
    key = made.keys[n]
    return recovery.seal_ready(key.sign, key.public_key, made.query, prekey)


def test_a_pre_key_is_under_a_number_that_its_dealer_drew(all_six):
    last = bent_ready(all_six, 0, number=recovery.NUMBERS - 1)
    opened = recovery.open_readys(
        [last, *all_six.readys[1:]], all_six.query, all_six.cohort
    )
    first = all_six.keys[0].public_key
    assert opened[first].number == recovery.NUMBERS - 1
    for number, words in ((-1, "pre-key -1"), (recovery.NUMBERS, "limit is")):
        with pytest.raises(MalformedMessageError, match=words):
            recovery.open_ready(
                bent_ready(all_six, 0, number=number), all_six.query, all_six.cohort
            )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sealed": (bytes(80),) * 5 + (bytes(79),)}, "sealed shares has 79 bytes"),
        ({"shares": (bytes(64),) * 5 + (bytes(63),)}, "share digests has 63 bytes"),
        ({"sealed": (bytes(80),) * 5}, "6 share digests and 5 sealed"),
        (
            {"sealed": (bytes(80),) * 5, "shares": (bytes(64),) * 5},
            "has not 6 shares",
        ),
        ({"public": bytes(31)}, "public key has 31 bytes"),
        ({"public": bytes(32)}, "public key of a pre-key"),
        ({"seed": b""}, "seed digest has 0 bytes"),
    ],
)
def test_a_pre_key_of_another_shape_is_refused(all_six, changes, words):
    with pytest.raises(ProtocolError, match=words):
        recovery.open_ready(
            bent_ready(all_six, 5, **changes), all_six.query, all_six.cohort
        )


@pytest.mark.parametrize(("gone", "what"), [((), "seed"), ((2,), "key")])
def test_who_dealt_shares_of_another_secret_is_named(gone, what):
    """Each share is what was promised; what they join to is not."""
    made = Institutions()
    dealer, other = made.keys[2], made.dealt[3].prekey
    made.dealt[2] = dataclasses.replace(
        made.dealt[2],
        prekey=msgspec.structs.replace(
            made.dealt[2].prekey, public=other.public, seed=other.seed
        ),
    )
    made.made[dealer.public_key] = made.dealt[2].prekey
    said = made.said([n for n in range(SIZE) if n not in gone])
    with pytest.raises(DealerError, match=f"another {what} than it") as caught:
        made.secrets(said.set, [0, 1, 3, 4])
    assert caught.value.dealer == dealer.public_key
    assert dealer.public_key.hex()[:16] in str(caught.value)


@pytest.mark.parametrize("gone", [(), (3,)])
def test_an_opened_secret_of_another_length_or_another_member_is_named(all_six, gone):
    """In a bundle that somebody else wrote."""
    alive = [n for n in range(SIZE) if n not in gone]
    said = all_six.said(alive)
    secrets = all_six.secrets(said.set, alive)
    name = all_six.keys[3].public_key.hex()[:16]
    for bad in (b"", secrets[3][:31], secrets[3] + b"\0", secrets[2]):
        total = added([all_six.vector(n) for n in alive])
        with pytest.raises(ProtocolError, match=name):
            recovery.unmask(
                *(total, [*secrets[:3], bad, *secrets[4:]]),
                *(all_six.made, all_six.cohort, said),
            )


@pytest.mark.parametrize("size", [4, 18, 64])
def test_never_fewer_than_three_are_summed_and_messages_have_room(size):
    made = Institutions(size)
    assert made.cohort.thresholds.quorum >= max(3, made.cohort.thresholds.shares)
    asked = encode(Asked(bytes(200_000), made.readys))
    assert len(asked) <= recovery.ASKED_LIMIT_BYTES
    assert decode(asked, Asked, limit_bytes=recovery.ASKED_LIMIT_BYTES).readys
    assert max(map(len, made.readys)) <= recovery.READY_LIMIT_BYTES
    opened = encode(made.opened(0, (1 << size) - 1))
    assert len(opened) <= recovery.OPEN_LIMIT_BYTES
