"""The steps of publishing that may be cut by a crash: begin, encrypt, keep, anchor.

`begin` stores the keys of all units, then chunk after chunk is encrypted and noted, then
the finished record takes the draft's place, then the chain is asked.  Whatever is done
already is not done again by the next call for the same data.

What nobody comes back to is given up: a person in it may have withdrawn meanwhile, and a
withdrawal names a dataset by its number, which a draft has not.
"""

from collections.abc import Callable, Sequence

import msgspec
import trio

from node.errors import AccessError
from node.market import names, publish, sealed
from node.market.offer import Offer
from node.market.plan import Plan
from node.market.publish import Description
from node.market.shelf import OwnDataset, Shelf, fingerprint
from node.market.works import Work
from node.ports.chain import Chain
from node.ports.keys import Signer
from node.ports.storage import Blobs, Store
from protocol.listing import open_listing
from protocol.manifest import CHUNK_PLAIN_BYTES, Chunk, ChunkList, open_manifest
from protocol.types import Digest
from protocol.wire import Message, decode, encode

FORGET_AFTER_S = 14 * 86_400
"""As long as an interrupted download waits (`partial_blob`)."""
_DRAFT = "market.draft"
_CHUNK = "market.chunk"


class Draft(Message, frozen=True, tag="draft"):
    """A publishing under way: the owner's header of each unit, hence its key."""

    headers: tuple[bytes, ...]
    begun: int


class _Journal:
    """Chunks that are durable, kept in the store; called from the working thread."""

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        name: bytes,
        headers: tuple[bytes, ...],
        known: dict[tuple[int, int], Chunk],
        work: Work,
    ) -> None:
        self.headers = headers
        self._store = store
        self._blobs = blobs
        self._name = name
        self._known = known
        self._work = work

    def done(self, unit: int) -> Sequence[Chunk]:
        chunks: list[Chunk] = []
        while chunk := self._known.get((unit, len(chunks))):
            if not self._blobs.has(Digest(chunk.sha256)):
                break
            chunks.append(chunk)
        self._work.add(len(chunks) * CHUNK_PLAIN_BYTES)
        return chunks

    def keep(self, unit: int, first: int, chunks: Sequence[Chunk]) -> None:
        writes = [
            (_CHUNK, _chunk_key(self._name, unit, first + place), encode(chunk))
            for place, chunk in enumerate(chunks)
        ]
        trio.from_thread.run(self._store.put_many, writes)
        self._work.add(len(chunks) * CHUNK_PLAIN_BYTES)


def _chunk_key(name: bytes, unit: int, number: int) -> bytes:
    return name + unit.to_bytes(2, "big") + number.to_bytes(4, "big")


