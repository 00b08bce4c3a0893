"""The owner's side: publish, grant, revoke, withdraw, and read one's own rows."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
import trio

from node.adapters import chain_duo
from node.errors import AccessError, ChainDownError, ChainError
from node.market import DatasetError, body, names, offer, plan, preview, reader, sealed
from node.market.grants import View
from node.market.key_messages import KeyMessages
from node.market.offer import MAX_DAYS, Offer
from node.market.plan import Plan
from node.market.publish import Description
from node.market.publisher import Publisher
from node.market.ranges import ranges
from node.market.rekeys import Rekeys, Settled
from node.market.shelf import OwnDataset, chunk_list, without_units
from node.market.slices import Slices
from node.market.tools import Tools
from node.market.versions import Versions
from node.market.works import Work
from node.ports.chain import Grant
from protocol.gossip import PAYLOAD_LIMIT_BYTES
from protocol.listing import LISTING_TOPIC, Listing
from protocol.manifest import ListingAnswer, Manifest, UnitHeader, unit_list
from protocol.members import ROLE_DATA_PROVIDER, Member
from protocol.wire import encode

_DAY_S = 86_400
_STAYS = (
    "the chain keeps the listing's digest and the record of every grant",
    "models trained with these records keep what they learned",
    "backups of this node made before now hold the keys until they are destroyed too",
    "what the disk's own electronics keep of overwritten blocks is out of our reach",
)

log = structlog.get_logger()


class Owner:
    """What this node does with datasets of its own."""

    def __init__(self, tools: Tools, messages: KeyMessages) -> None:
        self._tools = tools
        self._messages = messages
        self._adding = trio.Lock()
        self._changing = trio.Lock()
        self._slices = Slices(tools.store, tools.shelf)
        self._versions = Versions(tools.shelf)
        self._publisher = Publisher(
            store=tools.store,
            blobs=tools.blobs,
            signer=tools.signer,
            chain=tools.chain,
            shelf=tools.shelf,
            now=tools.now,
            open_key=tools.open_key,
        )
        self._rekeys = Rekeys(tools, self._publisher, self._changing)

    async def publish(
        self,
        paths: Sequence[Path],
        said: Description,
        replaces: int | None,
        offered: Offer,
    ) -> tuple[int, list[str]]:
        """Encrypt and list files and folders of any kind we know."""
        offered.check()
        said = self._checked(said, replaces)
        with self._tools.works.begin(str(paths[0]), "reading") as work:
            made = await self._planned(paths, said)
            return await self._publish(made, said, replaces, offered, work)

    async def preview(
        self,
        paths: Sequence[Path],
        said: Description,
        replaces: int | None,
        offered: Offer,
        who: str | None,
    ) -> dict[str, Any]:
        """What `publish` would make public; encrypts nothing and asks nobody."""
        offered.check()
        await self._tools.shelf.load()
        said = self._checked(said, replaces)
        with self._tools.works.begin(str(paths[0]), "reading"):
            made = await self._planned(paths, said)
        now, key = self._tools.now(), self._tools.signer.public_key
        return preview.shown(made, said, key, now, who)

    def _checked(self, said: Description, replaces: int | None) -> Description:
        said.check()
        return said if replaces is None else self._replacing(said, replaces)

    async def _planned(self, paths: Sequence[Path], said: Description) -> Plan:
        def planned() -> Plan:
            try:
                return plan.of_paths(paths, said.unit_by, said.columns, said.group)
            except OSError as error:
                raise DatasetError(
                    f"{error.filename} cannot be read: {error.strerror}",
                    hint="check the path and its permissions",
                ) from error
            except ValueError as error:
                raise DatasetError("path holds a zero byte") from error

        return await trio.to_thread.run_sync(planned)

    async def rekey(self, dataset: int, settled: Settled) -> list[str]:
        """Encrypt the dataset anew; says who was given the old keys."""
        with self._tools.works.begin(str(dataset), "reading") as work:
            async with self._adding:
                record = await self._rekeys.make(dataset, settled, work)
        await self._tools.view(dataset)
        await self._announce(record)
        return await self._given(dataset, (1 << len(record.headers)) - 1)

    async def catch_up(self) -> None:
        """Tell the chain of new keys that it has not heard of."""
        await self._rekeys.catch_up()

    async def give_up_old(self) -> None:
        """Drafts that nobody came back to; at another time if one is under way."""
        if not self._adding.locked():
            async with self._adding:
                await self._publisher.give_up_old()

    async def _announce(self, record: OwnDataset) -> None:
        """Only a hint: who misses it is shown the listing when it asks."""
        said = encode(ListingAnswer(record.listing, record.provenance))
        if len(said) <= PAYLOAD_LIMIT_BYTES:
            await self._tools.transport.announce(LISTING_TOPIC, said)

    def _replacing(self, said: Description, replaces: int) -> Description:
        before = self._tools.shelf.own(replaces)[1]
        return replace(said, previous=before.digest(), version=before.version + 1)

    async def _publish(
        self,
        made: Plan,
        said: Description,
        replaces: int | None,
        offered: Offer,
        work: Work,
    ) -> tuple[int, list[str]]:
        now, key = self._tools.now(), self._tools.signer.public_key
        # What no listing may say is refused before it is encrypted, which may take hours.
        to_be = preview.listing(made, said, key, now)
        await self._require_provider()
        async with self._adding:
            await self._tools.shelf.load()
            if replaces is not None:
                before = self._publisher.known(made, said)
                self._versions.require_last(replaces, before)
            record = await self._publisher.draft(made, said, work)
            await self._slices.note(made, record, self._tools.open_key())
            work.step("anchoring")
            if record.dataset is not None:
                # Or its listing, being ahead of the chain's, would be taken for another one.
                record = await self._rekeys.finish(record.dataset)
            dataset = await self._publisher.anchor(record, offered)
            if offered.committee is not None:
                token = await self._tools.token(dataset)
                await offer.seat(self._tools.chain, token, offered)
        await self._tools.view(dataset)
        await self._announce(record)
        warnings = preview.warnings(made, to_be)
        if replaces is not None:
            warnings += await self._still_read(replaces, dataset)
        return dataset, warnings

    async def _still_read(self, before: int, now: int) -> list[str]:
        """A new version takes nothing away from the one before it."""
        if not any(self._tools.shelf.own(before)[0].headers):
            return []
        view = await self._tools.view(before)
        readers = sorted(
            str(self._tools.shown(grant, view)["grantee"])
            for grant in self._tools.active(view)
        )
        said = f"dataset {before} stays as it is"
        if readers:
            said += (
                f", and {', '.join(readers)} can read it: give grants of dataset {now}"
            )
        return [f"{said}; withdraw it once nobody needs it"]

    async def _require_provider(self) -> None:
        """Before an hour of encrypting that the chain would not list."""
        with suppress(ChainDownError):
            members = await self._tools.chain.members()
            me = members.by_peer(self._tools.signer.peer_id)
            if me is not None and not me.has(ROLE_DATA_PROVIDER):
                raise AccessError(
                    f"{me.name} is no data provider on the chain, and lists no datasets",
                    hint="ask the registry's owner for the role",
                )

    async def change(self, dataset: int, offered: Offer) -> None:
        """Another price, token, longest grant or committee, for what is asked from now on."""
        await self._tools.shelf.load()
        self._tools.shelf.own(dataset)
        await offer.apply(self._tools.chain, await self._tools.token(dataset), offered)
        await self._tools.store.append_event("terms_changed", {"dataset": dataset})

    async def rows(self, dataset: int) -> bytes:
        """The table as CSV for our own computing, without withdrawn units."""
        await self._tools.shelf.load()
        record, listing, manifest = self._tools.shelf.own(dataset)
        headers = [UnitHeader(i, one) for i, one in enumerate(record.headers) if one]
        if not headers:
            raise AccessError(
                f"dataset {dataset} is withdrawn: its keys are destroyed",
                hint="it cannot be used any more; publish a new version",
            )

        def work() -> bytes:
            units = reader.open_units(
                self._tools.blobs,
                listing,
                manifest,
                headers,
                secret_seal_key=self._tools.open_key(),
                sender=self._tools.signer.seal_key,
            )
            return reader.as_csv(listing, units)

        return await trio.to_thread.run_sync(work)

    async def read(self, dataset: int, unit: int, offset: int, length: int) -> bytes:
        """A range of one unit's plaintext, for our own computing."""
        await self._tools.shelf.load()
        record, listing, manifest = self._tools.shelf.own(dataset)
        names.bits([unit], listing.units)
        if not record.headers[unit]:
            raise AccessError(f"unit {unit} of dataset {dataset} is withdrawn")
        entry = manifest.entries[unit]

        def work() -> bytes:
            secret = self._tools.open_key()
            own = sealed.public_half(secret)
            key = sealed.session_key(
                record.headers[unit], secret_seal_key=secret, sender=own
            )
            chunks = chunk_list(self._tools.blobs, entry)
            return body.read_range(
                self._tools.blobs, entry, chunks, key, offset=offset, length=length
            )

        return await trio.to_thread.run_sync(work)

    async def give(
        self,
        dataset: int,
        grantee: str,
        units: Sequence[int] | None,
        days: int,
        purposes: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Grant units to the member called `grantee`; None is all that are left.

        For these purposes and no others; None is all that the terms allow.  The conditions
        of the terms count as acknowledged: who gives without a request has seen to that.
        A member has one grant of a dataset: `replaced` are the units of the one before, if it
        was in force.
        """
        await self._tools.shelf.load()
        record, listing, _ = self._tools.shelf.own(dataset)
        bits = names.bits(_left(record, listing, units), listing.units)
        if not 1 <= days <= MAX_DAYS:
            raise AccessError(f"{days} days, needs between 1 and {MAX_DAYS}")
        member = names.by_name(await self._tools.chain.members(), grantee)
        if member.peer_id == self._tools.signer.peer_id:
            raise AccessError(
                f"{grantee} is this node, which owns dataset {dataset}",
                hint="a grant is for another member; the owner has its files",
            )
        before = self._active_of(member, await self._tools.view(dataset))
        head = await self._tools.chain.head()
        until = max(self._tools.now(), head.time) + days * _DAY_S
        named = None if purposes is None else chain_duo.purposes(purposes)
        grant = await self._tools.chain.grant(
            dataset, member.account, bits, until, purposes=named
        )
        await self._tools.store.append_event(
            "grant_given",
            {"grant": grant, "dataset": dataset, "grantee": grantee, "until": until},
        )
        view = await self._tools.view(dataset)
        return {
            **self._tools.shown(names.grant(view.grants, grant), view),
            "replaced": None if before is None else unit_list(before.units),
        }

    def _active_of(self, member: Member, view: View) -> Grant | None:
        active = self._tools.active(view)
        return next((one for one in active if one.grantee == member.account), None)

    async def revoke(self, grant: int) -> dict[str, Any]:
        """Stop a grant: here at once, and on the chain for everyone."""
        await self._tools.shelf.load()
        dataset = await self._dataset_of(grant)
        await self._stop(dataset, grant)
        view = await self._tools.view(dataset)
        return self._tools.shown(names.grant(view.grants, grant), view)

    async def _stop(self, dataset: int, grant: int) -> None:
        self._tools.book.withdraw(grant)
        try:
            await self._tools.chain.revoke(grant)
        except ChainError:
            # Only a clear no restores it; after a cancellation it stays withdrawn.
            self._tools.book.restore(grant)
            raise
        await self._tools.store.append_event(
            "grant_revoked", {"grant": grant, "dataset": dataset}
        )

    async def _dataset_of(self, grant: int) -> int:
        for dataset in self._tools.shelf.datasets():
            view = await self._tools.view(dataset)
            if any(one.grant == grant for one in view.grants):
                return dataset
        raise AccessError(
            f"grant {grant} is not on a dataset of this node",
            hint="only the owner of a dataset revokes its grants",
        )

    async def withdraw(
        self, dataset: int, units: Sequence[int] | None
    ) -> dict[str, Any]:
        """Destroy the keys and the ciphertext of units; None is the whole dataset.

        The keys go first and do not wait for the chain.  What the chain says of the
        units is then brought in line; a chain that is down leaves that for the next
        call, which finds the keys gone and goes on from there.
        """
        await self._tools.shelf.load()
        async with self._changing:
            record, listing, manifest = self._tools.shelf.own(dataset)
            bits = names.bits(units, listing.units)
            gone = unit_list(bits)
            headers = [i for i in gone if record.headers[i]]
            draft = await self._publisher.made_of(record) if headers else []
            if headers:
                # With them, and not after: a kill between would leave the keys of a rekeying.
                also = await self._publisher.ended(record)
                await self._tools.shelf.put(without_units(record, gone), also)
        if headers:
            await self._publisher.drop(draft)
            await self._tools.store.append_event(
                "units_withdrawn", {"dataset": dataset, "units": headers}
            )
        await self._messages.destroy(dataset, bits)
        await self._tools.store.scrub()
        await trio.to_thread.run_sync(self._delete, manifest, gone)
        try:
            grants = await self._end_use(dataset, bits)
        except ChainDownError as error:
            raise ChainDownError(
                f"the keys of units {ranges(gone)} are destroyed here, but {error}",
                hint="grants still name them: give the same command again until it answers",
            ) from error
        same_rows = await self._same_rows(dataset, gone)
        named = {one["dataset"] for one in same_rows}
        return {
            "dataset": dataset,
            "units": gone,
            "left": [i for i in range(listing.units) if not bits >> i & 1],
            "grants": grants,
            "same_rows": same_rows,
            "versions": [n for n in self._versions.others(dataset) if n not in named],
            "cannot_be_undone": [*await self._given(dataset, bits), *_STAYS],
        }

    async def slices(self, dataset: int) -> list[int]:
        """Other datasets of ours that were cut from the same table into the same units."""
        await self._tools.shelf.load()
        others = await self._slices.others(dataset)
        return [one.dataset for one in others if one.dataset is not None]

    async def _same_rows(
        self, dataset: int, gone: Sequence[int]
    ) -> list[dict[str, Any]]:
        """Where else the rows of these units are and can be read: withdrawn here is not there."""
        return [
            {"dataset": one.dataset, "units": left}
            for one in await self._slices.others(dataset)
            if (left := sorted({*gone} - {*one.withdrawn}))
        ]

    def _delete(self, manifest: Manifest, units: Sequence[int]) -> None:
        """The ciphertext here; copies elsewhere have become unreadable, not absent."""
        for index in units:
            self._tools.shelf.delete(manifest.entries[index])

    async def _end_use(self, dataset: int, bits: int) -> list[dict[str, Any]]:
        """Withdraw units on the chain, for everybody and for ever; the grants that lose some."""
        view = await self._tools.view(dataset)
        time = max(self._tools.now(), view.chain_time)
        losing = [
            {"grant": grant.grant, "left": unit_list(grant.units & ~bits)}
            for grant in view.grants
            if not grant.revoked and grant.until > time and grant.units & bits
        ]
        token = next(
            t for t in await self._tools.chain.datasets() if t.dataset == dataset
        )
        still = bits & ~token.withdrawn
        if token.open and still:
            if token.withdrawn | bits == (1 << token.units) - 1:
                await self._tools.chain.withdraw_dataset(dataset)
            else:
                await self._tools.chain.withdraw_units(dataset, still)
        await self._tools.view(dataset)
        return losing

    async def _given(self, dataset: int, bits: int) -> list[str]:
        """Who was given keys of these units before; their copies are out of reach."""
        after, readers = 0, dict[str, set[int]]()
        while events := await self._tools.store.events(after, 1000):
            for event in events:
                if event.kind == "keys_released" and event.data["dataset"] == dataset:
                    units = {i for i in event.data["units"] if bits >> i & 1}
                    readers.setdefault(str(event.data["grantee"]), set()).update(units)
            after = events[-1].number
        return [
            f"{name} was given the keys of units {ranges(units)}: what it has read, it has"
            for name, units in sorted(readers.items())
            if units
        ]


def _left(
    record: OwnDataset, listing: Listing, units: Sequence[int] | None
) -> Sequence[int]:
    gone = set(record.withdrawn)
    if units is None:
        return [i for i in range(listing.units) if i not in gone]
    if lost := sorted(gone & set(units)):
        raise AccessError(
            f"units {ranges(lost)} are withdrawn: their keys are destroyed",
            hint=f"left are {ranges(set(range(listing.units)) - gone) or 'none'}",
        )
    return units
