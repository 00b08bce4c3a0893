"""Carry out a round's effects and feed back what came of them; no decision is made here.

Persisting and publishing happen in the order the machine gave them, before the next event
is looked at.  Everything that takes time runs beside it and comes back as an event.  The
clock is read here and nowhere below.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog
import trio

from node.clock import monotonic_millis
from node.errors import NodeError
from protocol.aggregate.round import (
    Applied,
    ApplySum,
    Effect,
    Event,
    Failed,
    Fetch,
    Fetched,
    Finished,
    Masked,
    MaskUpdate,
    Persist,
    Publish,
    Round,
    SumShard,
    Tick,
    Unmasked,
)

log = structlog.get_logger()

TICK_S = 0.5
RETRY_FIRST_S = 0.2
RETRY_LIMIT_S = 5.0


class Hands(Protocol):
    """What the daemon does for the machine."""

    async def persist(self, effect: Persist) -> None: ...
    async def publish(self, effect: Publish) -> None: ...
    async def fetch(self, effect: Fetch) -> None: ...
    async def mask(self, effect: MaskUpdate) -> Masked: ...
    async def sum_shard(self, effect: SumShard) -> Unmasked: ...
    async def apply(self, effect: ApplySum) -> Applied: ...


async def drive(
    machine: Round,
    hands: Hands,
    inbox: trio.MemoryReceiveChannel[Event],
    outbox: trio.MemorySendChannel[Event],
) -> Finished | Failed:
    """Run one attempt to its end; `outbox` is the sending end of `inbox`."""
    end: Finished | Failed | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_ticks, outbox)
        async for event in inbox:
            for effect in machine.handle(event, monotonic_millis()):
                if isinstance(effect, Finished | Failed):
                    end = effect
                else:
                    await _do(effect, hands, nursery, outbox)
            if end is not None:
                break
        nursery.cancel_scope.cancel()
    if end is None:
        end = Failed("the attempt was given up", ())
    return end


async def _do(
    effect: Effect,
    hands: Hands,
    nursery: trio.Nursery,
    outbox: trio.MemorySendChannel[Event],
) -> None:
    match effect:
        case Persist():
            await hands.persist(effect)
        case Publish():
            await hands.publish(effect)
        case Fetch():
            nursery.start_soon(_repeat, "fetch", _fetch(hands, effect), outbox)
        case MaskUpdate():
            nursery.start_soon(_repeat, "mask", lambda: hands.mask(effect), outbox)
        case SumShard():
            nursery.start_soon(_repeat, "sum", lambda: hands.sum_shard(effect), outbox)
        case ApplySum():
            nursery.start_soon(_repeat, "apply", lambda: hands.apply(effect), outbox)
        case _:
            raise TypeError(f"{effect!r} is not for the driver")


def _fetch(hands: Hands, effect: Fetch) -> Callable[[], Awaitable[Event]]:
    async def fetched() -> Event:
        await hands.fetch(effect)
        return Fetched(effect.blob)

    return fetched


async def _repeat(
    what: str,
    work: Callable[[], Awaitable[Event]],
    outbox: trio.MemorySendChannel[Event],
) -> None:
    """Until it succeeds; the machine's deadline is what ends a hopeless case."""
    pause = RETRY_FIRST_S
    while True:
        try:
            event = await work()
        except NodeError as error:
            log.warning("round work repeats", what=what, reason=str(error))
            await trio.sleep(pause)
            pause = min(RETRY_LIMIT_S, 2 * pause)
        else:
            await outbox.send(event)
            return


async def _ticks(outbox: trio.MemorySendChannel[Event]) -> None:
    while True:
        await trio.sleep(TICK_S)
        await outbox.send(Tick())
