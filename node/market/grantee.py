"""The grantee's side: ask for keys, pull ciphertext, write plaintext for one's own eyes."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from node.errors import AccessError, NodeError, TransportError
from node.market import folder, names, reader, sealed
from node.market.catalogue import Catalogue
from node.market.shelf import chunk_list
from node.market.tools import Tools
from node.market.works import Work
from node.ports.chain import DatasetToken
from protocol.errors import ProtocolError
from protocol.listing import Listing
from protocol.manifest import (
    CHUNK_LIST_LIMIT_BYTES,
    DataQuery,
    Entry,
    Manifest,
    UnitHeader,
    UnitsAnswer,
)
from protocol.members import Member
from protocol.types import Digest, PeerId
from protocol.wire import decode, encode

FETCH_TIMEOUT_S = 600.0
Received = Callable[[int, bytes], Awaitable[None]]
"""Of a dataset; the message, byte for byte."""
TRIES = 3
TRY_AGAIN_S = 12.0
"""Longer than a holder takes to read the grants again (`node.services.market.WATCH_S`)."""
PULLS_AT_ONCE = 4
"""Chunks on their way; each is held in memory once while it is checked."""


@dataclass(frozen=True)
class Keys:
    """What an owner released, after it was checked against the chain."""

    answer: UnitsAnswer
    listing: Listing
    manifest: Manifest
    headers: tuple[UnitHeader, ...]

    @property
    def units(self) -> list[int]:
        return [one.index for one in self.headers]


class Grantee:
    """What this node does with datasets of others."""

    def __init__(self, tools: Tools, catalogue: Catalogue, received: Received) -> None:
        """`received` is told of every message with keys that was read to its end."""
        self._tools = tools
        self._catalogue = catalogue
        self._received = received

    async def fetch(
        self,
        dataset: int,
        owner: PeerId | None,
        path: Path,
        units: Sequence[int] | None,
        crypt4gh_key: bytes | None,
    ) -> dict[str, Any]:
        """See `Market.fetch`."""
        await self._tools.shelf.load()
        token = await self._tools.token(dataset)
        members = await self._tools.chain.members()
        holder = names.holder(token, members, owner)
        if holder.peer_id == self._tools.signer.peer_id:
            raise AccessError(
                f"dataset {dataset} is this node's own",
                hint="its files are where they were published from; others fetch it by a grant",
            )
        wanted = 0 if units is None else names.bits(units, token.units)
        keys = await self._keys(token, holder, wanted)
        # Before a terabyte comes for which there is no place.
        await trio.to_thread.run_sync(
            _require_place, path, keys.listing, crypt4gh_key is not None
        )
        with self._tools.works.begin(str(path), "fetching") as work:
            with _told(dataset, holder):
                await self._pull(dataset, holder, keys, work)
            await self._tools.shelf.hold(
                dataset, keys.answer.listing, keys.answer.manifest, keys.units
            )
            # From now on others may have it from us, and a long fetch has made our view of
            # their grants old.
            await self._tools.view(dataset)
            work.step("decrypting")
            # On record before there is plaintext: whoever is killed in between has said too
            # much, and never too little.
            await self._tools.store.append_event(
                "units_read",
                {"dataset": dataset, "units": keys.units, "owner": holder.name},
            )
            size = await self._write(path, holder, keys, crypt4gh_key)
        await self._received(dataset, encode(keys.answer))
        return {
            "dataset": dataset,
            "title": keys.listing.title,
            "record": token.record.hex(),
            "units": keys.units,
            "columns": [column.name for column in keys.listing.columns],
            "bytes": size,
            "path": str(path),
        }

    async def _keys(self, token: DatasetToken, holder: Member, wanted: int) -> Keys:
        """What the owner released, checked against the chain."""
        data = await self._catalogue.ask(holder, DataQuery(token.dataset, wanted))
        view = await self._tools.view(token.dataset)
        account = names.me(self._tools.signer.peer_id, view.members).account
        granted = self._tools.book.units(view, account, self._tools.now())
        try:
            checked = reader.check_units(
                data, token, holder, wanted=wanted, granted=granted
            )
            return Keys(decode(data, UnitsAnswer), *checked)
        except ProtocolError as error:
            raise reader.refused(token.dataset, error) from error

    async def _pull(self, dataset: int, holder: Member, keys: Keys, work: Work) -> None:
        """Every piece that is not here yet; a pull that was cut goes on where it was."""
        entries = [keys.manifest.entries[index] for index in keys.units]
        work.step("fetching", sum(entry.length for entry in entries))
        for entry in entries:
            others = await self._others(dataset, entry.index, holder)
            holders = (holder.peer_id, *others)
            await self._get(holders, Digest(entry.chunks), CHUNK_LIST_LIMIT_BYTES)
            await self._pull_unit(holders, entry, work)

    async def _others(self, dataset: int, unit: int, owner: Member) -> list[PeerId]:
        """Connected members with a grant for the unit: they may have fetched it."""
        # Not the chain for each unit: a table of 64 would ask it 200 times.
        view = await self._tools.book.recent(dataset, self._tools.now())
        connected = self._tools.transport.connected()
        found = [
            member.peer_id
            for grant in self._tools.active(view)
            if grant.units >> unit & 1
            and (member := view.members.by_account(grant.grantee)) is not None
            and member.peer_id in connected
        ]
        mine = {owner.peer_id, self._tools.signer.peer_id}
        return sorted(set(found) - mine)

    async def _pull_unit(
        self, holders: Sequence[PeerId], entry: Entry, work: Work
    ) -> None:
        listed = await trio.to_thread.run_sync(chunk_list, self._tools.blobs, entry)
        numbers = iter(range(len(listed.chunks)))
        failed: list[NodeError] = []

        async def puller(cancel: trio.CancelScope) -> None:
            try:
                for number in numbers:
                    digest = Digest(listed.chunks[number].sha256)
                    await self._get(holders, digest, entry.chunk_length(number))
                    work.add(entry.chunk_length(number))
            except NodeError as error:
                # The first tells the caller; the others would say the same.
                failed.append(error)
                cancel.cancel()

        async with trio.open_nursery() as nursery:
            for _ in range(PULLS_AT_ONCE):
                nursery.start_soon(puller, nursery.cancel_scope)
        if failed:
            raise failed[0]

    async def _get(
        self, holders: Sequence[PeerId], digest: Digest, limit_bytes: int
    ) -> None:
        """One piece from all holders at once; any of them may die, hang, lie or refuse."""
        if self._tools.blobs.has(digest):
            return
        owner, *others = holders
        for left in reversed(range(TRIES)):
            try:
                await self._tools.transport.fetch(
                    owner,
                    digest,
                    limit_bytes=limit_bytes,
                    timeout_s=FETCH_TIMEOUT_S,
                    others=others,
                )
                return
            except (AccessError, TransportError):
                # With one holder it is as it says.  Of several, one that refuses may have
                # an old view of the chain, and looks again while we wait.
                if not others or not left:
                    raise
            await trio.sleep(TRY_AGAIN_S)

    async def _write(
        self, path: Path, holder: Member, keys: Keys, crypt4gh_key: bytes | None
    ) -> int:
        listing, manifest, headers = keys.listing, keys.manifest, keys.headers
        blobs = self._tools.blobs

        def work() -> int:
            secret = self._tools.open_key()
            opening = {"secret_seal_key": secret, "sender": holder.seal_key}
            if crypt4gh_key is not None:
                resealed = [
                    UnitHeader(
                        one.index,
                        sealed.reseal_header(
                            one.header, grantee=crypt4gh_key, **opening
                        ),
                    )
                    for one in headers
                ]
                return folder.write_sealed(path, blobs, listing, manifest, resealed)
            if not listing.table:
                return folder.write_units(
                    path, blobs, listing, manifest, headers, **opening
                )
            units = reader.open_units(blobs, listing, manifest, headers, **opening)
            rows = reader.as_table(listing, units, path.suffix)
            reader.write_private(path, rows)
            return len(rows)

        return await trio.to_thread.run_sync(work)


@contextmanager
def _told(dataset: int, holder: Member) -> Iterator[None]:
    """What a holder's refusal, and a holder that is gone, are to who waits for the fetch."""
    try:
        yield
    except AccessError as error:
        # A refusal says no more, lest a stranger learn what is held.
        raise AccessError(
            f"dataset {dataset} is not given any further: {error}",
            hint="the grant ended or was revoked meanwhile; nothing was written",
        ) from error
    except TransportError as error:
        raise TransportError(
            f"the fetch from {holder.name} was cut: {error}",
            hint="give the same command again: what has arrived stays",
        ) from error


def _require_place(path: Path, listing: Listing, sealed_: bool) -> None:
    """Raise what writing would, as far as it can be known before."""
    if sealed_ or not listing.table:
        folder.require_free(path)
    else:
        reader.require_format(listing, path)
        reader.require_writable(path)
