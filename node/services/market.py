"""Datasets: published, listed, granted, read, revoked (docs/data.md).

The owner asks the chain before every release of a key, and the grantee checks every
byte against the chain's record; neither takes the other's word.  What a restart needs
is in the store and the blobs, and the plaintext is in neither.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import structlog
import trio

from node.errors import AccessError, ChainError, NodeError
from node.market import names, privacy, publish, reader, table
from node.market.grants import GrantBook, View
from node.market.publish import Description
from node.market.publisher import Publisher
from node.market.release import Releases
from node.market.shelf import SeenListing, Shelf
from node.ports import Blobs, Chain, DatasetToken, Grant, Signer, Store, Transport
from protocol.errors import ProtocolError
from protocol.listing import Listing, open_listing
from protocol.manifest import (
    ANSWER_LIMIT_BYTES,
    DATA_PROTOCOL,
    QUERY_LIMIT_BYTES,
    DataQuery,
    Manifest,
    UnitHeader,
    unit_list,
)
from protocol.members import Member, MemberSet
from protocol.types import Digest, PeerId
from protocol.wire import encode

REQUEST_TIMEOUT_S = 60.0
FETCH_TIMEOUT_S = 600.0
WATCH_S = 10.0
DAYS_LIMIT = 3650
_DAY_S = 86_400

Records = list[dict[str, Any]]

log = structlog.get_logger()


class Market:
    """The data marketplace of one node."""

    def __init__(
        self,
        *,
        store: Store,
        blobs: Blobs,
        signer: Signer,
        chain: Chain,
        transport: Transport,
        now: Callable[[], int],
        open_key: Callable[[], bytes],
    ) -> None:
        """`now` is Unix seconds; `open_key` gives the node's secret X25519 seal key."""
        self._store = store
        self._blobs = blobs
        self._signer = signer
        self._chain = chain
        self._transport = transport
        self._now = now
        self._open_key = open_key
        self._shelf = Shelf(store)
        self._book = GrantBook(chain)
        self._adding = trio.Lock()
        self._publisher = Publisher(
            store=store,
            blobs=blobs,
            signer=signer,
            chain=chain,
            shelf=self._shelf,
            now=now,
            open_key=open_key,
        )
        self._releases = Releases(
            store=store, shelf=self._shelf, book=self._book, now=now, open_key=open_key
        )

    def serve(self) -> None:
        """Answer members over the transport."""
        self._transport.serve(
            DATA_PROTOCOL, self._releases.answer, limit_bytes=QUERY_LIMIT_BYTES
        )

    async def refresh(self) -> None:
        """Load what we own and read its grants; call once before `may_fetch` matters."""
        await self._shelf.load()
        for dataset in self._shelf.datasets():
            await self._book.read(dataset, self._now())

    async def watch(self, *, every_s: float = WATCH_S) -> None:
        """Keep the view of the grants fresh, so that a revocation by anyone acts."""
        while True:
            try:
                await self.refresh()
            except ChainError as error:
                # The old view goes stale by itself and then lets nobody through.
                log.warning("grants not refreshed", error=str(error))
            await trio.sleep(every_s)

    def may_fetch(self, peer: PeerId, digest: Digest) -> bool:
        """Whether `peer` may pull this encrypted body now; True for bodies only."""
        place = self._shelf.place(digest)
        return place is not None and self._book.covers(peer, *place, self._now())

    # --- owner -----------------------------------------------------------------

    async def add(
        self,
        path: str | Path,
        title: str,
        licence: str,
        duo: Sequence[str] | str,
        source: str,
        *,
        unit_column: str | None = None,
    ) -> dict[str, Any]:
        """Encrypt and list a CSV; the same call again finishes or finds it."""
        codes = (duo,) if isinstance(duo, str) else tuple(sorted(set(duo)))
        said = Description(title, licence, codes, source, unit_column)
        said.check()
        async with self._adding:
            await self._shelf.load()
            data = await trio.to_thread.run_sync(publish.read_table, Path(path))
            record = await self._publisher.draft(data, said)
            dataset = await self._publisher.anchor(record)
        await self._book.read(dataset, self._now())
        columns = [column.name for column in open_listing(record.listing).columns]
        return {
            **await self.show(dataset),
            "warnings": [
                f"column {name!r} seems to hold direct identifiers"
                for name in privacy.direct_identifiers(columns)
            ],
        }

    def owned(self) -> int:
        """How many datasets this node has listed."""
        return len(self._shelf.datasets())

    async def own_rows(self, dataset: int) -> bytes:
        """The whole table as CSV, for the owner's own computing; asks no chain."""
        await self._shelf.load()
        record, listing, manifest = self._shelf.own(dataset)
        headers = [UnitHeader(i, header) for i, header in enumerate(record.headers)]
        return await self._decrypt(listing, manifest, headers, self._signer.seal_key)

    async def give(
        self, dataset: int, grantee: str, units: Sequence[int] | None, days: int
    ) -> dict[str, Any]:
        """Grant units to the member called `grantee`; None is all units."""
        await self._shelf.load()
        listing = self._shelf.own(dataset)[1]
        bits = names.bits(units, listing.units)
        if not 1 <= days <= DAYS_LIMIT:
            raise AccessError(f"{days} days, needs between 1 and {DAYS_LIMIT}")
        member = names.by_name(await self._chain.members(), grantee)
        head = await self._chain.head()
        until = max(self._now(), head.time) + days * _DAY_S
        grant = await self._chain.grant(dataset, member.account, bits, until)
        await self._store.append_event(
            "grant_given",
            {"grant": grant, "dataset": dataset, "grantee": grantee, "until": until},
        )
        view = await self._book.read(dataset, self._now())
        return self._shown(names.grant(view.grants, grant), view)

    async def revoke(self, grant: int) -> dict[str, Any]:
        """Stop a grant: here at once, and on the chain for everyone."""
        await self._shelf.load()
        dataset = await self._dataset_of(grant)
        self._book.withdraw(grant)
        try:
            await self._chain.revoke(grant)
        except ChainError:
            # Only a clear no restores it; after a cancellation it stays withdrawn.
            self._book.restore(grant)
            raise
        await self._store.append_event(
            "grant_revoked", {"grant": grant, "dataset": dataset}
        )
        view = await self._book.read(dataset, self._now())
        return self._shown(names.grant(view.grants, grant), view)

    # --- anyone ----------------------------------------------------------------

    async def list(self) -> Records:
        """Every dataset on the chain; titles of those whose listing we have."""
        await self._shelf.load()
        members = await self._chain.members()
        return [
            await self._summary(token, members)
            for token in await self._chain.datasets()
        ]

    async def show(self, dataset: int) -> dict[str, Any]:
        """A dataset with its listing, asked of its owner once and then kept."""
        await self._shelf.load()
        token = await self._token(dataset)
        members = await self._chain.members()
        why = None
        try:
            await self._public(token, members)
        except NodeError as error:
            why = str(error)
        shown = await self._summary(token, members)
        public = await self._known(token)
        if public is None:
            return {**shown, "listing": None, "why": why}
        listing = open_listing(public.listing)
        return {**shown, "listing": names.described(listing)}

    async def grants(self, dataset: int) -> Records:
        """All grants of a dataset, those that ended too."""
        await self._token(dataset)
        view = await self._view(dataset)
        return [self._shown(grant, view) for grant in view.grants]

    async def fetch(
        self,
        dataset: int,
        owner: PeerId | None,
        path: str | Path,
        *,
        units: Sequence[int] | None = None,
    ) -> dict[str, Any]:
        """Read what was granted to us into a private CSV at `path`.

        `units` None means all that is granted; named units must all be.
        """
        await self._shelf.load()
        token = await self._token(dataset)
        holder = names.holder(token, await self._chain.members(), owner)
        wanted = 0 if units is None else names.bits(units, token.units)
        listing, manifest, headers = await self._keys(token, holder, wanted)
        await self._pull(holder, manifest, headers)
        rows = await self._decrypt(listing, manifest, headers, holder.seal_key)
        await trio.to_thread.run_sync(reader.write_private, Path(path), rows)
        read = [one.index for one in headers]
        await self._store.append_event(
            "units_read", {"dataset": dataset, "units": read, "owner": holder.name}
        )
        return {
            "dataset": dataset,
            "title": listing.title,
            "record": token.record.hex(),
            "units": read,
            "columns": [column.name for column in listing.columns],
            "bytes": len(rows),
            "path": str(path),
        }

    # --- between owner and grantee ---------------------------------------------

    async def _ask(self, holder: Member, query: DataQuery) -> bytes:
        return await self._transport.request(
            holder.peer_id,
            DATA_PROTOCOL,
            encode(query),
            timeout_s=REQUEST_TIMEOUT_S,
            limit_bytes=ANSWER_LIMIT_BYTES,
        )

    async def _keys(
        self, token: DatasetToken, holder: Member, wanted: int
    ) -> tuple[Listing, Manifest, tuple[UnitHeader, ...]]:
        """What the owner released, checked against the chain."""
        data = await self._ask(holder, DataQuery(token.dataset, wanted))
        view = await self._view(token.dataset)
        account = names.me(self._signer.peer_id, view.members).account
        granted = self._book.units(view, account, self._now())
        try:
            return reader.check_units(
                data, token, holder, wanted=wanted, granted=granted
            )
        except ProtocolError as error:
            raise reader.refused(token.dataset, error) from error

    async def _pull(
        self, holder: Member, manifest: Manifest, headers: Sequence[UnitHeader]
    ) -> None:
        for one in headers:
            entry = manifest.entries[one.index]
            if not self._blobs.has(Digest(entry.sha256)):
                await self._transport.fetch(
                    holder.peer_id,
                    Digest(entry.sha256),
                    limit_bytes=entry.length,
                    timeout_s=FETCH_TIMEOUT_S,
                )

    async def _decrypt(
        self,
        listing: Listing,
        manifest: Manifest,
        headers: Sequence[UnitHeader],
        sender: bytes,
    ) -> bytes:
        def work() -> bytes:
            rows = reader.open_units(
                self._blobs,
                listing,
                manifest,
                headers,
                secret_seal_key=self._open_key(),
                sender=sender,
            )
            return table.write(rows.columns, rows.rows)

        return await trio.to_thread.run_sync(work)

    # --- records ---------------------------------------------------------------

    async def _public(self, token: DatasetToken, members: MemberSet) -> None:
        """Get the listing of a dataset from its owner unless we have it."""
        if await self._known(token) is not None:
            return
        holder = names.holder(token, members)
        data = await self._ask(holder, DataQuery(token.dataset, None))
        try:
            answer = reader.check_public(data, token, holder)
        except ProtocolError as error:
            raise reader.refused(token.dataset, error) from error
        seen = SeenListing(answer.listing, answer.provenance)
        await self._shelf.put_seen(token.record, seen)

    async def _known(self, token: DatasetToken) -> SeenListing | None:
        own = self._shelf.by_dataset(token.dataset)
        if own is not None:
            seen = SeenListing(own.listing, own.provenance)
            return seen if open_listing(seen.listing).digest() == token.record else None
        return await self._shelf.seen(token.record)

    async def _summary(self, token: DatasetToken, members: MemberSet) -> dict[str, Any]:
        known = await self._known(token)
        holder = members.by_account(token.owner)
        return {
            "dataset": token.dataset,
            "title": open_listing(known.listing).title if known else None,
            "owner": holder.name if holder else token.owner.hex(),
            "owner_peer": holder.peer_id if holder else None,
            "mine": self._shelf.by_dataset(token.dataset) is not None,
            "units": token.units,
            "price": token.price,
            "record": token.record.hex(),
        }

    def _shown(self, grant: Grant, view: View) -> dict[str, Any]:
        member = view.members.by_account(grant.grantee)
        return {
            "grant": grant.grant,
            "dataset": grant.dataset,
            "grantee": member.name if member else grant.grantee.hex(),
            "units": unit_list(grant.units),
            "until": grant.until,
            "revoked": grant.revoked,
            "active": grant in self._book.active(view, self._now()),
        }

    async def _view(self, dataset: int) -> View:
        return await self._book.read(dataset, self._now())

    async def _token(self, dataset: int) -> DatasetToken:
        for token in await self._chain.datasets():
            if token.dataset == dataset:
                return token
        raise AccessError(
            f"dataset {dataset} is not on the chain", hint="see the list of datasets"
        )

    async def _dataset_of(self, grant: int) -> int:
        for dataset in self._shelf.datasets():
            view = await self._view(dataset)
            if any(one.grant == grant for one in view.grants):
                return dataset
        raise AccessError(
            f"grant {grant} is not on a dataset of this node",
            hint="only the owner of a dataset revokes its grants",
        )
