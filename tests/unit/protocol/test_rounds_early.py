"""What a member hears before the phase it belongs to: kept, and heard again if it comes again."""

import hashlib

import pytest

from protocol.certificate import Certificate, Kind, Slot
from protocol.rounds.attempt import Attempt
from protocol.rounds.desk import Desk
from protocol.rounds.messages import (
    Claim,
    Heard,
    Opening,
    PreKey,
    Report,
    Survivors,
    Tags,
)
from protocol.rounds.policy import Cohort, Epoch, Policy, Seat
from protocol.rounds.stock import Known
from protocol.types import Digest, Millis, PublicKey
from protocol.wire import encode

MEMBERS = [bytes([i]) * 32 for i in range(4)]
COHORT = Cohort(
    Epoch(bytes(32), 0, tuple(Seat(m, bytes([9]) * 32, 1) for m in MEMBERS), Policy(16))
)


class Host:
    """A run that waits for nobody."""

    def isolates(self, _members):
        return False

    def next_epoch(self, *, moves):
        return COHORT.name

    def may_follow(self, _epoch, *, moves):
        return True

    def expected(self, _now):
        return frozenset()


def known(member: bytes) -> Known:
    prekey = PreKey(COHORT.name, 0, 0, bytes(32), bytes(32), (), ())
    return Known(member, prekey, Digest(hashlib.sha256(member).digest()), b"", None)


@pytest.fixture
def attempt(keys) -> Attempt:
    opening = Opening(
        bytes(32),
        COHORT.name,
        0,
        0,
        bytes(32),
        bytes(32),
        bytes(32),
        COHORT.members,
        tuple((0, bytes(32)) for _ in MEMBERS),
    )
    slot = Slot(bytes(32), COHORT.name, 0, 0, Kind.OPEN, bytes(32))
    return Attempt(
        Host(),
        Desk(PublicKey(MEMBERS[0]), bytes(32), keys, lambda *_: True, {}),
        COHORT,
        Certificate(slot, 0, encode(opening), ()),
        opening,
        {member: known(member) for member in MEMBERS},
        None,
        None,
        1_000,
        Millis(0),
    )


def heard(attempt: Attempt, body, sender: bytes = MEMBERS[1]) -> Heard:
    return Heard(sender, attempt.context, bytes(32), 0, 0, body, b"", encode(body))


def claim(turn: int) -> Claim:
    return Claim(turn, bytes([turn]) * 32, bytes(32), True, 0, 0)


def certify(attempt: Attempt) -> None:
    """The certificate that opens the phase."""
    reports = tuple(Report(i, 0, 15, bytes(32), bytes(32), b"") for i in range(4))
    value = Survivors(15, bytes(32), reports, (0, 1, 2, 3))
    certificate = Certificate(attempt.survivors.slot, 0, encode(value), ())
    attempt.adopt(certificate, Millis(1))


def test_what_comes_early_is_not_taken_and_counts_later(attempt):
    said = heard(attempt, Tags((1, 2, 3, 4)))
    assert not attempt.hear(said, Millis(0))
    certify(attempt)
    assert attempt.settling._tags == {MEMBERS[1]: (1, 2, 3, 4)}
    assert attempt.hear(said, Millis(2))


@pytest.mark.parametrize("turns", [(0, 1), (1, 0), (2, 0, 1)])
def test_the_newest_early_claim_stands_in_whatever_order_they_come(attempt, turns):
    for turn in turns:
        assert not attempt.hear(heard(attempt, claim(turn)), Millis(0))
    certify(attempt)
    assert attempt.settling.claims[MEMBERS[1]].turn == max(turns)


def test_of_two_early_statements_in_one_place_the_first_stands(attempt):
    for values in ((1, 1, 1, 1), (2, 2, 2, 2)):
        attempt.hear(heard(attempt, Tags(values)), Millis(0))
    certify(attempt)
    assert attempt.settling._tags == {MEMBERS[1]: (1, 1, 1, 1)}
