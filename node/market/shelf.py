"""What this node keeps of datasets: its own, and the ciphertext it holds of others.

A record is written before the chain is asked and again when it has answered, so a
crash between the two leaves a draft that the next publishing of the same data completes.
The data are recognised by a keyed fingerprint; a plain hash of records stands nowhere.

A withdrawn unit has an empty header in its record: without it nobody opens the unit any
more, this node included.
"""

import hashlib
import hmac
from collections.abc import Iterator, Sequence

import msgspec
import trio

from node.errors import AccessError, StorageError
from node.ports.storage import Blobs, Store
from protocol.errors import ProtocolError
from protocol.listing import Listing, open_listing
from protocol.manifest import (
    CHUNK_LIST_LIMIT_BYTES,
    ChunkList,
    Entry,
    Manifest,
    open_chunks,
    open_manifest,
)
from protocol.types import Digest
from protocol.wire import Message, decode, encode

_OWN = "market.own"
_SEEN = "market.seen"
_HELD = "market.held"


class OwnDataset(Message, frozen=True, tag="own-dataset"):
    """One dataset of ours; `dataset` is None until the chain has it."""

    fingerprint: bytes
    dataset: int | None
    listing: bytes
    manifest: bytes
    provenance: tuple[bytes, ...]
    headers: tuple[bytes, ...]

    @property
    def withdrawn(self) -> tuple[int, ...]:
        """Units whose key is destroyed."""
        return tuple(i for i, header in enumerate(self.headers) if not header)


class SeenListing(Message, frozen=True, tag="seen-listing"):
    """A listing of somebody else, as it was verified against the chain."""

    listing: bytes
    provenance: tuple[bytes, ...]


class HeldUnits(Message, frozen=True, tag="held-units"):
    """Ciphertext of somebody else's dataset that we fetched and may pass on."""

    dataset: int
    listing: bytes
    manifest: bytes
    units: tuple[int, ...]


def fingerprint(secret: bytes, parts: list[bytes]) -> bytes:
    """Names data and their description to this node only."""
    mac = hmac.new(secret, b"rexis-own-dataset-v2", hashlib.sha256)
    for part in parts:
        mac.update(len(part).to_bytes(8, "big") + part)
    return mac.digest()


def chunk_list(blobs: Blobs, entry: Entry) -> ChunkList:
    """The chunks of a unit, from our own blobs."""
    name = Digest(entry.chunks)
    if not blobs.has(name):
        raise StorageError(
            f"the chunk list of unit {entry.index} ({name.hex()[:16]}…) is not in the "
            "blob store",
            hint="fetch it again, or restore the blobs from their backup",
        )
    data = blobs.read(name, 0, CHUNK_LIST_LIMIT_BYTES)
    try:
        return open_chunks(data, entry)
    except ProtocolError as error:
        raise StorageError(
            f"the chunk list of unit {entry.index} is not what the manifest says",
            hint="the file was altered; fetch it again",
        ) from error


class Shelf:
    """The records, in memory as they are in the store."""

    def __init__(self, store: Store, blobs: Blobs) -> None:
        self._store = store
        self._blobs = blobs
        self._own: dict[bytes, OwnDataset] = {}
        self._opened: dict[int, tuple[Listing, Manifest]] = {}
        self._held: dict[int, HeldUnits] = {}
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
        for key, value in await self._store.scan(_HELD):
            try:
                self._hold(decode(value, HeldUnits))
            except ProtocolError:
                # Ciphertext of others that we only pass on: forgetting it loses nothing.
                await self._store.delete(_HELD, key)
        self._loaded = True

    async def put(
        self,
        record: OwnDataset,
        also: Sequence[tuple[str, bytes, bytes | None]] = (),
    ) -> None:
        """Together with writes that must not be done without it."""
        own = _OWN, record.fingerprint, encode(record)
        await self._store.put_many([own, *also])
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
        """Numbers of our own datasets."""
        return sorted(self._opened)

    def served(self) -> list[int]:
        """Numbers of all datasets of which we may give ciphertext away."""
        return sorted({*self._opened, *self._held})

    def place(self, digest: bytes) -> tuple[int, int] | None:
        """(dataset, unit) of a chunk, or of a chunk list, that we hold."""
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

    async def hold(
        self, dataset: int, listing: bytes, manifest: bytes, units: Sequence[int]
    ) -> None:
        """We have the ciphertext of these units now, and serve who may have it."""
        before = self._held.get(dataset)
        if before is not None and before.manifest == manifest:
            units, before = sorted({*before.units, *units}), None
        record = HeldUnits(dataset, listing, manifest, tuple(units))
        await self._store.put(_HELD, dataset.to_bytes(8, "big"), encode(record))
        if before is not None:
            self._displace(dataset)
        self._hold(record)
        if before is not None:
            await trio.to_thread.run_sync(self._drop, before)

    def _drop(self, held: HeldUnits) -> None:
        """Ciphertext under keys that its owner has replaced: nobody asks for it any more."""
        manifest = open_manifest(held.manifest, open_listing(held.listing))
        for index in held.units:
            self.delete(manifest.entries[index])

    def digests(self, entry: Entry) -> Iterator[Digest]:
        """Every blob of a unit that is here; a body that is not has none."""
        if self._blobs.has(Digest(entry.chunks)):
            yield Digest(entry.chunks)
            for chunk in chunk_list(self._blobs, entry).chunks:
                yield Digest(chunk.sha256)

    def delete(self, entry: Entry) -> None:
        """The ciphertext of a unit here; copies elsewhere stay."""
        for digest in [*self.digests(entry)][::-1]:
            # The list goes last: until then a repeated call finds the rest.
            self._blobs.delete(digest)
        self._blobs.delete(Digest(entry.chunks))

    def _keep(self, record: OwnDataset) -> None:
        listing = open_listing(record.listing)
        manifest = open_manifest(record.manifest, listing)
        self._forget(record.fingerprint)
        self._own[record.fingerprint] = record
        if record.dataset is None:
            return
        self._opened[record.dataset] = (listing, manifest)
        units = set(range(listing.units)) - set(record.withdrawn)
        self._place(record.dataset, manifest, units)

    def _hold(self, record: HeldUnits) -> None:
        manifest = open_manifest(record.manifest, open_listing(record.listing))
        self._held[record.dataset] = record
        self._place(record.dataset, manifest, set(record.units))

    def _place(self, dataset: int, manifest: Manifest, units: set[int]) -> None:
        for entry in manifest.entries:
            if entry.index not in units:
                continue
            try:
                for digest in self.digests(entry):
                    self._places[digest] = (dataset, entry.index)
            except StorageError:
                # One damaged list must not keep the node from starting; the unit is
                # not served, and reading it says what is the matter.
                continue

    def _forget(self, name: bytes) -> None:
        old = self._own.pop(name, None)
        if old is None or old.dataset is None:
            return
        self._opened.pop(old.dataset, None)
        self._displace(old.dataset)

    def _displace(self, dataset: int) -> None:
        for digest, place in list(self._places.items()):
            if place[0] == dataset:
                del self._places[digest]


def without_units(record: OwnDataset, units: Sequence[int]) -> OwnDataset:
    """The record after the keys of `units` are destroyed."""
    headers = tuple(
        b"" if index in units else header for index, header in enumerate(record.headers)
    )
    return msgspec.structs.replace(record, headers=headers)
