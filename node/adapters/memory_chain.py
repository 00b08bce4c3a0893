"""The contracts' rules in memory: one ledger, and a view of it per account.

For tests that need a federation and not an EVM.  The same conformance suite runs against
this and against the real contracts, so a rule that exists in one place only is a failing
test.  Where the contracts refuse, this refuses with the same error name.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import trio

from node.adapters.chain_errors import refused
from node.errors import ChainError
from node.ports import ChainEvent, DatasetToken, Grant, Head
from protocol.members import ROLE_DATA_PROVIDER, Member, MemberSet
from protocol.types import Digest

_MAX_NAME_BYTES = 64
_MAX_UNITS = 64
_ZERO = bytes(32)


@dataclass(frozen=True)
class _Call:
    """Who does what, for the error's text."""

    doing: str
    account: bytes

    def refuse(self, name: str, **values: object) -> ChainError:
        return refused(self.doing, name, **values)

    def number(self, value: int, bits: int) -> int:
        if not 0 <= value < 1 << bits:
            raise ChainError(
                f"{self.doing}: cannot be encoded: {value} is not a uint{bits}"
            )
        return value

    def blob(self, value: bytes, length: int) -> bytes:
        if len(value) != length:
            raise ChainError(
                f"{self.doing}: cannot be encoded: {len(value)} bytes, needs {length}"
            )
        return value


class Ledger:
    """What the contracts hold, shared by every account's view."""

    def __init__(
        self, owner: bytes, clock: Callable[[], int] = lambda: int(time.time())
    ) -> None:
        self.owner, self.clock = owner, clock
        self.members: dict[bytes, Member] = {}
        self.tokens: list[DatasetToken] = []
        self.grants: list[Grant] = []
        self.anchors: dict[tuple[object, ...], bytes] = {}
        self.batches = 0
        self.events: list[ChainEvent] = []
        self.changed = trio.Event()
        self.head = Head(0, sha256(b"genesis").digest(), clock())

    def roles(self, account: bytes) -> int:
        found = [one.roles for one in self.members.values() if one.account == account]
        return found[0] if found else 0

    def require(self, call: _Call, account: bytes, role: int = 0) -> None:
        roles = self.roles(account)
        if roles == 0:
            raise call.refuse("NotMember", account=account)
        if role and not roles & role:
            raise call.refuse("MissingRole", account=account, role=role)

    def emit(self, kind: str, data: Mapping[str, Any]) -> None:
        """A block with one event."""
        number = self.head.number + 1
        digest = sha256(self.head.digest + kind.encode()).digest()
        self.head = Head(number, digest, max(self.clock(), self.head.time + 1))
        self.events.append(ChainEvent(number, 0, kind, data))
        self.changed.set()
        self.changed = trio.Event()


