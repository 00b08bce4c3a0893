"""New keys for a dataset that is listed already: the same data, number and grants, encrypted anew.

Whoever was revoked has its old header for ever, and may come by the old ciphertext again.  What is
encrypted from now on is under keys it was never given.  Who has a grant asks for the new keys
with its next fetch.

The record changes here first and on the chain after, so it is never the chain alone that has what
nobody can open any more.  Until the chain has the new listing no grantee is served, and
`catch_up` tells it again.
"""

from collections.abc import Awaitable, Callable, Sequence

import structlog
import trio

from node.errors import AccessError, ChainError, StorageError
from node.market import DatasetError
from node.market.publisher import Publisher
from node.market.shelf import OwnDataset, SeenListing
from node.market.tools import Tools
from node.market.versions import Versions
from node.market.works import Work
from protocol.listing import open_listing
from protocol.manifest import Entry, open_manifest
from protocol.provenance import STEPS_LIMIT
from protocol.wire import Message, decode, encode

_EXCHANGED = "market.exchanged"

Settled = Callable[[int], Awaitable[None]]
"""Raises where somebody was promised the keys of a dataset as they are."""

log = structlog.get_logger()


class Exchanged(Message, frozen=True, tag="exchanged"):
    """What was in force before, until its ciphertext is gone and the chain has the new listing."""

    listing: bytes
    manifest: bytes


class Rekeys:
    """Of this node's datasets."""

    def __init__(self, tools: Tools, publisher: Publisher, changing: trio.Lock) -> None:
        """`changing` is held by whoever exchanges a dataset's record for one made of it."""
        self._tools = tools
        self._publisher = publisher
        self._changing = changing
        self._finishing = trio.Lock()
        self._versions = Versions(tools.shelf)

    async def make(self, dataset: int, settled: Settled, work: Work) -> OwnDataset:
        """Encrypt what is left of the dataset under new keys; the old ones are destroyed."""
        if await self._exchanged(dataset) is None:
            record = await self._required(dataset)
            await settled(dataset)
            size = sum(entry.length for entry in _entries(record))
            work.step("encrypting", size)
            await self._exchange(dataset, record, settled, work)
        await self._tools.shelf.load()
        work.step("anchoring")
        return await self.finish(dataset)

    async def finish(self, dataset: int) -> OwnDataset:
        """What is left of an exchange: the old ciphertext, and the word to the chain."""
        async with self._finishing:
            if (old := await self._exchanged(dataset)) is not None:
                await self._finish(dataset, old)
        return self._tools.shelf.own(dataset)[0]

    async def _finish(self, dataset: int, old: Exchanged) -> None:
        _, listing, manifest = self._tools.shelf.own(dataset)
        before = open_listing(old.listing)
        kept = {entry.chunks for entry in manifest.entries}
        gone = open_manifest(old.manifest, before).entries
        await self._delete([one for one in gone if one.chunks not in kept])
        await self._tools.store.scrub()
        token = await self._tools.token(dataset)
        if token.record == before.digest() and token.open:
            await self._tools.chain.add_version(
                dataset, listing.digest(), listing.units, rekeyed=True
            )
        elif token.record != listing.digest() and token.open:
            raise DatasetError(
                f"the chain has a listing {token.record.hex()[:16]} of dataset {dataset} that is "
                "not of this node's making",
                hint="is it the chain it was listed on?",
            )
        await self._tools.store.delete(_EXCHANGED, _key(dataset))
        await self._tools.store.append_event("dataset_rekeyed", {"dataset": dataset})

    async def catch_up(self) -> None:
        """Finish what a crash or a chain that was down has left."""
        await self._tools.shelf.load()
        for key, _ in await self._tools.store.scan(_EXCHANGED):
            dataset = int.from_bytes(key, "big")
            try:
                await self.finish(dataset)
            except (AccessError, ChainError, DatasetError) as error:
                log.warning(
                    "new keys not on the chain", dataset=dataset, error=str(error)
                )

    async def _required(self, dataset: int) -> OwnDataset:
        await self._tools.shelf.load()
        record = self._tools.shelf.own(dataset)[0]
        if not any(record.headers):
            raise AccessError(
                f"dataset {dataset} is withdrawn: its keys are destroyed",
                hint="there is nothing left to encrypt",
            )
        if (newer := self._versions.replaced(dataset)) is not None:
            raise AccessError(
                f"dataset {dataset} is replaced by dataset {newer}, which names its listing",
                hint=f"give {newer} new keys, and withdraw {dataset}",
            )
        if len(record.provenance) >= STEPS_LIMIT:
            raise AccessError(
                f"dataset {dataset} has a history of {len(record.provenance)} steps, limit is "
                f"{STEPS_LIMIT}",
                hint="publish its next version (`--replaces`)",
            )
        return record

    async def _exchange(
        self, dataset: int, record: OwnDataset, settled: Settled, work: Work
    ) -> None:
        made = None
        try:
            made = await self._publisher.rekeyed(record, work)
        except StorageError:
            # Units that are withdrawn meanwhile are gone under its hands.
            if self._tools.shelf.own(dataset)[0] == record:
                raise
        if made is not None and await self._exchanged_for(
            dataset, record, made, settled
        ):
            return
        # Its keys are in the draft: they must go like those that were withdrawn.
        await self._publisher.give_up_rekeyed(record)
        if made is not None:
            kept = {entry.chunks for entry in _entries(record, withdrawn=True)}
            of_made = _entries(made, withdrawn=True)
            await self._delete([one for one in of_made if one.chunks not in kept])
        raise DatasetError(
            f"dataset {dataset} was changed while it was encrypted",
            hint="give the same command again",
        )

    async def _exchanged_for(
        self, dataset: int, record: OwnDataset, made: OwnDataset, settled: Settled
    ) -> bool:
        """Put `made` in the place of `record`, unless that is not there any more."""
        seen = SeenListing(record.listing, record.provenance)
        await self._tools.shelf.put_seen(open_listing(record.listing).digest(), seen)
        ended = await self._publisher.ended(record)
        old = encode(Exchanged(record.listing, record.manifest))
        await settled(dataset)
        async with self._changing:
            if self._tools.shelf.own(dataset)[0] != record:
                return False
            also = [*ended, (_EXCHANGED, _key(dataset), old)]
            await self._tools.shelf.put(made, also)
            return True

    async def _exchanged(self, dataset: int) -> Exchanged | None:
        stored = await self._tools.store.get(_EXCHANGED, _key(dataset))
        return None if stored is None else decode(stored, Exchanged)

    async def _delete(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            await trio.to_thread.run_sync(self._tools.shelf.delete, entry)


def _entries(record: OwnDataset, *, withdrawn: bool = False) -> list[Entry]:
    manifest = open_manifest(record.manifest, open_listing(record.listing))
    return [e for e in manifest.entries if withdrawn or record.headers[e.index]]


def _key(dataset: int) -> bytes:
    return dataset.to_bytes(8, "big")
