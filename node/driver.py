"""Carry out a machine's effects and feed back what came of them; no decision is made here.

What is recorded and said happens in the order the machine gave it, before the next event is
looked at.  Everything that takes time runs beside it and comes back as an event.  The clock
is read here and nowhere below.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import structlog
import trio

from node.clock import monotonic_millis
from node.errors import NodeError
from protocol.errors import ProtocolError
from protocol.rounds import events as ev
from protocol.rounds.policy import Epoch
from protocol.types import Digest, Millis

log = structlog.get_logger()

TICK_S = 0.25
RETRY_FIRST_S = 0.2
RETRY_LIMIT_S = 5.0
REST_AFTER_S = 30.0
WORK_TRIES = 3
INBOX = 4096

_WORDS_AND_RECORDS = (
    ev.Persist
    | ev.Publish
    | ev.Send
    | ev.Fetch
    | ev.Quantise
    | ev.Mask
    | ev.Sum
    | ev.Apply
    | ev.Tag
    | ev.Check
    | ev.Draw
    | ev.Weigh
)

Work = (
    ev.Quantise | ev.Mask | ev.Sum | ev.Apply | ev.Tag | ev.Check | ev.Draw | ev.Weigh
)
"""Answered by one event each; what is named in one outlives this process."""


class Machine(Protocol):
    """`protocol.rounds.machine.Rounds`."""

    def handle(self, event: ev.Event, now: Millis) -> list[ev.Effect]: ...


class Hands(Protocol):
    """What the daemon does for the machine."""

    async def persist(self, effects: Sequence[ev.Persist]) -> None:
        """All of them on disk when this returns."""

    async def forget(self, effect: ev.Forget) -> None: ...
    async def publish(self, effect: ev.Publish) -> tuple[ev.Send, ...]:
        """Tell everyone; what is returned is sent to one member each, beside."""

    async def send(self, effect: ev.Send) -> None: ...
    async def train(self, effect: ev.Train) -> ev.Event | None:
        """None where the run needs no further update, or this one no more."""

    async def work(self, effect: Work) -> ev.Event: ...
    async def fetch(self, effect: ev.Fetch) -> None: ...
    async def sync(self, effect: ev.SyncState) -> ev.Event | None:
        """None where another state is wanted by now."""

    async def accuse(self, effect: ev.Accuse) -> None: ...
    async def measured(self, effect: ev.Measured) -> None: ...
    async def finished(self, effect: ev.Finished) -> bool:
        """Whether the run goes on after this round."""

    async def entered(self, epoch: Epoch) -> None:
        """The run goes on with other members, this node among them or not."""


class Driver:
    """One machine, its hands and its inbox."""

    def __init__(self, machine: Machine, hands: Hands) -> None:
        self._machine = machine
        self._hands = hands
        self._outbox, self._inbox = trio.open_memory_channel[ev.Event](INBOX)
        self._fetching: dict[Digest, trio.CancelScope] = {}
        self._resting = False

    def give(self, event: ev.Event) -> bool:
        """Hand in an event from outside; False if the machine cannot keep up."""
        try:
            self._outbox.send_nowait(event)
        except trio.WouldBlock:
            return False
        return True

    async def run(
        self,
        *,
        over: bool = False,
        hold: bool = False,
        offers: Sequence[ev.EpochOffered] = (),
    ) -> None:
        """Until cancelled, or until this node has left the run.

        After the last round time stands still, and it only answers.  `hold`: no round is to be
        opened until an event says otherwise.  `offers`: epochs that are, or may be, to come.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ticks)
            self.give(ev.Started())
            if hold:
                self.give(ev.Held(hold=True))
            for offer in offers:
                self.give(offer)
            if over:
                self._hold(nursery)
            async for event in self._inbox:
                effects = self._machine.handle(event, monotonic_millis())
                for effect in await self._recorded(effects):
                    await self._do(effect, nursery)

    async def _recorded(self, effects: Sequence[ev.Effect]) -> Sequence[ev.Effect]:
        """Records that only words stand between go to the disk together; the rest is left.

        Earlier than the machine asked is always right: a promise may be on record before
        what was to be said first.  Only what takes records away must stay in its place.
        """
        end = 0
        while end < len(effects) and isinstance(effects[end], _WORDS_AND_RECORDS):
            end += 1
        records = [each for each in effects[:end] if isinstance(each, ev.Persist)]
        if records:
            await self._hands.persist(records)
        rest = [each for each in effects[:end] if not isinstance(each, ev.Persist)]
        return [*rest, *effects[end:]]

    async def _ticks(self) -> None:
        while True:
            await trio.sleep(TICK_S)
            if not self._resting:
                await self._outbox.send(ev.Tick())

    async def _do(self, effect: ev.Effect, nursery: trio.Nursery) -> None:
        hands = self._hands
        match effect:
            case ev.Persist():
                await hands.persist([effect])
            case ev.Forget():
                self._drop(effect.blobs)
                await hands.forget(effect)
            case ev.Publish():
                for one in await hands.publish(effect):
                    nursery.start_soon(self._send, one)
            case ev.Send():
                nursery.start_soon(self._send, effect)
            case ev.Train():
                nursery.start_soon(self._repeat, "train", lambda: hands.train(effect))
            case ev.SyncState():
                nursery.start_soon(self._repeat, "sync", lambda: hands.sync(effect))
            case ev.Fetch():
                self._drop((effect.blob,))
                scope = self._fetching[effect.blob] = trio.CancelScope()
                nursery.start_soon(self._fetch, effect, scope)
            case ev.Drop():
                self._drop(effect.blobs)
            case ev.Accuse():
                await hands.accuse(effect)
            case ev.Measured():
                await hands.measured(effect)
            case ev.Finished():
                if not await hands.finished(effect):
                    self._hold(nursery)
            case ev.EpochEntered():
                await hands.entered(effect.epoch)
            case ev.Left():
                await hands.entered(effect.epoch)
                nursery.cancel_scope.cancel()
            case _:
                nursery.start_soon(self._work, effect)

    def _hold(self, nursery: trio.Nursery) -> None:
        self.give(ev.Held(hold=True))
        nursery.start_soon(self._rest)

    async def _rest(self) -> None:
        """Whoever is behind hears of the end for a while unasked, and later if it asks."""
        await trio.sleep(REST_AFTER_S)
        self._resting = True

    def _drop(self, blobs: tuple[Digest, ...]) -> None:
        for blob in blobs:
            scope = self._fetching.pop(blob, None)
            if scope is not None:
                scope.cancel()

    async def _send(self, effect: ev.Send) -> None:
        # Not a word about it: whoever is away is told by the links, once, and what it missed
        # it asks for when it is back.
        with suppress(NodeError, ProtocolError):
            await self._hands.send(effect)

    async def _fetch(self, effect: ev.Fetch, scope: trio.CancelScope) -> None:
        with scope:
            await self._until("fetch", lambda: self._hands.fetch(effect))
            if self._fetching.get(effect.blob) is scope:
                del self._fetching[effect.blob]
            await self._outbox.send(ev.Fetched(effect.blob))

    async def _repeat(
        self, what: str, work: Callable[[], Awaitable[ev.Event | None]]
    ) -> None:
        event = await self._until(what, work)
        if event is not None:
            await self._outbox.send(event)

    async def _until(self, what: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """Until it succeeds; what it is for may be over by then, and the machine knows."""
        pause = RETRY_FIRST_S
        while True:
            try:
                return await work()
            except (NodeError, ProtocolError) as error:
                log.warning("round work repeats", what=what, reason=str(error))
                await trio.sleep(pause)
                pause = min(RETRY_LIMIT_S, 2 * pause)

    async def _work(self, effect: Work) -> None:
        """Once more where the child died; a blob that a verdict has deleted is nobody's loss."""
        for _ in range(WORK_TRIES):
            try:
                event = await self._hands.work(effect)
            except (NodeError, ProtocolError) as error:
                name = type(effect).__name__.lower()
                log.warning("round work failed", what=name, reason=str(error))
                await trio.sleep(RETRY_FIRST_S)
            else:
                await self._outbox.send(event)
                return
