"""What must reach the chain, in order, whether the chain answers now or tomorrow.

A round does not wait for a block.  Services put what is to be anchored here; it is on disk
before they go on, and one worker sends it, first in, first out, with a growing pause while the
chain is down.  Sending twice is harmless: the contracts refuse a second anchor of the same
thing by name, and that refusal counts as done.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgpack
import structlog
import trio

from node.errors import ChainError
from node.ports import Chain, Store

_NAMESPACE = "outbox"
PAUSE_FIRST_S = 0.5
PAUSE_LIMIT_S = 30.0

log = structlog.get_logger()


class Outbox:
    """Anchors waiting for the chain."""

    def __init__(self, store: Store, chain: Chain) -> None:
        self._store = store
        self._chain = chain
        self._wake = trio.Event()
        self._next = 0
        self._senders: Mapping[str, Callable[..., Awaitable[Any]]] = {
            "model": chain.anchor_model,
            "round": chain.anchor_round,
            "receipts": chain.anchor_receipts,
        }

    async def put(self, kind: str, *arguments: bytes | int) -> None:
        """Durable when this returns."""
        if kind not in self._senders:
            raise ValueError(f"outbox cannot send {kind!r}")
        number = await self._number()
        await self._store.put(
            _NAMESPACE, number.to_bytes(8, "big"), msgpack.packb([kind, *arguments])
        )
        self._wake.set()

    async def waiting(self) -> int:
        """How many anchors the chain has not taken yet."""
        return len(await self._store.scan(_NAMESPACE))

    async def run(self) -> None:
        """Send for ever; ends by cancellation."""
        pause = PAUSE_FIRST_S
        while True:
            self._wake = trio.Event()
            entries = sorted(await self._store.scan(_NAMESPACE))
            if not entries:
                await self._wake.wait()
                continue
            for key, value in entries:
                kind, *arguments = msgpack.unpackb(value)
                try:
                    await self._senders[kind](*arguments)
                except ChainError as error:
                    if "Already" not in str(error):
                        log.warning(
                            "anchor waits", kind=kind, reason=str(error), retry_s=pause
                        )
                        await trio.sleep(pause)
                        pause = min(PAUSE_LIMIT_S, 2 * pause)
                        break
                await self._store.delete(_NAMESPACE, key)
                await self._store.append_event(
                    f"anchored.{kind}", {"arguments": [_text(a) for a in arguments]}
                )
                pause = PAUSE_FIRST_S

    async def _number(self) -> int:
        if self._next == 0:
            entries = await self._store.scan(_NAMESPACE)
            last = max((int.from_bytes(key, "big") for key, _ in entries), default=0)
            self._next = max(last, self._next)
        self._next += 1
        return self._next


def _text(argument: bytes | int) -> str | int:
    return argument.hex() if isinstance(argument, bytes) else argument
