"""What the owner keeps of its datasets: sealed messages and the owner's headers.

A record is written before the chain is asked and again when it has answered, so a
crash between the two leaves a draft that the next `add` of the same table completes.
The table is recognised by a keyed fingerprint; a plain hash of records stands nowhere.
"""

import hashlib
import hmac

from node.errors import AccessError, StorageError
from node.ports import Store
from protocol.errors import ProtocolError
from protocol.listing import Listing, open_listing
from protocol.manifest import Manifest, open_manifest
from protocol.wire import Message, decode, encode

_OWN = "market.own"
_SEEN = "market.seen"


class OwnDataset(Message, frozen=True, tag="own-dataset"):
    """One dataset of ours; `dataset` is None until the chain has it."""

    fingerprint: bytes
    dataset: int | None
    listing: bytes
    manifest: bytes
    provenance: tuple[bytes, ...]
    headers: tuple[bytes, ...]


class SeenListing(Message, frozen=True, tag="seen-listing"):
    """A listing of somebody else, as it was verified against the chain."""

    listing: bytes
    provenance: tuple[bytes, ...]


def fingerprint(secret: bytes, parts: list[bytes]) -> bytes:
    """Names a table and its description to this node only."""
    mac = hmac.new(secret, b"rexis-own-dataset-v1", hashlib.sha256)
    for part in parts:
        mac.update(len(part).to_bytes(8, "big") + part)
    return mac.digest()


class Shelf:
    """The owner's records, in memory as they are in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._own: dict[bytes, OwnDataset] = {}
        self._opened: dict[int, tuple[Listing, Manifest]] = {}
        self._places: dict[bytes, tuple[int, int]] = {}
        self._loaded = False

    async def load(self) -> None:
        """Read everything once; a record that does not verify stops the service."""
        if self._loaded:
            return
        for key, value in await self._store.scan(_OWN):
            try:
                self._keep(decode(value, OwnDataset))
            except ProtocolError as error:
                raise StorageError(
                    f"dataset record {key.hex()[:16]} is damaged: {error}",
                    hint="restore the database from its backup",
                ) from error
        self._loaded = True

    async def put(self, record: OwnDataset) -> None:
        await self._store.put(_OWN, record.fingerprint, encode(record))
        self._keep(record)

    def by_fingerprint(self, name: bytes) -> OwnDataset | None:
        return self._own.get(name)

    def by_dataset(self, dataset: int) -> OwnDataset | None:
        return next((r for r in self._own.values() if r.dataset == dataset), None)

    def own(self, dataset: int) -> tuple[OwnDataset, Listing, Manifest]:
        """A dataset of ours, or a refusal."""
        record, opened = self.by_dataset(dataset), self._opened.get(dataset)
        if record is None or opened is None:
            raise AccessError(
                f"dataset {dataset} is not of this node", hint="ask its owner"
            )
        return record, *opened

    def datasets(self) -> list[int]:
        return sorted(self._opened)

    def place(self, digest: bytes) -> tuple[int, int] | None:
        """(dataset, unit) of an encrypted body of ours."""
        return self._places.get(digest)

    async def seen(self, record: bytes) -> SeenListing | None:
        value = await self._store.get(_SEEN, record)
        if value is None:
            return None
        try:
            seen = decode(value, SeenListing)
            return seen if open_listing(seen.listing).digest() == record else None
        except ProtocolError:
            # A copy of what its owner still has: asking again repairs it.
            return None

    async def put_seen(self, record: bytes, seen: SeenListing) -> None:
        await self._store.put(_SEEN, record, encode(seen))

    def _keep(self, record: OwnDataset) -> None:
        listing = open_listing(record.listing)
        manifest = open_manifest(record.manifest, listing)
        self._forget(record.fingerprint)
        self._own[record.fingerprint] = record
        if record.dataset is None:
            return
        self._opened[record.dataset] = (listing, manifest)
        for entry in manifest.entries:
            self._places[entry.sha256] = (record.dataset, entry.index)

    def _forget(self, name: bytes) -> None:
        old = self._own.pop(name, None)
        if old is None or old.dataset is None:
            return
        self._opened.pop(old.dataset, None)
        for digest, place in list(self._places.items()):
            if place[0] == old.dataset:
                del self._places[digest]
