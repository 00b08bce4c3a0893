"""Every dataset on the chain, and what is known of it: list, show, search, hear.

While the chain does not answer, list, show and search go on with what it last said.
"""

from collections import deque
from collections.abc import Iterable
from typing import Any

import structlog

from node.errors import AccessError, NodeError, TransportError
from node.market import names, reader
from node.market.roll import KeptRoll, Roll
from node.market.search import Filter, Index, group_of
from node.market.shelf import SeenListing
from node.market.tools import Tools, missing
from node.ports.chain import DatasetToken
from node.ports.transport import Announcement
from protocol.errors import ProtocolError
from protocol.lineage import TokenFact
from protocol.listing import Listing, open_listing
from protocol.manifest import (
    ANSWER_LIMIT_BYTES,
    DATA_PROTOCOL,
    DataQuery,
    unit_list,
)
from protocol.members import Member, MemberSet
from protocol.wire import encode

REQUEST_TIMEOUT_S = 60.0

HEARD_LIMIT = 256
"""Announced listings that wait for the chain; of more the oldest are forgotten, and asked
for like any that was missed."""

Rows = list[dict[str, Any]]
Listings = list[SeenListing]

log = structlog.get_logger()


class Catalogue:
    """Listings this node has verified, and an index over them."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._index = Index()
        self._roll = KeptRoll(tools.store, tools.chain, tools.now)
        self._heard: deque[Announcement] = deque(maxlen=HEARD_LIMIT)

    async def list(self) -> Rows:
        """Every dataset on the chain; titles of those whose listing we have."""
        await self._tools.shelf.load()
        roll = await self._roll.read()
        await self._index_known(roll)
        return [await self._summary(token, roll) for token in roll.tokens]

    async def _index_known(self, roll: Roll) -> None:
        """Once for each listing and process: from then on the index is kept up as they come."""
        for token in roll.tokens:
            if not self._index.holds(token.dataset, token.record):
                known = await self.known(token)
                if known is not None:
                    self._index.add(token.dataset, open_listing(known.listing))

    async def show(self, dataset: int) -> dict[str, Any]:
        """A dataset with its listing, asked of its owner once and then kept."""
        await self._tools.shelf.load()
        roll = await self._roll.read()
        token = roll.token(dataset)
        if token is None:
            raise missing(dataset)
        why = None
        try:
            await self._public(token, roll.members)
        except NodeError as error:
            why = str(error)
        await self._index_known(roll)
        shown = await self._summary(token, roll)
        public = await self.known(token)
        if public is None:
            return {**shown, "listing": None, "why": why}
        listing = open_listing(public.listing)
        groups = [
            {"name": group_of(one), "dataset": number, "columns": names.columns(one)}
            for number, one in self._index.groups(listing)
        ]
        return {**shown, "listing": names.described(listing), "groups": groups}

    async def listing(self, dataset: int) -> Listing:
        """The listing behind a dataset's record, or the refusal to say it."""
        await self._tools.shelf.load()
        token = await self._tools.token(dataset)
        known = await self.known(token)
        if known is None:
            await self._public(token, await self._tools.chain.members())
            known = await self.known(token)
        if known is None:
            raise AccessError(
                f"the listing of dataset {dataset} is not what the chain has",
                hint="its owner must serve what it anchored",
            )
        return open_listing(known.listing)

    async def search(self, text: str, wanted: Filter) -> Rows:
        """Datasets with all words of `text`, best first, among the listings we have."""
        await self._tools.shelf.load()
        roll = await self._roll.read()
        tokens = {token.dataset: token for token in roll.tokens}
        for token in tokens.values():
            known = await self.known(token)
            if known is not None:
                self._index.add(token.dataset, open_listing(known.listing))
        found = [n for n in self._index.find(text, wanted) if n in tokens]
        return [await self._summary(tokens[n], roll) for n in found]

    def heard(self, said: Announcement) -> None:
        """A member announced a listing; it is looked at when the chain next answers.

        Not now: whoever delivers announcements also delivers a round's, and must not
        wait for a chain.
        """
        self._heard.append(said)

    async def check_heard(self) -> None:
        """Keep the announced listings that the chain has, and forget the others.

        An announcement may run ahead of the block we take as final; the listing is then
        asked for when somebody wants to see the dataset.
        """
        if not self._heard:
            return
        roll = await self._roll.read()
        while self._heard and roll.as_of is None:
            await self._check(self._heard.popleft(), roll)

    async def _check(self, said: Announcement, roll: Roll) -> None:
        for token in roll.tokens:
            owner = roll.members.by_account(token.owner)
            if owner is None or owner.peer_id != said.origin:
                continue
            try:
                answer = reader.check_public(said.payload, token, owner)
            except ProtocolError:
                continue  # another dataset of the same owner, or none
            await self._keep(token, answer.listing, answer.provenance)
            return
        log.info("listing not on the chain yet", origin=said.origin)

    async def known(self, token: DatasetToken) -> SeenListing | None:
        """The listing behind a token, if we have it."""
        return await self._known(token.dataset, token.record)

    async def _known(self, dataset: int, record: bytes) -> SeenListing | None:
        own = self._tools.shelf.by_dataset(dataset)
        if own is not None and open_listing(own.listing).digest() == record:
            return SeenListing(own.listing, own.provenance)
        return await self._tools.shelf.seen(record)

    async def everything(self, tokens: Iterable[TokenFact]) -> Listings:
        """The listings behind these records that we have."""
        await self._tools.shelf.load()
        found = [await self._known(one.dataset, one.record) for one in tokens]
        return [one for one in found if one is not None]

    async def ask(self, holder: Member, query: DataQuery) -> bytes:
        """One query to a member."""
        try:
            return await self._tools.transport.request(
                holder.peer_id,
                DATA_PROTOCOL,
                encode(query),
                timeout_s=REQUEST_TIMEOUT_S,
                limit_bytes=ANSWER_LIMIT_BYTES,
            )
        except TransportError as error:
            raise TransportError(
                f"asking {holder.name} failed: {error}",
                hint=error.hint()
                or "give the same command again once its node is there",
            ) from error

    async def _public(self, token: DatasetToken, members: MemberSet) -> None:
        """Get the listing of a dataset from its owner unless we have it."""
        if await self.known(token) is not None:
            return
        holder = names.holder(token, members)
        data = await self.ask(holder, DataQuery(token.dataset, None))
        try:
            answer = reader.check_public(data, token, holder)
        except ProtocolError as error:
            raise reader.refused(token.dataset, error) from error
        await self._keep(token, answer.listing, answer.provenance)

    async def _keep(
        self, token: DatasetToken, listing: bytes, provenance: tuple[bytes, ...]
    ) -> None:
        await self._tools.shelf.put_seen(token.record, SeenListing(listing, provenance))
        self._index.add(token.dataset, open_listing(listing))

    async def _summary(self, token: DatasetToken, roll: Roll) -> dict[str, Any]:
        known = await self.known(token)
        holder = roll.members.by_account(token.owner)
        listing = open_listing(known.listing) if known else None
        return {
            "dataset": token.dataset,
            "title": listing.title if listing else None,
            "group": group_of(listing) if listing else None,
            "replaced_by": self._index.newer(listing) if listing else None,
            "owner": holder.name if holder else token.owner.hex(),
            "owner_peer": holder.peer_id if holder else None,
            "mine": self._tools.shelf.by_dataset(token.dataset) is not None,
            "units": token.units,
            "withdrawn": unit_list(
                token.withdrawn if token.open else (1 << token.units) - 1
            ),
            "price": str(token.price),
            "terms": names.terms(token, roll.members),
            "record": token.record.hex(),
            "keys": token.key_epoch,
            "as_of": roll.as_of,
        }
