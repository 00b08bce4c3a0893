"""Who joins a run under way and who leaves it: wishes, changes, and the story of a run.

Wishes are announced and kept like stances; each member's machine is offered the epoch that
follows from them, and the machines decide (`protocol.seating`).  Here is only what carries
words: to the others, to the disk, to the machine, and to whoever was away.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Protocol

import structlog
import trio

from node.errors import AccessError, NodeError, RoundError
from node.ports.transport import Announcement
from node.services.early import Early
from node.services.hands import Tools
from node.services.training import Trainer
from protocol.certificate import Certificate
from protocol.course import Course
from protocol.errors import GossipIgnore, MalformedMessageError, ProtocolError
from protocol.rounds.policy import Epoch
from protocol.runs import MEMBERS_AT_LEAST
from protocol.seating import (
    CHANGE_LIMIT_BYTES,
    CHANGE_TOPIC,
    GOING,
    IN,
    STORY_PROTOCOL,
    WISH_TOPIC,
    AskStory,
    Change,
    Story,
    Wish,
    open_wish,
    seal_wish,
)
from protocol.types import PeerId
from protocol.wire import MESSAGE_LIMIT_BYTES, decode, encode

_WISHES, _CHANGES = "run-wishes", "run-changes"
ASK_TIMEOUT_S = 15.0
ASK_LIMIT_BYTES = 256
ASK_EVERY_S = 2.0
"""Between two questions about runs: whoever is astray hears so with every heartbeat."""
STORY_ROOM_BYTES = 512 << 10
"""For the changes of one answer; whoever has more to learn asks again."""
WISHES_TOLD = 1024

log = structlog.get_logger()


class Seated(Protocol):
    """A run as the node knows it."""

    sealed: bytes

    @property
    def course(self) -> Course: ...

    @property
    def trainer(self) -> Trainer | None: ...

    def phase(self) -> str: ...


class Tales(Protocol):
    """What is done with the parts of another's story."""

    async def take_proposal(self, sealed: bytes) -> None: ...
    async def take_consent(self, sealed: bytes) -> None: ...
    async def consents_of(self, run: bytes) -> list[bytes]: ...