class MemoryChain:
    """One account's view."""

    def __init__(self, ledger: Ledger, account: bytes) -> None:
        self._ledger, self.account = ledger, account

    async def head(self) -> Head:
        await trio.lowlevel.checkpoint()
        head = self._ledger.head
        return replace(head, time=max(head.time, self._ledger.clock()))

    async def members(self) -> MemberSet:
        await trio.lowlevel.checkpoint()
        return MemberSet.of([one for one in self._ledger.members.values() if one.roles])

    async def register(self, member: Member, roles: int) -> None:
        call, ledger = await self._call("registry.setMember"), self._ledger
        call.blob(member.node_key, 32)
        call.blob(member.seal_key, 32)
        call.blob(member.account, 20)
        call.number(roles, 32)
        if self.account != ledger.owner:
            raise call.refuse("OwnableUnauthorizedAccount", account=self.account)
        if _ZERO in {member.node_key, member.seal_key}:
            raise call.refuse("InvalidKey")
        if member.account == bytes(20):
            raise call.refuse("InvalidAccount")
        length = len(member.name.encode())
        if not 0 < length <= _MAX_NAME_BYTES:
            raise call.refuse("InvalidName", length=length, limit=_MAX_NAME_BYTES)
        for other in ledger.members.values():
            if other.account == member.account and other.node_key != member.node_key:
                raise call.refuse("AccountTaken", account=member.account)
        ledger.members[member.node_key] = Member(
            node_key=member.node_key,
            seal_key=member.seal_key,
            account=member.account,
            roles=roles,
            name=member.name,
        )
        ledger.emit(
            "MemberSet",
            {
                "nodeKey": member.node_key,
                "sealKey": member.seal_key,
                "account": member.account,
                "roles": roles,
                "name": member.name,
            },
        )

    async def list_dataset(self, record: Digest, units: int, price: int) -> int:
        call, ledger = await self._call("datasets.list"), self._ledger
        call.blob(record, 32)
        call.number(units, 8)
        call.number(price, 128)
        ledger.require(call, self.account, ROLE_DATA_PROVIDER)
        if record == _ZERO:
            raise call.refuse("InvalidRecord")
        if not 0 < units <= _MAX_UNITS:
            raise call.refuse("InvalidUnits", units=units)
        if any((t.owner, t.record) == (self.account, record) for t in ledger.tokens):
            raise call.refuse("AlreadyListed", record=record)
        dataset = len(ledger.tokens)
        ledger.tokens.append(DatasetToken(dataset, self.account, record, units, price))
        what = {"dataset": dataset, "owner": self.account, "record": record}
        ledger.emit("DatasetListed", {**what, "units": units, "price": price})
        return dataset

    async def datasets(self) -> list[DatasetToken]:
        await trio.lowlevel.checkpoint()
        return list(self._ledger.tokens)

    async def grant(self, dataset: int, grantee: bytes, units: int, until: int) -> int:
        call, ledger = await self._call("datasets.give"), self._ledger
        call.number(dataset, 256)
        call.blob(grantee, 20)
        call.number(units, 64)
        call.number(until, 64)
        token = self._own(call, dataset)
        ledger.require(call, self.account, ROLE_DATA_PROVIDER)
        ledger.require(call, grantee)
        if units == 0 or units >> token.units:
            raise call.refuse("InvalidUnits", units=units)
        now = (await self.head()).time
        if until <= now:
            raise call.refuse("InvalidExpiry", until=until, time=now)
        grant = len(ledger.grants)
        ledger.grants.append(Grant(grant, dataset, grantee, units, until, False))
        what = {"grant": grant, "dataset": dataset, "grantee": grantee}
        ledger.emit("AccessGranted", {**what, "units": units, "until": until})
        return grant

    async def revoke(self, grant: int) -> None:
        call, ledger = await self._call("datasets.revoke"), self._ledger
        call.number(grant, 256)
        if grant >= len(ledger.grants):
            raise call.refuse("NoSuchGrant", grant=grant)
        found = ledger.grants[grant]
        self._own(call, found.dataset)
        if found.revoked:
            raise call.refuse("AlreadyRevoked", grant=grant)
        ledger.grants[grant] = replace(found, revoked=True)
        what = {"grant": grant, "dataset": found.dataset, "grantee": found.grantee}
        ledger.emit("AccessRevoked", what)

    async def grants(self, dataset: int) -> list[Grant]:
        await trio.lowlevel.checkpoint()
        return [grant for grant in self._ledger.grants if grant.dataset == dataset]

    async def anchor_model(self, root: Digest, record: Digest) -> None:
        call = await self._call("anchors.anchorModel")
        self._anchor(call, ("model", root), root, record)
        what = {"account": self.account, "root": root, "record": record}
        self._ledger.emit("ModelAnchored", what)

    async def anchor_round(self, run: Digest, number: int, state: Digest) -> None:
        call = await self._call("anchors.anchorRound")
        call.number(number, 64)
        self._anchor(call, ("round", run, number), run, state)
        what = {"account": self.account, "run": run, "number": number, "state": state}
        self._ledger.emit("RoundAnchored", what)

    async def anchor_receipts(self, root: Digest, count: int) -> int:
        call, ledger = await self._call("anchors.anchorReceipts"), self._ledger
        call.number(count, 32)
        if count == 0:
            ledger.require(call, self.account)
            raise call.refuse("InvalidCount")
        self._anchor(call, ("receipts", root), root, root)
        batch, ledger.batches = ledger.batches, ledger.batches + 1
        what = {"batch": batch, "host": self.account, "root": root, "count": count}
        ledger.emit("ReceiptsAnchored", what)
        return batch

    async def follow(self, from_block: int) -> AsyncIterator[ChainEvent]:
        position = 0
        while True:
            changed = self._ledger.changed
            while position < len(self._ledger.events):
                event = self._ledger.events[position]
                position += 1
                if event.block >= from_block:
                    await trio.lowlevel.checkpoint()
                    yield event
            if changed is self._ledger.changed:
                await changed.wait()

    async def _call(self, doing: str) -> _Call:
        await trio.lowlevel.checkpoint()
        return _Call(doing, self.account)

    def _own(self, call: _Call, dataset: int) -> DatasetToken:
        if dataset >= len(self._ledger.tokens):
            raise call.refuse("NoSuchDataset", dataset=dataset)
        token = self._ledger.tokens[dataset]
        if token.owner != self.account:
            raise call.refuse("NotOwner", dataset=dataset, account=self.account)
        return token

    def _anchor(
        self, call: _Call, key: tuple[object, ...], about: bytes, offered: bytes
    ) -> None:
        call.blob(about, 32)
        call.blob(offered, 32)
        self._ledger.require(call, self.account)
        if _ZERO in {about, offered}:
            raise call.refuse("InvalidDigest")
        place = (self.account, *key)
        anchored = self._ledger.anchors.get(place)
        if anchored == offered:
            raise call.refuse("AlreadyAnchored", digest=offered)
        if anchored is not None:
            raise call.refuse("ConflictingAnchor", anchored=anchored, offered=offered)
        self._ledger.anchors[place] = offered
