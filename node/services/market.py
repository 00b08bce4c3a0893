"""Datasets: published, listed, found, granted, read, revoked, withdrawn (docs/data.md).

The owner asks the chain before every release of a key, and the grantee checks every
byte against the chain's record; neither takes the other's word.  What a restart needs
is in the store and the blobs, and the plaintext is in neither.

This is the face of `node.market`; what each side does is in its owner, catalogue,
grantee and release.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import structlog
import trio

from node.errors import ChainError
from node.market import DatasetError, lineage, names
from node.market.catalogue import Catalogue
from node.market.deals import Deals
from node.market.grantee import Grantee
from node.market.grants import GrantBook
from node.market.key_messages import KeyMessages
from node.market.offer import Offer
from node.market.owner import Owner
from node.market.plan import WHOLE
from node.market.publish import Description
from node.market.release import Releases
from node.market.search import Filter
from node.market.shelf import Shelf
from node.market.tools import Tools
from node.market.works import Works
from node.ports.chain import Chain, ChainEvent
from node.ports.keys import Signer
from node.ports.market import Committees
from node.ports.market import Market as Trade
from node.ports.storage import Blobs, Store
from node.ports.transport import Announcement, Transport
from protocol.duo import DISEASE_SPECIFIC, PERMISSIONS, check_disease
from protocol.errors import MalformedMessageError
from protocol.lineage import AskedQuery, Facts, PlacedReceipt, Records
from protocol.listing import FORMATS, Listing
from protocol.manifest import DATA_PROTOCOL, QUERY_LIMIT_BYTES
from protocol.members import Member
from protocol.seating import Change
from protocol.types import Digest, PeerId

WATCH_S = 10.0

Rows = list[dict[str, Any]]

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
        trade: Trade | None = None,
        committees: Committees | None = None,
    ) -> None:
        """`trade` and `committees`: None where the chain has no market.

        `now` is Unix seconds; `open_key` gives the node's secret X25519 seal key.
        """
        self._now = now
        self._transport = transport
        self._shelf = Shelf(store, blobs)
        self._book = GrantBook(chain)
        self._tools = Tools(
            store=store,
            blobs=blobs,
            signer=signer,
            chain=chain,
            transport=transport,
            shelf=self._shelf,
            book=self._book,
            now=now,
            open_key=open_key,
        )
        messages = KeyMessages(store=store, shelf=self._shelf, open_key=open_key)
        self._owner = Owner(self._tools, messages)
        self._catalogue = Catalogue(self._tools)
        self.deals: Deals | None = None
        if trade is not None:
            self.deals = Deals(
                self._tools, self._catalogue, messages, trade, committees
            )
        self._grantee = Grantee(self._tools, self._catalogue, self._received)
        self._releases = Releases(
            store=store,
            shelf=self._shelf,
            book=self._book,
            now=now,
            open_key=open_key,
            committed=self._committed,
        )

    def serve(self) -> None:
        """Answer members over the transport."""
        self._transport.serve(
            DATA_PROTOCOL, self._releases.answer, limit_bytes=QUERY_LIMIT_BYTES
        )
        if self.deals is not None:
            self.deals.serve()

    async def refresh(self) -> None:
        """Load what we hold and read its grants; call once before `may_fetch` matters."""
        await self._shelf.load()
        for dataset in self._shelf.served():
            await self._book.read(dataset, self._now())
        await self._catalogue.check_heard()

    async def watch(self, *, every_s: float = WATCH_S) -> None:
        """Keep the view of the grants fresh, so that a revocation by anyone acts."""
        await self._owner.give_up_old()
        while True:
            await self._owner.catch_up()
            try:
                await self.refresh()
            except ChainError as error:
                # The old view goes stale by itself and then lets nobody through.
                log.warning("grants not refreshed", error=str(error))
            await trio.sleep(every_s)

    async def close_due(self, *, every_s: float = WATCH_S) -> None:
        """Fetch our money once its time has come.

        Beside `watch` and not in it: it sends transactions, and while one of them waits to
        be final our view of the grants would grow too old to let anybody through.
        """
        while self.deals is not None:
            try:
                await self.deals.requests.close_due()
            except ChainError as error:
                log.warning("requests not closed", error=str(error))
            await trio.sleep(every_s)

    async def _committed(
        self, dataset: int, member: Member, units: int
    ) -> bytes | None:
        if self.deals is None:
            return None
        return await self.deals.committed(dataset, member, units)

    async def _received(self, dataset: int, message: bytes) -> None:
        if self.deals is not None:
            await self.deals.requests.received(dataset, message)

    def may_fetch(self, peer: PeerId, digest: Digest) -> bool:
        """Whether `peer` may pull this piece of ciphertext now; True for nothing else."""
        place = self._shelf.place(digest)
        return place is not None and self._book.covers(peer, *place, self._now())

    def owned(self) -> int:
        """How many datasets this node has listed."""
        return len(self._shelf.datasets())

    @property
    def works(self) -> Works:
        """What is under way now."""
        return self._tools.works

    # --- owner -----------------------------------------------------------------

    async def publish(
        self,
        paths: Sequence[str | Path],
        title: str,
        licence: str,
        duo: Sequence[str] | str,
        source: str,
        *,
        unit_by: str | None = None,
        disease: str | None = None,
        columns: Sequence[str] = (),
        group: str | None = None,
        replaces: int | None = None,
        offered: Offer | None = None,
    ) -> dict[str, Any]:
        """Encrypt and list files and folders; the same call again goes on where it was.

        `unit_by` is `file`, `folder`, `patient` (DICOM) or, for one table, a column; `columns` are all that is published of one table, none means every one,
        and `group` is what they are called in public;
        `replaces` is a dataset of ours of which this is the next version, under new keys.
        """
        await self._owner.give_up_old()
        said = Description(
            *(title, licence, _codes(duo), source, unit_by, disease),
            columns=tuple(columns),
            group=group or WHOLE,
        )
        dataset, warnings = await self._owner.publish(
            [Path(path) for path in paths], said, replaces, offered or Offer()
        )
        return await self._warned(dataset, warnings)

    async def preview(
        self,
        paths: Sequence[str | Path],
        said: Description,
        *,
        replaces: int | None = None,
        offered: Offer | None = None,
        who: str | None = None,
    ) -> dict[str, Any]:
        """What `publish` would say in public, and which unit would hold whom; tells nobody.

        `who` is a value of the unit column, a patient, folder or file whose unit is asked for.
        """
        return await self._owner.preview(
            [Path(path) for path in paths], said, replaces, offered or Offer(), who
        )

    async def rekey(self, dataset: int) -> dict[str, Any]:
        """New keys and ciphertext for a dataset of ours; its number and its grants stay.

        The same call again goes on where it was.
        """

        async def settled(number: int) -> None:
            if self.deals is not None:
                await self.deals.require_settled(number)

        given = await self._owner.rekey(dataset, settled)
        return await self._warned(dataset, given)

    async def _warned(self, dataset: int, warnings: list[str]) -> dict[str, Any]:
        if self.deals is not None:
            warnings = [*warnings, *await self.deals.unaccepted(dataset)]
        return {**await self.show(dataset), "warnings": warnings}

    async def offer(self, said: Any) -> Offer:
        """What an operator said of price, token, days and committee, with names resolved."""
        committee = None
        if said.committee is not None:
            committee = names.account(await self._tools.chain.members(), said.committee)
            if self.deals is not None:
                await self.deals.require_decider(committee)
        return Offer(
            None if said.price is None else int(said.price),
            None if said.token is None else bytes.fromhex(said.token[2:]),
            said.max_days,
            committee,
        )

    async def change(self, dataset: int, offered: Offer) -> dict[str, Any]:
        """Other terms for a dataset of ours; narrower ones end what was given on wider."""
        await self._owner.change(dataset, offered)
        return await self._warned(dataset, [])

    async def own_rows(self, dataset: int) -> bytes:
        """The whole table as CSV, for the owner's own computing; asks no chain."""
        return await self._owner.rows(dataset)

    async def own_listing(self, dataset: int) -> Listing | None:
        """The listing of a dataset of ours; None for one of others."""
        await self._shelf.load()
        if self._shelf.by_dataset(dataset) is None:
            return None
        return self._shelf.own(dataset)[1]

    async def listing(self, dataset: int) -> Listing:
        """What the chain's record of a dataset stands for, asked of its owner if need be."""
        return await self._catalogue.listing(dataset)

    async def own_bytes(
        self, dataset: int, unit: int, *, offset: int, length: int
    ) -> bytes:
        """A range of one unit's plaintext, for the owner's own computing."""
        return await self._owner.read(dataset, unit, offset, length)

    async def give(
        self,
        dataset: int,
        grantee: str,
        units: Sequence[int] | None,
        days: int,
        purposes: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Grant units to the member called `grantee`; None is all units, all purposes."""
        return await self._owner.give(dataset, grantee, units, days, purposes)

    async def revoke(self, grant: int) -> dict[str, Any]:
        """Stop a grant: here at once, and on the chain for everyone."""
        return await self._owner.revoke(grant)

    async def withdraw(
        self, dataset: int, units: Sequence[int] | None = None
    ) -> dict[str, Any]:
        """Destroy keys and ciphertext of units, or of all; says what stays."""
        return await self._owner.withdraw(dataset, units)

    # --- anyone ----------------------------------------------------------------

    async def list(self) -> Rows:
        """Every dataset on the chain; titles of those whose listing we have."""
        return await self._catalogue.list()

    async def show(self, dataset: int) -> dict[str, Any]:
        """A dataset with its listing, asked of its owner once and then kept."""
        shown = await self._catalogue.show(dataset)
        return {**shown, "slices": await self.slices(dataset)}

    async def slices(self, dataset: int) -> Sequence[int]:
        """Other datasets of ours with the same rows in the same units."""
        return await self._owner.slices(dataset)

    async def search(self, text: str = "", wanted: Filter | None = None) -> Rows:
        """Datasets with all these words, best first, among the listings we have."""
        wanted = wanted or Filter()
        if wanted.purpose not in {None, *PERMISSIONS}:
            raise DatasetError(
                f"{wanted.purpose} is not a permission",
                hint=f"permissions are {', '.join(sorted(PERMISSIONS))}",
            )
        try:
            check_disease((DISEASE_SPECIFIC,), wanted.disease)
        except MalformedMessageError as error:
            raise DatasetError(str(error), hint="leave it out to see all") from error
        # Of a misspelt one there are no datasets, which would be taken for an answer.
        if wanted.format not in {None, *FORMATS}:
            raise DatasetError(
                f"{wanted.format!r} is no format of a listing",
                hint=f"formats are {', '.join(FORMATS)}",
            )
        return await self._catalogue.search(text, wanted)

    async def heard(self, said: Announcement) -> None:
        """A member announced a listing under `protocol.listing.LISTING_TOPIC`."""
        self._catalogue.heard(said)
        await trio.lowlevel.checkpoint()

    async def grants(self, dataset: int) -> Rows:
        """All grants of a dataset, those that ended too."""
        await self._tools.token(dataset)
        view = await self._tools.view(dataset)
        return [self._tools.shown(grant, view) for grant in view.grants]

    async def lineage(
        self,
        events: Iterable[ChainEvent],
        *,
        proposals: Sequence[bytes] = (),
        consents: Sequence[bytes] = (),
        releases: Sequence[bytes] = (),
        receipts: Sequence[PlacedReceipt] = (),
        queries: Sequence[AskedQuery] = (),
        changes: Sequence[Change] = (),
    ) -> tuple[Records, Facts]:
        """The records and facts of a provenance graph: `protocol.lineage.build`.

        Listings, members, tokens and grants are this node's own view; the rest is what
        other services keep.  `events` are the chain's anchors so far.
        """
        events = tuple(events)
        tokens = await self._tools.chain.datasets()
        had = lineage.had(tokens, events)
        listings = await self._catalogue.everything(had)
        grants = [
            grant
            for token in tokens
            for grant in await self._tools.chain.grants(token.dataset)
        ]
        return lineage.records(
            listings,
            proposals=proposals,
            consents=consents,
            releases=releases,
            receipts=receipts,
            queries=queries,
            changes=changes,
        ), lineage.facts(await self._tools.chain.members(), had, grants, events)

    async def fetch(
        self,
        dataset: int,
        owner: PeerId | None,
        path: str | Path,
        *,
        units: Sequence[int] | None = None,
        crypt4gh_key: bytes | None = None,
    ) -> dict[str, Any]:
        """Read what was granted to us.

        A table becomes a private file at `path`; files become a private folder.  With
        `crypt4gh_key`, an X25519 public key, the folder holds complete Crypt4GH files
        for that key instead, and nothing is decrypted here.  `units` None means all that
        is granted; named units must all be.
        """
        return await self._grantee.fetch(
            dataset, owner, Path(path), units, crypt4gh_key
        )


def _codes(duo: Sequence[str] | str) -> tuple[str, ...]:
    return (duo,) if isinstance(duo, str) else tuple(sorted(set(duo)))
