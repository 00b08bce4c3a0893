"""What this member wants decided of an attempt, and what it lets others decide (§5.4).

The chair of SURVIVORS and VERDICT, as `openings` is that of OPEN.  It decides nothing: it says
what follows from what was gathered and settled here.
"""

from collections.abc import Sequence
from typing import Protocol

from protocol.certificate import Kind, Proposal, Slot, Vote
from protocol.decide import About
from protocol.errors import MalformedMessageError
from protocol.rounds.desk import Desk
from protocol.rounds.gather import Gathering
from protocol.rounds.judgement import Judgement, Run
from protocol.rounds.messages import GIVEN_UP, Opening, Survivors, Verdict
from protocol.rounds.policy import Cohort
from protocol.rounds.setting import Setting
from protocol.rounds.settle import Settling
from protocol.types import Millis
from protocol.wire import decode, encode


class Host(Run, Protocol):
    """What an attempt asks of the run it belongs to."""

    def isolates(self, members: frozenset[bytes]) -> bool: ...

    def fresh_base(self) -> bool:
        """Was no sum rejected on the present base, as every member knows?"""

    def may_follow(self, epoch: bytes, *, moves: bool) -> bool:
        """May a verdict lead there, as far as this member knows?"""

    def expected(self, now: Millis) -> frozenset[bytes]:
        """Members heard from lately: whose claims are worth waiting for."""


class Chair:
    """One member on both questions of one attempt."""

    def __init__(
        self,
        host: Host,
        desk: Desk,
        cohort: Cohort,
        opening: Opening,
        setting: Setting,
        gathering: Gathering,
    ) -> None:
        self._host = host
        self._desk = desk
        self._cohort = cohort
        self._setting = setting
        self._gathering = gathering
        self._base = opening.base
        self._judgement = Judgement(host, cohort, opening, setting.context)
        self._judged: tuple[int, bytes, bool | None] = (-1, b"", None)
        """The last survivors judged, and with which version of what was gathered."""
        self.settling: Settling | None = None
        """What followed the survivors' certificate, once there is one."""
        self.now = setting.since
        backups = 2 * (cohort.thresholds.liars + 2) * setting.backup_ms
        self._hopeless_at = setting.since + 3 * setting.allowed_ms + backups

    def offer(self, slot: Slot) -> bytes | None:
        """A value for one of the two questions, if this member knows one."""
        if slot.kind == Kind.SURVIVORS:
            value = self._gathering.proposal()
            if value is not None and not self._isolates(value):
                return encode(value)
            return encode(GIVEN_UP) if self.hopeless() else None
        verdict = self.verdict()
        return None if verdict is None else encode(verdict)

    def judge(self, slot: Slot, value: bytes) -> bool | None:
        """May this be decided, as far as this member knows?"""
        try:
            if slot.kind == Kind.SURVIVORS:
                return self._judge_survivors(value)
            return self._judge_verdict(decode(value, Verdict))
        except MalformedMessageError:
            return False

    def reconsider(self) -> None:
        """What was judged of survivors may not hold any more."""
        self._judged = (-1, b"", None)

    def cast(self, body: Vote | Proposal, about: About) -> bytes:
        return self._desk.cast(body, about)

    def proven(self, vote: Vote, votes: Sequence[tuple[int, bytes]]) -> bool:
        return self._desk.proves(self._cohort, vote, votes)

    def hopeless(self) -> bool:
        """All that could still come would have come by now."""
        return self.now >= self._hopeless_at

    def verdict(self) -> Verdict | None:
        """The verdict this member would propose now."""
        if self.settling is None:
            return None
        expected = self._host.expected(self.now)
        return self._judgement.offer(self.settling, expected, self.now)

    def disliked(self) -> tuple[bytes, ...] | None:
        """Whose hold-outs reject the sum; None if this member knows of no sum."""
        if self.settling is None:
            return None
        return self._judgement.disliked(self.settling)

    def _isolates(self, value: Survivors) -> bool:
        return self._host.isolates(frozenset(self._setting.named(value.members)))

    def _judge_survivors(self, proposed: bytes) -> bool | None:
        version = self._gathering.version
        if self._judged[:2] == (version, proposed):
            return self._judged[2]
        value = decode(proposed, Survivors)
        if value.members == 0:
            if value != GIVEN_UP:
                return False
            return True if self.hopeless() else None
        sound = self._gathering.judge(value)
        if sound and self._isolates(value):
            sound = False
        self._judged = (version, proposed, sound)
        return sound

    def _judge_verdict(self, value: Verdict) -> bool | None:
        moves = value.state != self._base
        if self.settling is None or not self._host.may_follow(value.epoch, moves=moves):
            return None
        expected = self._host.expected(self.now)
        return self._judgement.judge(self.settling, value, expected, self.now)
