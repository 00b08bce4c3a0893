"""The two steps of publishing that may be cut by a crash: keep a draft, anchor it."""

from collections.abc import Callable

import msgspec
import trio

from node.market import names, publish
from node.market.publish import Description
from node.market.shelf import OwnDataset, Shelf, fingerprint
from node.ports import Blobs, Chain, Signer, Store
from protocol.listing import open_listing
from protocol.manifest import open_manifest
from protocol.types import Digest
from protocol.wire import encode


class Publisher:
    """Makes datasets of tables; whatever is done already is not done again."""

    def __init__(
        self,
        *,
        store: Store,
        blobs: Blobs,
        signer: Signer,
        chain: Chain,
        shelf: Shelf,
        now: Callable[[], int],
        open_key: Callable[[], bytes],
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._signer = signer
        self._chain = chain
        self._shelf = shelf
        self._now = now
        self._open_key = open_key

    async def draft(self, data: bytes, said: Description) -> OwnDataset:
        """The record of this table and description, made now if there is none whole."""
        secret = self._open_key()
        name = fingerprint(secret, [data, encode(said.words())])
        record = self._shelf.by_fingerprint(name)
        if record is not None and self._whole(record):
            return record

        def work() -> publish.Published:
            return publish.publish(
                data,
                said,
                signer=self._signer,
                blobs=self._blobs,
                secret_seal_key=secret,
                now=self._now(),
            )

        made = await trio.to_thread.run_sync(work)
        record = OwnDataset(
            name,
            None,
            made.sealed_listing,
            made.sealed_manifest,
            made.provenance,
            made.headers,
        )
        await self._shelf.put(record)
        return record

    def _whole(self, record: OwnDataset) -> bool:
        manifest = open_manifest(record.manifest, open_listing(record.listing))
        return record.dataset is not None or all(
            self._blobs.has(Digest(entry.sha256)) for entry in manifest.entries
        )

    async def anchor(self, record: OwnDataset) -> int:
        """The dataset's id on this chain; listed now unless an earlier call did."""
        listing = open_listing(record.listing)
        me = names.me(self._signer.peer_id, await self._chain.members())
        found = next(
            (
                token.dataset
                for token in await self._chain.datasets()
                if token.record == listing.digest() and token.owner == me.account
            ),
            None,
        )
        if found is None:
            found = await self._chain.list_dataset(listing.digest(), listing.units, 0)
        stale = self._shelf.by_dataset(found)
        if stale is not None and stale.fingerprint != record.fingerprint:
            # Another chain gave the number to another table before.
            await self._shelf.put(msgspec.structs.replace(stale, dataset=None))
        if found != record.dataset:
            await self._shelf.put(msgspec.structs.replace(record, dataset=found))
            await self._store.append_event(
                "dataset_listed", {"dataset": found, "units": listing.units}
            )
        return found