class Seats:
    """The seats in all runs of a node."""

    def __init__(
        self,
        tools: Tools,
        runs: Mapping[bytes, Seated],
        tales: Tales,
        news: Callable[[bytes], Awaitable[None]],
    ) -> None:
        """`news` is awaited with the run whose wishes or members have changed."""
        self._tools = tools
        self._runs = runs
        self._tales = tales
        self._news = news
        self._early = Early()
        self._astray, self._asking = trio.open_memory_channel[tuple[bytes, PeerId]](64)
        tools.transport.serve(STORY_PROTOCOL, self._serve, limit_bytes=ASK_LIMIT_BYTES)

    async def load(self) -> None:
        """What was said and decided before the restart."""
        store = self._tools.store
        for _, data in sorted(await store.scan(_CHANGES)):
            change = decode(data, Change, limit_bytes=CHANGE_LIMIT_BYTES)
            self._runs[change.epoch.run].course.seating.changes.append(change)
        for _, sealed in await store.scan(_WISHES):
            wish, who = open_wish(sealed)
            self._runs[wish.run].course.seating.wish(who, wish)

    # --- from the operator -----------------------------------------------------

    async def say(self, record: Seated, about: bytes, word: str) -> None:
        """What this node's operator wants of a seat."""
        me, seating = self._tools.signer, record.course.seating
        self._require_sense(record, about, word)
        wish = Wish(seating.run, seating.serial(me.public_key, about), about, word)
        sealed = seal_wish(me.sign, me.public_key, wish)
        await self._keep_wish(record, wish, me.public_key, sealed)
        await self._tools.transport.announce(WISH_TOPIC, sealed)

    def _require_sense(self, record: Seated, about: bytes, word: str) -> None:
        """Raise `RoundError` where the wish could never come to anything."""
        me, course = self._tools.signer.public_key, record.course
        run, name = course.run.hex()[:16], self._tools.federation.name_of(about)
        seating = course.seating
        if me not in course.members:
            raise RoundError(
                f"this node has no seat in run {run}",
                hint="its members decide who joins it and who leaves",
            )
        if record.phase() not in {"training", "paused"}:
            raise RoundError(
                f"run {run} is {record.phase()}: its members stay as they are"
            )
        if word == IN and about in course.members:
            raise RoundError(f"{name} has a seat in run {run} already")
        if word == IN and about in seating.ever:
            raise RoundError(
                f"{name} had a seat in run {run} and has left it",
                hint="a seat is not given twice; propose another run",
            )
        if word == IN and about not in course.consents:
            raise RoundError(
                f"{name} has not asked for a seat in run {run}",
                hint=f"it does so with `rexis run join {run} --dataset N`",
            )
        if word in GOING and about not in course.members:
            raise RoundError(f"{name} has no seat in run {run}")
        if word in GOING and len(course.members) <= MEMBERS_AT_LEAST:
            raise RoundError(
                f"run {run} has {len(course.members)} members, and fewer than"
                f" {MEMBERS_AT_LEAST} would see each other's updates",
                hint=f"end it with `rexis run end {run}`, or admit another member first",
            )
        if seating.said(me, about) == word:
            raise RoundError(f"this node has said so of {name} already")

    # --- from the network ------------------------------------------------------

    async def heard_wish(self, said: Announcement) -> None:
        """A member's operator wants somebody in or out."""
        wish, who = open_wish(said.payload)
        record = self._runs.get(wish.run)
        if record is None:
            self._early.keep(said.origin, wish.run, said.payload)
        else:
            await self._keep_wish(record, wish, who, said.payload)

    async def heard_change(self, said: Announcement) -> None:
        """Members have entered another epoch; the proof comes with it."""
        change = decode(said.payload, Change, limit_bytes=CHANGE_LIMIT_BYTES)
        record = self._runs.get(change.epoch.run)
        if record is None:
            raise GossipIgnore(
                "not a run this node knows; who joins it asks for its story"
            )
        if change.epoch.number > len(record.course.seating.changes) + 1:
            self.astray(change.epoch.run, said.origin)
        await self._keep_change(record, change)

    async def known(self, record: Seated) -> None:
        """A run has become known: take what was said of it before."""
        take = partial(self._take_wish, record)
        await self._early.give(record.course.run, take)

    def astray(self, run: bytes, peer: PeerId) -> None:
        """Somebody speaks in an epoch this node has not heard of: it asks that one, soon."""
        with suppress(trio.WouldBlock):
            self._astray.send_nowait((run, peer))

    async def run(self) -> None:
        """Ask whoever knows more, one after another, for ever."""
        async for run, peer in self._asking:
            try:
                await self.ask(run, peer)
            except (NodeError, ProtocolError) as error:
                log.info("no story", run=run.hex()[:16], peer=peer, reason=str(error))
            await trio.sleep(ASK_EVERY_S)

    async def ask(self, run: bytes, peer: PeerId) -> bool:
        """Learn a run's story from a member; whether it knows the run."""
        known = self._runs.get(run)
        after = 0 if known is None else len(known.course.seating.changes)
        data = await self._tools.transport.request(
            peer,
            STORY_PROTOCOL,
            encode(AskStory(run, after)),
            timeout_s=ASK_TIMEOUT_S,
            limit_bytes=MESSAGE_LIMIT_BYTES,
        )
        story = decode(data, Story)
        if not story.proposal:
            return False
        await self._tales.take_proposal(story.proposal)
        record = self._runs.get(run)
        if record is None:
            raise MalformedMessageError("a story of another run than was asked about")
        # First: who had a seat may have left the federation since, and is heard all the same.
        for change in story.changes:
            await self._keep_change(record, change)
        for sealed in story.consents:
            await self._heard_of(self._tales.take_consent(sealed))
        for sealed in story.wishes:
            await self._heard_of(self._take_wish(record, sealed))
        return True

    async def _take_wish(self, record: Seated, sealed: bytes) -> None:
        await self._keep_wish(record, *open_wish(sealed), sealed)

    async def _heard_of(self, taking: Awaitable[None]) -> None:
        """One statement that is nobody's to make keeps none of the others from being heard."""
        try:
            await taking
        except (AccessError, ProtocolError) as error:
            log.info("part of a story refused", reason=str(error))

    async def _serve(self, peer: PeerId, payload: bytes) -> bytes:
        self._tools.federation.peer(peer)
        asked = decode(payload, AskStory, limit_bytes=ASK_LIMIT_BYTES)
        record = self._runs.get(asked.run)
        if record is None:
            return encode(Story())
        wishes = [
            sealed
            for key, sealed in await self._tools.store.scan(_WISHES)
            if key.startswith(asked.run)
        ]
        changes = record.course.seating.changes[max(asked.after, 0) :]
        return encode(
            Story(
                record.sealed,
                tuple(await self._tales.consents_of(asked.run)),
                tuple(wishes[:WISHES_TOLD]),
                tuple(_fitting(changes, STORY_ROOM_BYTES)),
            )
        )

    # --- from the machine ------------------------------------------------------

    def offer(self, record: Seated) -> None:
        """Tell the run's machine what follows from all that was said until now."""
        trainer, course = record.trainer, record.course
        present = None if trainer is None else trainer.epoch
        if trainer is None or present is None:
            return
        later = [
            change
            for change in course.seating.changes
            if change.epoch.number > present.number
        ]
        for change in later:
            trainer.offer(change.epoch, change.certificate)
        if not later:
            # The present one, offered again, takes back what a withdrawn wish had led to.
            wanted = course.seating.next(present, course.consents)
            exposed = course.seating.exposed(present)
            trainer.offer(present if wanted is None else wanted, exposed=exposed)

    async def entered(
        self, record: Seated, epoch: Epoch, certificate: Certificate
    ) -> None:
        """The machine of this node is in another epoch, by this verdict or an earlier one."""
        if certificate.slot.epoch == epoch.name():
            # It came to its seat by a later verdict; the one that gave it, others show.
            for member in epoch.members:
                if member != self._tools.signer.public_key:
                    peer = self._tools.federation.key(member).peer_id
                    self.astray(epoch.run, peer)
            return
        change = Change(epoch, certificate)
        if await self._keep_change(record, change):
            await self._tools.transport.announce(CHANGE_TOPIC, encode(change))

    # --- records ---------------------------------------------------------------

    def require_known(self, record: Seated, who: bytes) -> None:
        """Raise `AccessError` unless `who` is of the federation, or had a seat when it was.

        Anybody can make keys: room is kept for what members say.
        """
        if who not in record.course.seating.ever:
            self._tools.federation.key(who)

    async def _keep_wish(
        self, record: Seated, wish: Wish, who: bytes, sealed: bytes
    ) -> None:
        seating, name_of = record.course.seating, self._tools.federation.name_of
        self.require_known(record, who)
        if not seating.is_newer(who, wish):
            return
        key = wish.run + who + wish.member
        await self._tools.store.put(_WISHES, key, sealed)
        if not seating.wish(who, wish):
            return  # a newer one came meanwhile, or the same
        row = {"member": name_of(who), "about": name_of(wish.member), "wish": wish.word}
        await self._tools.store.append_event("run.wish", {"run": wish.run.hex(), **row})
        log.info("wish", run=wish.run.hex()[:16], **row)
        await self._news(wish.run)

    async def _keep_change(self, record: Seated, change: Change) -> bool:
        seating, run = record.course.seating, record.course.run
        if not seating.follows(change):
            return False
        key = run + change.epoch.number.to_bytes(8, "big")
        await self._tools.store.put(_CHANGES, key, encode(change))
        if not seating.take(change):
            return False
        names = [self._tools.federation.name_of(m) for m in seating.members]
        row = {"epoch": change.epoch.number, "members": names}
        await self._tools.store.append_event("run.members", {"run": run.hex(), **row})
        log.info("members of a run changed", run=run.hex()[:16], **row)
        await self._news(run)
        return True


def _fitting(changes: Iterable[Change], room: int) -> Iterable[Change]:
    """As many as `room` bytes hold."""
    for change in changes:
        room -= len(encode(change))
        if room < 0:
            return
        yield change
