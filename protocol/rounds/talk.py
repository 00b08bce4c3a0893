"""Who is here, who is behind, and what they are told (§7.3).

Heartbeats promise nothing and are never recorded.  They say where a member is; one that has
heard nothing new for a while asks, and everyone answers with its own statements of the
present attempt, with the certificates that led there, and with the statements of members
that cannot answer for themselves.  So a lost message, or a whole restart, costs one question.
"""

import msgspec

from protocol.rounds.desk import Desk
from protocol.rounds.events import Publish
from protocol.rounds.messages import Heard, Heartbeat
from protocol.rounds.policy import Cohort
from protocol.types import Millis

ASK_DOUBLINGS = 4
"""A member left alone asks at most sixteen times slower than at first."""


PATIENT_ASKS = 4
"""So many times `ask_ms` after its last step a member asks although it still hears news: in a
large federation there is always some, and the one statement it lacks may not be among them."""


class Beat(msgspec.Struct, frozen=True):
    """The last heartbeat of a member."""

    body: Heartbeat
    round: int
    at: Millis


class Talk:
    """Heartbeats, out and in."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.beats: dict[bytes, Beat] = {}
        self._heard_at: dict[bytes, Millis] = {}
        self._answered: dict[bytes, Millis] = {}
        self._beat_at: Millis | None = None
        self._ask_at: Millis | None = None
        self._asks = 0
        self._stepped_at = Millis(0)

    def hear(self, heard: Heard, body: Heartbeat, cohort: Cohort, now: Millis) -> bool:
        """Note where a member is.  True: that is news, of somebody who was away or has moved."""
        if len(body.held) != len(cohort.members) or heard.context != cohort.name:
            return False
        self._heard_at[heard.sender] = now
        before = self.beats.get(heard.sender)
        self.beats[heard.sender] = Beat(body, heard.round, now)
        return (
            before is None
            or now - before.at > cohort.policy.fresh_ms
            or before.body.place() != body.place()
        )

    def may_answer(self, member: bytes, cohort: Cohort, now: Millis) -> bool:
        """Was a member not told what it may have missed just now?"""
        last = self._answered.get(member)
        return last is None or now - last >= cohort.policy.ask_ms // 2

    def answered(self, member: bytes, now: Millis) -> None:
        self._answered[member] = now

    def expected(self, cohort: Cohort, now: Millis) -> frozenset[bytes]:
        """Members heard from lately, this node included."""
        oldest = now - cohort.policy.fresh_ms
        alive = {m for m, b in self.beats.items() if b.at >= oldest}
        alive &= cohort.everyone
        alive.add(self._desk.me)
        return frozenset(alive)

    def away(self, cohort: Cohort, now: Millis) -> tuple[bytes, ...]:
        """Members not heard from lately, in whatever round they were: for people to read."""
        oldest = now - cohort.policy.fresh_ms
        return tuple(
            m
            for m in cohort.members
            if m != self._desk.me and self._heard_at.get(m, oldest - 1) < oldest
        )

    def ahead(self, number: int) -> int:
        """How many members were last heard of in a later round than this."""
        return sum(1 for beat in self.beats.values() if beat.round > number)

    def progress(self, cohort: Cohort, now: Millis) -> None:
        """Something new was heard or done: no need to ask for a while."""
        if now - self._stepped_at < PATIENT_ASKS * cohort.policy.ask_ms:
            self._asks = 0
            self._ask_at = Millis(now + cohort.policy.ask_ms)

    def step(self, cohort: Cohort, now: Millis) -> None:
        """The next phase, attempt or round has begun for this member."""
        self._stepped_at = now
        self.progress(cohort, now)

    def hurry(self) -> None:
        """What the next heartbeat says is news: do not wait for its time."""
        self._beat_at = None

    def due(self, cohort: Cohort, now: Millis) -> bool:
        """Is it time for a heartbeat?"""
        return self._beat_at is None or now - self._beat_at >= cohort.policy.beat_ms

    def asks(self, cohort: Cohort, now: Millis) -> int:
        """How often nothing new has come for so long that this heartbeat should ask; or 0."""
        if self._ask_at is None:
            self._ask_at = Millis(now + cohort.policy.ask_ms)
        if now < self._ask_at:
            return 0
        self._asks += 1
        pause = cohort.policy.ask_ms << min(self._asks, ASK_DOUBLINGS)
        self._ask_at = Millis(now + pause)
        return self._asks

    def beat(
        self, cohort: Cohort, number: int, attempt: int, body: Heartbeat, now: Millis
    ) -> None:
        """Tell everyone where this member is."""
        self._beat_at = now
        self._desk.do(Publish(self._desk.sealed(cohort.name, number, attempt, body)))

    def forget(self, before: int) -> None:
        """A round is over: heartbeats from before it say nothing about the next."""
        self.beats = {m: b for m, b in self.beats.items() if b.round >= before}
