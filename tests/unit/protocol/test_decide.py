"""Decisions alone: random schedules, crashes of every member, and a proposer with two faces."""

import hashlib
import random
from dataclasses import dataclass, field

import pytest

from protocol.certificate import (
    NOTHING,
    Kind,
    Proposal,
    Slot,
    Step,
    Vote,
    check_shape,
    check_votes,
    value_name,
)
from protocol.decide import About, Decide
from protocol.errors import MalformedMessageError, VerificationError
from protocol.types import Millis

SLOT = Slot(bytes(32), bytes(32), 0, 0, Kind.OPEN, bytes(32))


def members(count: int) -> list[bytes]:
    return [bytes([i]) * 32 for i in range(count)]


def signature(sender: bytes, body) -> bytes:
    digest = hashlib.sha256(repr(body).encode()).digest()
    return sender[:8] + digest + bytes(24)


@dataclass
class Seat:
    """A member's chair: what it proposes, what it dislikes, and its record."""

    name: bytes
    net: "Net"
    value: bytes
    dislikes: frozenset[bytes] = frozenset()
    record: list = field(default_factory=list)
    machine: Decide | None = None

    def offer(self, _slot):
        return self.value

    def judge(self, _slot, value):
        return value not in self.dislikes

    def cast(self, body, about):
        place = (type(body), getattr(body, "step", 0), body.view)
        known = {(type(b), getattr(b, "step", 0), b.view): b for b, _, _ in self.record}
        assert known.get(place, body) == body, "two statements in one place"
        self.record.append((body, signature(self.name, body), about))
        self.net.send(self.name, body)
        return signature(self.name, body)

    def proven(self, vote, votes):
        return len({place for place, _ in votes}) >= self.net.quorum and all(
            sig == signature(self.net.names[place], vote) for place, sig in votes
        )


class Net:
    def __init__(self, count: int, seed: int, **kinds):
        self.chance = random.Random(seed)
        self.names = members(count)
        self.quorum = 2 * count // 3 + 1
        self.queue: list = []
        self.deaf: set[bytes] = set()
        self.seats = {
            n: Seat(n, self, b"value of %d" % i, **kinds)
            for i, n in enumerate(self.names)
        }
        for seat in self.seats.values():
            self.begin(seat)

    def begin(self, seat: Seat) -> None:
        decided = None if seat.machine is None else seat.machine.certificate
        seat.machine = Decide(
            SLOT, self.names, seat.name, seat, quorum=self.quorum, view_ms=100
        )
        seat.machine.resume(seat.record)
        seat.machine.start(Millis(0))
        if decided is not None:
            seat.machine.adopt(decided)  # a certificate is on record as well

    def send(self, sender, body):
        for name in self.names:
            if name != sender:
                self.queue.append((name, sender, body))

    def run(self, until: int = 20_000, lose: float = 0.0, crash: float = 0.0) -> None:
        for now in range(0, until, 10):
            for seat in self.seats.values():
                if seat.name not in self.deaf:
                    seat.machine.advance(Millis(now))
            self.chance.shuffle(self.queue)
            some, self.queue = self.queue[:200], self.queue[200:]
            for name, sender, body in some:
                if name in self.deaf or self.chance.random() < lose:
                    continue
                if self.chance.random() < crash:
                    self.begin(self.seats[name])
                    for body_said, _, _ in self.seats[name].record:
                        self.send(name, body_said)
                self.seats[name].machine.hear(
                    sender, body, signature(sender, body), Millis(now)
                )
            if now % 500 == 0:
                for seat in self.seats.values():
                    for body, _, _ in seat.record[-3:]:
                        self.send(seat.name, body)
                    decided = seat.machine.certificate
                    other = self.seats[self.chance.choice(self.names)]
                    if decided is not None and other.machine.certificate is None:
                        decided.check(self.names, self.quorum, self.verify)
                        other.machine.adopt(decided)

    def verify(self, key, message, sig):
        """Signatures here name their author; what they are on, the tally has compared."""
        return sig[:8] == key[:8]

    def values(self) -> set:
        return {s.machine.value for s in self.seats.values() if s.name not in self.deaf}


@pytest.mark.parametrize("seed", range(12))
def test_all_decide_the_same_whatever_is_lost_or_crashes(seed):
    net = Net(3 + seed % 5, seed)
    net.run(lose=0.15, crash=0.005)
    assert len(net.values()) == 1
    assert None not in net.values()


