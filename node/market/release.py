"""The owner's answer to a query: public words to members, keys to grantees."""

from collections.abc import Awaitable, Callable

import trio

from node.errors import AccessError
from node.market import sealed
from node.market.grants import GrantBook
from node.market.ranges import ranges
from node.market.shelf import Shelf
from node.ports.storage import Store
from protocol.manifest import (
    QUERY_LIMIT_BYTES,
    DataQuery,
    ListingAnswer,
    UnitHeader,
    UnitsAnswer,
    bitmap,
    unit_list,
)
from protocol.members import Member
from protocol.types import PeerId
from protocol.wire import decode, encode

REFUSAL_NOTE_S = 60

Committed = Callable[[int, Member, int], Awaitable[bytes | None]]
"""Of a dataset, to a member, with the keys of just these units (a bitmap)."""


class Releases:
    """Decides and makes every release of a key by this node."""

    def __init__(
        self,
        *,
        store: Store,
        shelf: Shelf,
        book: GrantBook,
        now: Callable[[], int],
        open_key: Callable[[], bytes],
        committed: Committed,
    ) -> None:
        """`committed` has the message that an approval promised, where there is one."""
        self._committed = committed
        self._store = store
        self._shelf = shelf
        self._book = book
        self._now = now
        self._open_key = open_key
        self._noted: dict[tuple[int, PeerId], int] = {}

    async def answer(self, peer: PeerId, payload: bytes) -> bytes:
        """Serve one query; who asks is the transport's word, what it may is the chain's."""
        query = decode(payload, DataQuery, limit_bytes=QUERY_LIMIT_BYTES)
        await self._shelf.load()
        record, listing, _ = self._shelf.own(query.dataset)
        if query.units is None:
            return encode(ListingAnswer(record.listing, record.provenance))
        left = bitmap([i for i in range(listing.units) if record.headers[i]])
        member, bits = await self._allowed(peer, left, query)
        units = unit_list(bits)
        # The release is on record before it is made.
        await self._store.append_event(
            "keys_released",
            {"dataset": query.dataset, "grantee": member.name, "units": units},
        )
        committed = await self._committed(query.dataset, member, bits)
        if committed is not None:
            return committed

        def seal() -> tuple[UnitHeader, ...]:
            return sealed.reseal_units(
                record.headers,
                units,
                secret_seal_key=self._open_key(),
                grantee=member.seal_key,
            )

        headers = await trio.to_thread.run_sync(seal)
        return encode(UnitsAnswer(record.listing, record.manifest, headers))

    async def _allowed(
        self, peer: PeerId, left: int, query: DataQuery
    ) -> tuple[Member, int]:
        """The asking member and the units it gets, as the chain says at this moment.

        `left` are the units that are not withdrawn.
        """
        assert query.units is not None
        view = await self._book.read(query.dataset, self._now())
        member = view.members.by_peer(peer)
        held = self._book.units(view, member.account, self._now()) if member else 0
        held &= left
        if member is None or not held or query.units & ~held:
            await self._note_refusal(query.dataset, peer)
        if member is None:
            raise AccessError("not a member", hint="register with the federation")
        if not held:
            raise AccessError(
                f"no grant of dataset {query.dataset} for {member.name} is in force",
                hint="ask the owner for a grant; it may have expired or been revoked",
            )
        if query.units & ~held:
            raise AccessError(
                f"units {ranges(unit_list(query.units & ~held))} of dataset {query.dataset} are "
                f"not granted to {member.name}",
                hint=f"granted are {ranges(unit_list(held))}",
            )
        return member, query.units or held

    async def _note_refusal(self, dataset: int, peer: PeerId) -> None:
        """One event a minute and peer: a refused peer must not fill our disk."""
        now = self._now()
        if (
            abs(now - self._noted.get((dataset, peer), -REFUSAL_NOTE_S))
            < REFUSAL_NOTE_S
        ):
            return
        self._noted[dataset, peer] = now
        await self._store.append_event(
            "keys_refused", {"dataset": dataset, "peer": peer}
        )
