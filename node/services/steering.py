"""Pause, resume and end: what members' operators want of a run, told to all of them.

Each stance is signed and kept; every member derives from the same stances what becomes of the
run (`protocol.course.Course.standing`).  A member that holds ends the round under way and opens
none: that is all that happens, and the quorum of the rounds does the rest.
"""

from typing import Protocol

import structlog

from node.errors import RoundError
from node.ports.transport import Announcement
from node.services.early import Early
from node.services.hands import Tools
from node.services.training import Trainer
from protocol.course import Course
from protocol.runs import END, GO, PAUSE, STANCE_TOPIC, Stance, open_stance, seal_stance

_STANCES = "run-stances"

log = structlog.get_logger()


class Steered(Protocol):
    """A run as the node knows it."""

    @property
    def course(self) -> Course: ...

    @property
    def trainer(self) -> Trainer | None: ...

    def phase(self) -> str: ...


class Steering:
    """The stances on all runs of a node."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._early = Early()

    async def load(self, runs: dict[bytes, Steered]) -> None:
        """What was said before the restart."""
        for _, sealed in await self._tools.store.scan(_STANCES):
            stance, member = open_stance(sealed)
            runs[stance.run].course.stance(member, stance)

    async def say(self, record: Steered, word: str) -> None:
        """What this node's operator wants: that the run goes on, pauses, or ends."""
        me, course = self._tools.signer, record.course
        run = course.run.hex()[:16]
        if me.public_key not in course.members:
            raise RoundError(
                f"run {run} does not name this node",
                hint="only its members pause, resume or end it",
            )
        if record.phase() in {"finished", "ended"}:
            raise RoundError(f"run {run} is {record.phase()} already")
        known = course.stances.get(me.public_key)
        said = GO if known is None else known.word
        if said == END:
            raise RoundError(
                f"this node has ended its part in run {run}",
                hint="that cannot be taken back; propose another run",
            )
        if said == word:
            raise RoundError(f"this node's part in run {run} is {_STATE[word]} already")
        stance = Stance(course.run, 1 if known is None else known.serial + 1, word)
        sealed = seal_stance(me.sign, me.public_key, stance)
        await self._keep(record, stance, me.public_key, sealed)
        await self._tools.transport.announce(STANCE_TOPIC, sealed)

    async def heard(self, said: Announcement, runs: dict[bytes, Steered]) -> None:
        """A member's operator has spoken."""
        stance, member = open_stance(said.payload)
        record = runs.get(stance.run)
        if record is not None:
            await self._keep(record, stance, member, said.payload)
        else:
            self._early.keep(said.origin, stance.run, said.payload)

    async def known(self, record: Steered) -> None:
        """A run has become known: take what was said of it before."""

        async def take(sealed: bytes) -> None:
            await self._keep(record, *open_stance(sealed), sealed)

        await self._early.give(record.course.run, take)

    def holds(self, course: Course) -> bool:
        """Does this node open no further round?"""
        me = self._tools.signer.public_key
        return me in course.holding(PAUSE, END) or course.standing != GO

    async def apply(self, trainer: Trainer, course: Course) -> None:
        """Let the run's machine know what has been said until now."""
        trainer.hold(hold=self.holds(course))
        me = self._tools.signer.public_key
        if course.standing == END or me in course.holding(END):
            await trainer.end()

    async def _keep(
        self, record: Steered, stance: Stance, member: bytes, sealed: bytes
    ) -> None:
        course, name = record.course, self._tools.federation.name_of(member)
        if not course.is_newer(member, stance):
            return
        await self._tools.store.put(_STANCES, course.run + member, sealed)
        if not course.stance(member, stance):
            return  # a newer one came meanwhile, or the same
        await self._tools.store.append_event(
            "run.stance",
            {"run": course.run.hex(), "member": name, "stance": stance.word},
        )
        log.info("stance", run=course.run.hex()[:16], member=name, wants=stance.word)
        if record.trainer is not None:
            await self.apply(record.trainer, course)


_STATE = {GO: "going on", PAUSE: "paused", END: "ended"}