class Publisher:
    """Makes datasets of plans."""

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

    def known(self, plan: Plan, said: Description) -> OwnDataset | None:
        """The record of this plan and description, if it was made before."""
        return self._shelf.by_fingerprint(self._name(plan, said))

    def _name(self, plan: Plan, said: Description) -> bytes:
        said_of_it = encode(said.words())
        return fingerprint(self._open_key(), [*plan.identity(), said_of_it])

    async def draft(self, plan: Plan, said: Description, work: Work) -> OwnDataset:
        """The record of this plan and description, made now if there is none whole."""
        secret = self._open_key()
        name = self._name(plan, said)
        record = self._shelf.by_fingerprint(name)
        if record is not None and self._whole(record):
            return record
        work.step("encrypting", plan.size)
        journal = await self._journal(name, len(plan.units), secret, work)

        def made_of_plan() -> publish.Published:
            return publish.publish(
                plan,
                said,
                journal,
                signer=self._signer,
                blobs=self._blobs,
                secret_seal_key=secret,
                now=self._now(),
            )

        made = await trio.to_thread.run_sync(made_of_plan)
        record = OwnDataset(
            name,
            None,
            made.sealed_listing,
            made.sealed_manifest,
            made.provenance,
            journal.headers,
        )
        await self._shelf.put(record)
        await self._forget(name)
        return record

    async def rekeyed(self, before: OwnDataset, work: Work) -> OwnDataset:
        """The same dataset under new keys, its ciphertext made; nothing of it is in force.

        A draft until `ended`, so a call that was cut goes on where it was.
        """
        secret = self._open_key()
        name = self._next_of(before)
        headers = before.headers
        journal = await self._journal(name, len(headers), secret, work)

        def made_of_ours() -> publish.Published:
            return publish.rekeyed(
                before,
                journal,
                signer=self._signer,
                blobs=self._blobs,
                secret_seal_key=secret,
                now=self._now(),
            )

        made = await trio.to_thread.run_sync(made_of_ours)
        new = zip(headers, journal.headers, strict=True)
        return OwnDataset(
            before.fingerprint,
            before.dataset,
            made.sealed_listing,
            made.sealed_manifest,
            made.provenance,
            tuple(header if old else b"" for old, header in new),
        )

    def _next_of(self, record: OwnDataset) -> bytes:
        listing = open_listing(record.listing).digest()
        return fingerprint(self._open_key(), [b"rekeyed", listing])

    async def ended(self, before: OwnDataset) -> list[tuple[str, bytes, bytes | None]]:
        """What ends the draft of `rekeyed`, to be written with what takes its place."""
        return await self._ending(self._next_of(before))

    async def made_of(self, before: OwnDataset) -> list[Digest]:
        """Ciphertext that `rekeyed` has noted of this record; ask before its draft is ended."""
        return await self._blobs_of(self._next_of(before))

    async def give_up_rekeyed(self, before: OwnDataset) -> None:
        """Destroy keys and ciphertext that `rekeyed` has made of this record, if any."""
        blobs = await self.made_of(before)
        await self._forget(self._next_of(before))
        await self.drop(blobs)

    async def _journal(
        self, name: bytes, units: int, secret: bytes, work: Work
    ) -> _Journal:
        stored = await self._store.get(_DRAFT, name)
        known: dict[tuple[int, int], Chunk] = {}
        if stored is not None:
            headers = decode(stored, Draft).headers
            for key, value in await self._store.scan(_CHUNK):
                if key.startswith(name):
                    unit, number = key[-6:-4], key[-4:]
                    place = int.from_bytes(unit, "big"), int.from_bytes(number, "big")
                    known[place] = decode(value, Chunk)
        else:
            headers = tuple(
                sealed.new_header(secret_seal_key=secret) for _ in range(units)
            )
            await self._store.put(_DRAFT, name, encode(Draft(headers, self._now())))
        return _Journal(self._store, self._blobs, name, headers, known, work)

    async def _forget(self, name: bytes) -> None:
        """The draft has become a record."""
        await self._store.put_many(await self._ending(name))

    async def _ending(self, name: bytes) -> list[tuple[str, bytes, bytes | None]]:
        noted = [key for key, _ in await self._store.scan(_CHUNK)]
        chunks = [(_CHUNK, key, None) for key in noted if key.startswith(name)]
        return [*chunks, (_DRAFT, name, None)]

    async def give_up_old(self) -> int:
        """Destroy keys and ciphertext of what was begun a fortnight ago and never whole.

        Call it while nothing is being published; returns how many.  Whole records stay: they
        may be listed on another chain, and the same call lists them again.
        """
        before = self._now() - FORGET_AFTER_S
        given_up = 0
        for name, stored in await self._store.scan(_DRAFT):
            if decode(stored, Draft).begun < before:
                blobs = await self._blobs_of(name)
                await self._forget(name)  # the keys first
                await self.drop(blobs)
                given_up += 1
        if given_up:
            await self._store.scrub()
            await self._store.append_event("publishing_given_up", {"count": given_up})
        return given_up

    async def _blobs_of(self, name: bytes) -> list[Digest]:
        """Chunks that a draft has noted, and the lists of units that were done."""
        units: dict[bytes, list[Chunk]] = {}
        for key, value in await self._store.scan(_CHUNK):
            if key.startswith(name):
                units.setdefault(key[-6:-4], []).append(decode(value, Chunk))
        return [
            digest
            for chunks in units.values()
            for digest in (
                *(Digest(chunk.sha256) for chunk in chunks),
                ChunkList(tuple(chunks)).digest(),
            )
        ]

    async def drop(self, digests: Sequence[Digest]) -> None:
        """Ciphertext whose keys are gone."""

        def work() -> None:
            for digest in digests:
                self._blobs.delete(digest)

        await trio.to_thread.run_sync(work)

    def _whole(self, record: OwnDataset) -> bool:
        if record.withdrawn:
            raise AccessError(
                "units of this dataset were withdrawn, and their keys destroyed",
                hint="publish the data without them, as a new version",
            )
        if record.dataset is not None:
            return True
        manifest = open_manifest(record.manifest, open_listing(record.listing))
        return all(
            self._blobs.has(digest)
            for entry in manifest.entries
            for digest in (Digest(entry.chunks), *self._shelf.digests(entry))
        )

    async def anchor(self, record: OwnDataset, offered: Offer) -> int:
        """The dataset's id on this chain; listed now unless an earlier call did."""
        listing = open_listing(record.listing)
        me = names.me(self._signer.peer_id, await self._chain.members())
        known = next(
            (
                token
                for token in await self._chain.datasets()
                if token.record == listing.digest() and token.owner == me.account
            ),
            None,
        )
        if known is None:
            price, terms = offered.terms(listing)
            found = await self._chain.list_dataset(
                listing.digest(), listing.units, price, terms
            )
        else:
            offered.require_listed(known)
            found = known.dataset
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
