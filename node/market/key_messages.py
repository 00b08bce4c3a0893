"""The message that brings the keys of one request: made once, kept, sent as it was committed to.

A header is sealed with fresh randomness, so a second making would be other bytes than the chain
was told the digest of.  What is kept can be opened by its grantee alone.
"""

from collections.abc import Callable

import trio

from node.errors import AccessError
from node.market import sealed
from node.market.shelf import Shelf
from node.ports.market import Request
from node.ports.storage import Store
from protocol.manifest import ANSWER_LIMIT_BYTES, UnitHeader, UnitsAnswer, unit_list
from protocol.members import Member
from protocol.wire import Message, decode, encode

_NAMESPACE = "market.keys"


class Kept(Message, frozen=True, tag="kept-keys"):
    """A message, for whom and for which of its keys."""

    grantee: bytes
    """20-byte account."""
    seal_key: bytes
    units: int
    message: bytes


class KeyMessages:
    """All that this node has made and not destroyed."""

    def __init__(
        self, *, store: Store, shelf: Shelf, open_key: Callable[[], bytes]
    ) -> None:
        self._store = store
        self._shelf = shelf
        self._open_key = open_key

    async def of(self, request: Request, grantee: Member) -> bytes:
        """The message of a request for a dataset of ours; made now unless it is there."""
        await self._shelf.load()
        record, _, _ = self._shelf.own(request.dataset)
        kept = await self._kept(request)
        if (
            kept is not None
            and kept.seal_key == grantee.seal_key
            and decode(kept.message, UnitsAnswer).listing == record.listing
        ):
            return kept.message
        units = unit_list(request.units)
        if gone := [unit for unit in units if not record.headers[unit]]:
            raise AccessError(
                f"units {gone} of dataset {request.dataset} are withdrawn",
                hint="refuse the request; its keys are destroyed",
            )

        def seal() -> tuple[UnitHeader, ...]:
            return sealed.reseal_units(
                record.headers,
                units,
                secret_seal_key=self._open_key(),
                grantee=grantee.seal_key,
            )

        headers = await trio.to_thread.run_sync(seal)
        message = encode(UnitsAnswer(record.listing, record.manifest, headers))
        made = Kept(grantee.account, grantee.seal_key, request.units, message)
        await self._store.put(_NAMESPACE, _key(request), encode(made))
        return message

    async def shown(self, request: Request) -> bytes | None:
        """The message as it was made, whatever has become of its keys; None if destroyed."""
        kept = await self._kept(request)
        return None if kept is None else kept.message

    async def for_release(
        self, request: Request, grantee: Member, units: int
    ) -> bytes | None:
        """The message, if it is still what this grantee may have: these units, this key."""
        kept = await self._kept(request)
        if kept is None or (kept.grantee, kept.units) != (grantee.account, units):
            return None
        listing = self._shelf.own(request.dataset)[0].listing
        current = decode(kept.message, UnitsAnswer, limit_bytes=ANSWER_LIMIT_BYTES)
        fits = kept.seal_key == grantee.seal_key and current.listing == listing
        return kept.message if fits else None

    async def destroy(self, dataset: int, units: int) -> None:
        """Forget every message that holds a key of these units."""
        writes: list[tuple[str, bytes, bytes | None]] = [
            (_NAMESPACE, key, None)
            for key, value in await self._store.scan(_NAMESPACE)
            if key.startswith(dataset.to_bytes(8, "big"))
            and decode(value, Kept, limit_bytes=2 * ANSWER_LIMIT_BYTES).units & units
        ]
        if writes:
            await self._store.put_many(writes)

    async def _kept(self, request: Request) -> Kept | None:
        stored = await self._store.get(_NAMESPACE, _key(request))
        if stored is None:
            return None
        return decode(stored, Kept, limit_bytes=2 * ANSWER_LIMIT_BYTES)


def _key(request: Request) -> bytes:
    # With its grantee: another chain may have given the number to another request.
    number = request.dataset.to_bytes(8, "big") + request.request.to_bytes(8, "big")
    return number + request.grantee
