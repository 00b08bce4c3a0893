"""What must reach the chain, whether the chain answers now or tomorrow.

A round does not wait for a block.  Services put what is to be anchored here; it is on disk
before they go on, and one worker sends it, oldest first, with a growing pause while the chain
is down.  An entry leaves the disk only after the chain said it has it, so a kill at any moment
at worst sends twice, and that is harmless: the contracts refuse a second anchor of the same
thing by name, and this refusal counts as done.

No entry holds up the ones behind it unless the chain itself is silent.  What the contracts
will never take (another digest is anchored there already) is set aside under `outbox-refused`
with an event for the operator; what an operator can mend (this account is not a member yet,
or has no currency) is tried again with every pass.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import msgpack
import structlog
import trio

from node.errors import ChainError, ContractRefusedError
from node.ports.chain import Chain
from node.ports.storage import Store

_NAMESPACE = "outbox"
_REFUSED_NAMESPACE = "outbox-refused"
PAUSE_FIRST_S = 0.5
PAUSE_LIMIT_S = 30.0

_DONE = frozenset({"AlreadyAnchored"})
_NEVER = frozenset({"ConflictingAnchor", "InvalidDigest", "InvalidCount"})

Fate = Literal["sent", "refused", "waits", "silent"]

log = structlog.get_logger()


class Outbox:
    """Anchors waiting for the chain."""

    def __init__(self, store: Store, chain: Chain) -> None:
        self._store = store
        self._wake = trio.Event()
        self._next = 0
        self._senders: Mapping[str, Callable[..., Awaitable[Any]]] = {
            "model": chain.anchor_model,
            "round": chain.anchor_round,
            "receipts": chain.anchor_receipts,
        }

    async def put(self, kind: str, *arguments: bytes | int) -> None:
        """Durable when this returns; the chain is not asked."""
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

    async def unsent(self, kind: str) -> set[bytes]:
        """First argument of every anchor of a kind that the chain has not taken yet."""
        entries = [
            msgpack.unpackb(value) for _, value in await self._store.scan(_NAMESPACE)
        ]
        return {found[1] for found in entries if found[0] == kind}

    async def refused(self) -> int:
        """How many anchors the contracts will never take."""
        return len(await self._store.scan(_REFUSED_NAMESPACE))

    async def run(self) -> None:
        """Send for ever; ends by cancellation, and by nothing the chain says."""
        pause = PAUSE_FIRST_S
        while True:
            self._wake = trio.Event()
            entries = sorted(await self._store.scan(_NAMESPACE))
            fates = await self._pass(entries)
            if "sent" in fates:
                pause = PAUSE_FIRST_S
            if {"waits", "silent"} & set(fates):
                log.warning("anchors wait", waiting=len(entries), retry_s=pause)
                await trio.sleep(pause)
                pause = min(PAUSE_LIMIT_S, 2 * pause)
            elif not entries:
                await self._wake.wait()

    async def _pass(self, entries: list[tuple[bytes, bytes]]) -> list[Fate]:
        """Try each entry once, until the chain falls silent."""
        fates: list[Fate] = []
        for key, value in entries:
            kind, *arguments = msgpack.unpackb(value)
            fate = await self._try(kind, arguments)
            fates.append(fate)
            if fate == "silent":
                break
            if fate == "waits":
                continue
            # Before the entry goes, because a kill between the two may tell an operator
            # twice, but must not leave an anchor that nobody was told of.
            word = "anchored" if fate == "sent" else "anchor.refused"
            await self._store.append_event(
                f"{word}.{kind}", {"arguments": [_text(one) for one in arguments]}
            )
            if fate == "refused":
                await self._store.put(_REFUSED_NAMESPACE, key, value)
            await self._store.delete(_NAMESPACE, key)
        return fates

    async def _try(self, kind: str, arguments: list[bytes | int]) -> Fate:
        if kind not in self._senders:
            log.warning("anchor of a kind that this version cannot send", kind=kind)
            return "waits"
        try:
            await self._senders[kind](*arguments)
        except ContractRefusedError as error:
            if error.name in _DONE:
                return "sent"
            never = error.name in _NEVER
            log.warning("anchor refused", kind=kind, final=never, reason=str(error))
            return "refused" if never else "waits"
        except ChainError as error:
            log.warning("anchor not sent", kind=kind, reason=str(error))
            return "silent" if error.temporary else "waits"
        return "sent"

    async def _number(self) -> int:
        if self._next == 0:
            taken = [
                int.from_bytes(key, "big")
                for space in (_NAMESPACE, _REFUSED_NAMESPACE)
                for key, _ in await self._store.scan(space)
            ]
            self._next = max([*taken, self._next])
        self._next += 1
        return self._next


def _text(argument: bytes | int) -> str | int:
    return argument.hex() if isinstance(argument, bytes) else argument
