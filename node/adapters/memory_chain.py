"""The Chain port on a ledger in memory, for tests that need a federation and not an EVM.

`memory_ledger` has the rules.  Here is one account's view of them, and what an EVM does by
its types: a value that does not fit is refused before anything happens.
"""

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import trio

from node.adapters import memory_ledger
from node.adapters.chain_errors import refused
from node.adapters.chain_grants import grant_id, grant_place
from node.adapters.memory_ledger import Scope
from node.errors import ChainError
from node.ports.chain import OPEN_TERMS, ChainEvent, DatasetToken, Grant, Head, Terms
from protocol.members import Member, MemberSet
from protocol.types import Digest


def _host_clock() -> int:
    return int(time.time())


class Ledger(memory_ledger.Ledger):
    """A ledger that wakes those who follow it."""

    def __init__(self, owner: bytes, clock: Callable[[], int] = _host_clock) -> None:
        super().__init__(owner, clock)
        self.changed = trio.Event()

    def emit(self, event: str, /, **data: object) -> None:
        super().emit(event, **data)
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
        rows = [one.member for one in self._ledger.members]
        return MemberSet.of([member for member in rows if member.roles])

    async def register(self, member: Member, roles: int) -> None:
        await trio.lowlevel.checkpoint()
        _blob(member.node_key, 32)
        _blob(member.seal_key, 32)
        _blob(member.account, 20)
        _number(roles, 32)
        known = self._ledger.membership(member.account)
        if known is not None and _same_keys(known.member, member):
            self._ledger.set_roles(self.account, member.account, roles)
            return
        keys = (member.node_key, member.seal_key)
        row = (*keys, member.account, roles, member.name)
        self._ledger.admit(self.account, *row)

    async def rotate_keys(self, node_key: bytes, seal_key: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self._ledger.rotate_keys(self.account, _blob(node_key, 32), _blob(seal_key, 32))

    async def list_dataset(
        self, record: Digest, units: int, price: int, terms: Terms = OPEN_TERMS
    ) -> int:
        await trio.lowlevel.checkpoint()
        _blob(record, 32)
        _number(units, 8)
        _check_terms(price, terms)
        mine = [one for one in self._ledger.tokens if one.owner == self.account]
        if any(one.record == record for one in mine):
            raise refused("datasets.list", "AlreadyListed", record=record)
        return self._ledger.list_dataset(
            self.account, record, units, len(mine), price, terms
        )

    async def add_version(
        self, dataset: int, record: Digest, units: int, *, rekeyed: bool
    ) -> None:
        await trio.lowlevel.checkpoint()
        row = (_number(dataset, 256), _blob(record, 32), _number(units, 8))
        self._ledger.add_version(self.account, *row, rekeyed=rekeyed)

    async def set_terms(self, dataset: int, price: int, terms: Terms) -> None:
        await trio.lowlevel.checkpoint()
        _check_terms(price, terms)
        self._ledger.set_terms(self.account, _number(dataset, 256), price, terms)

    async def set_committee(self, dataset: int, committee: bytes) -> None:
        await trio.lowlevel.checkpoint()
        row = (_number(dataset, 256), _blob(committee, 20))
        self._ledger.set_committee(self.account, *row)

    async def withdraw_units(self, dataset: int, units: int) -> None:
        await trio.lowlevel.checkpoint()
        row = (_number(dataset, 256), _number(units, 64))
        self._ledger.withdraw_units(self.account, *row)

    async def withdraw_dataset(self, dataset: int) -> None:
        await trio.lowlevel.checkpoint()
        self._ledger.withdraw(self.account, _number(dataset, 256))

    async def datasets(self) -> list[DatasetToken]:
        await trio.lowlevel.checkpoint()
        return list(self._ledger.tokens)

    async def grant(
        self,
        dataset: int,
        grantee: bytes,
        units: int,
        until: int,
        *,
        purposes: int | None = None,
        acknowledged: int | None = None,
    ) -> int:
        await trio.lowlevel.checkpoint()
        doing = "datasets.give"
        _blob(grantee, 20)
        token = self._ledger.token(doing, _number(dataset, 256))
        scope = Scope(
            _number(units, 64),
            _number(token.terms.allowed if purposes is None else purposes, 32),
            _number(token.terms.required if acknowledged is None else acknowledged, 32),
        )
        for account in (token.owner, grantee):
            self._ledger.require(doing, account)
        self._ledger.give(self.account, dataset, grantee, scope, _number(until, 40))
        return grant_id(dataset, self._ledger.place(grantee))

    async def revoke(self, grant: int) -> None:
        await trio.lowlevel.checkpoint()
        dataset, place = grant_place(_number(grant, 256))
        held = (
            self._ledger.grants(dataset) if dataset < len(self._ledger.tokens) else []
        )
        if all(one.grant != grant for one in held):
            raise refused("datasets.revoke", "NoSuchGrant", grant=grant)
        grantee = self._ledger.members[place].member.account
        self._ledger.revoke(self.account, dataset, grantee)

    async def grants(self, dataset: int) -> list[Grant]:
        await trio.lowlevel.checkpoint()
        known = _number(dataset, 256) < len(self._ledger.tokens)
        return self._ledger.grants(dataset) if known else []

    async def anchor_model(self, root: Digest, record: Digest) -> None:
        await trio.lowlevel.checkpoint()
        self._ledger.anchor_model(self.account, _blob(root, 32), _blob(record, 32))

    async def anchor_round(self, run: Digest, number: int, state: Digest) -> None:
        await trio.lowlevel.checkpoint()
        row = (_blob(run, 32), _number(number, 64), _blob(state, 32))
        self._ledger.anchor_round(self.account, *row)

    async def anchor_receipts(self, root: Digest, count: int) -> int:
        await trio.lowlevel.checkpoint()
        row = (_blob(root, 32), _number(count, 32))
        return self._ledger.anchor_receipts(self.account, *row)

    async def anchored_receipts(self, host: bytes, root: Digest) -> int:
        await trio.lowlevel.checkpoint()
        _, count = self._ledger.batch_of.get((_blob(host, 20), _blob(root, 32)), (0, 0))
        return count

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


def _same_keys(known: Member, offered: Member) -> bool:
    return (known.node_key, known.seal_key, known.name) == (
        offered.node_key,
        offered.seal_key,
        offered.name,
    )


def _check_terms(price: int, terms: Terms) -> None:
    _number(price, 96)
    _number(terms.allowed, 32)
    _number(terms.required, 32)
    _number(terms.max_days, 16)
    _blob(terms.token, 20)


def _number(value: int, bits: int) -> int:
    if not 0 <= value < 1 << bits:
        raise ChainError(f"cannot be encoded: {value} is not a uint{bits}")
    return value


def _blob(value: bytes, length: int) -> bytes:
    if len(value) != length:
        raise ChainError(f"cannot be encoded: {len(value)} bytes, needs {length}")
    return value