def test_a_third_may_be_silent():
    net = Net(7, 1)
    net.deaf = set(net.names[:2])
    net.run()
    assert len(net.values()) == 1
    assert None not in net.values()


def test_more_than_a_third_stop_it():
    net = Net(4, 1)
    net.deaf = set(net.names[:2])
    net.run(4000)
    assert net.values() == {None}


def test_a_value_nobody_likes_is_not_decided():
    net = Net(4, 2, dislikes=frozenset({b"value of 0", b"value of 1"}))
    net.run()
    assert net.values() <= {b"value of 2", b"value of 3"}


def test_within_as_many_views_as_members_everybodys_turn_comes():
    """Else two that are locked on a value could wait for theirs as long as chance will have it."""
    net = Net(4, 1)
    machine = net.seats[net.names[0]].machine
    for first in range(20):
        turns = {machine.proposer(view) for view in range(first, first + 4)}
        assert turns == set(net.names)


@pytest.mark.parametrize("seed", range(8))
def test_a_proposer_with_two_faces_cannot_split_the_others(seed):
    net = Net(4, seed)
    liar = net.seats[net.seats[net.names[0]].machine.proposer(0)]
    usual = net.send

    def send(sender, body):
        if sender != liar.name or not isinstance(body, Proposal):
            usual(sender, body)
            return
        other = Proposal(SLOT, body.view, b"another", -1, ())
        for place, name in enumerate(net.names):
            if name != sender:
                net.queue.append((name, sender, body if place % 2 else other))

    net.send = send
    net.begin(liar)
    net.run()
    honest = {s.machine.value for s in net.seats.values() if s is not liar}
    assert len(honest - {None}) <= 1


def test_a_lock_outlives_a_restart_of_everyone():
    """The whole federation loses its memory between precommit and decision."""
    net = Net(4, 3)
    for seat in net.seats.values():
        vote = Vote(SLOT, Step.PRECOMMIT, 0, value_name(b"locked"))
        prevote = Vote(SLOT, Step.PREVOTE, 0, value_name(b"locked"))
        proof = tuple((i, signature(n, prevote)) for i, n in enumerate(net.names[:3]))
        seat.record = [
            (prevote, signature(seat.name, prevote), About(b"locked")),
            (vote, signature(seat.name, vote), About(b"locked", proof)),
        ]
        net.begin(seat)
    net.queue.clear()
    net.run()
    assert net.values() == {b"locked"}


def test_a_follower_without_votes_decides_and_says_nothing():
    net = Net(4, 4)
    seat = net.seats[net.names[3]]
    seat.machine = Decide(
        SLOT, net.names, seat.name, seat, quorum=3, view_ms=100, votes=False
    )
    seat.record.clear()
    net.run()
    assert seat.record == []
    assert seat.machine.value is not None


def test_votes_far_ahead_fill_no_memory():
    net = Net(4, 5)
    machine = net.seats[net.names[0]].machine
    for view in range(40, 4000):
        vote = Vote(SLOT, Step.PREVOTE, view, NOTHING)
        machine.hear(net.names[1], vote, bytes(64), Millis(0))
    assert len(machine._tallies) < 8


@pytest.mark.parametrize(
    "votes",
    [
        [(0, b"a"), (1, b"b")],
        [(0, b"a"), (0, b"a"), (1, b"b")],
        [(0, b"a"), (1, b"b"), (9, b"c")],
    ],
)
def test_too_few_repeated_or_unknown_voters_make_no_certificate(votes):
    vote = Vote(SLOT, Step.PRECOMMIT, 0, bytes(32))
    with pytest.raises(VerificationError):
        check_votes(vote, votes, members(4), 3, lambda *_: True)


@pytest.mark.parametrize(
    "body",
    [
        Vote(SLOT, 3, 0, NOTHING),
        Vote(SLOT, Step.PREVOTE, -1, NOTHING),
        Vote(SLOT, Step.PREVOTE, 0, b"short"),
        Proposal(SLOT, 1, b"v", 1, ()),
        Proposal(SLOT, 1, b"v", 0, ((0, b"short"),)),
        Proposal(SLOT, 1, bytes(1 << 16), -1, ()),
        Vote(Slot(bytes(32), bytes(31), 0, 0, 1, bytes(32)), 1, 0, NOTHING),
        Vote(Slot(bytes(32), bytes(32), 0, 0, 9, bytes(32)), 1, 0, NOTHING),
    ],
)
def test_impossible_ballots_are_malformed(body):
    with pytest.raises(MalformedMessageError):
        check_shape(body)
