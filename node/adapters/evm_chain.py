"""The Chain port over any Ethereum JSON-RPC URL.

Everything is read as deep as this node takes for final, with one exception on the safe side:
what ends or narrows a grant counts as soon as it is in the newest block.
"""

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

import structlog
import trio

from node.adapters import evm_contracts, evm_rows
from node.adapters.chain_errors import refused
from node.adapters.chain_grants import grant_id, grant_place, narrowed
from node.adapters.evm_contracts import NAMES, account_address, deploy, guarded
from node.adapters.evm_follow import Follower
from node.adapters.evm_link import PAGE, Link
from node.adapters.evm_rows import Row, address, place_of
from node.errors import ChainDownError, ChainError
from node.ports.chain import OPEN_TERMS, ChainEvent, DatasetToken, Grant, Head, Terms
from protocol.members import ROLE_DATA_PROVIDER, Member, MemberSet
from protocol.types import Digest

__all__ = ["ChainDownError", "EvmChain", "account_address", "deploy"]

# In this order, because each is found through one before it.
_NAMED_BY = {
    "market": "datasets",
    "board": "market",
    "parameters": "market",
    "disputes": "board",
    "judge": "disputes",
}

log = structlog.get_logger()


class EvmChain:
    """One account's view of the federation's contracts."""

    def __init__(
        self,
        *,
        url: str,
        chain_id: int,
        contracts: Mapping[str, str],
        account_key: bytes,
        confirmations: int = 0,
        poll_s: float = 0.25,
    ) -> None:
        self.link = Link(
            url=url,
            chain_id=chain_id,
            account_key=account_key,
            confirmations=confirmations,
            poll_s=poll_s,
        )
        self.account = self.link.account
        self.contracts = {
            name: evm_contracts.contract(self.link.web3, name, contracts.get(name, ""))
            for name in NAMES
        }

    async def check(self) -> None:
        """Fail unless this is the chain we mean and our contracts are on it."""
        await self.link.check()
        for name in NAMES:
            await self.link.check_code(name, self.contracts[name].address)
        registry = self.contracts["registry"].address
        for name in ("datasets", "anchors"):
            view = self.contracts[name].functions.registry()
            theirs = await self.link.read(f"reading {name}", view.call)
            if theirs != registry:
                raise ChainError(
                    f"{name} belongs to the registry at {theirs}, not to {registry}",
                    hint="take all of chain.contracts from one deployment",
                )
        await self.discover()

    async def discover(self) -> Mapping[str, Any]:
        """All contracts; the ones that are not configured are named by the others."""
        for name, named_by in _NAMED_BY.items():
            if name not in self.contracts:
                view = self.contracts[named_by].functions[name]()
                at = await self.link.read(f"reading {named_by}", view.call)
                await self.link.check_code(name, at)
                self.contracts[name] = evm_contracts.contract(self.link.web3, name, at)
        return self.contracts

    async def head(self) -> Head:
        return await self.link.head()

    async def members(self) -> MemberSet:
        roll = await self._roll(await self.link.final_number())
        return MemberSet.of([row.member for row in roll if row.member.roles])

    async def register(self, member: Member, roles: int) -> None:
        roll = await self._roll("latest")
        place = place_of(roll, member.account)
        account = address(member.account)
        if place is not None and evm_rows.same_keys(roll[place].member, member):
            await self._send("registry", "setRoles", account, roles)
            return
        keys = (member.node_key, member.seal_key)
        await self._send("registry", "admit", *keys, account, roles, member.name)

    async def rotate_keys(self, node_key: bytes, seal_key: bytes) -> None:
        await self._send("registry", "rotateKeys", node_key, seal_key)

    async def list_dataset(
        self, record: Digest, units: int, price: int, terms: Terms = OPEN_TERMS
    ) -> int:
        mine = [
            one for one in await self._tokens("latest") if one.owner == self.account
        ]
        if any(one.record == record for one in mine):
            raise refused("datasets.list", "AlreadyListed", record=record)
        row = evm_rows.terms_row(price, terms)
        event = await self._send("datasets", "list", record, units, len(mine), row)
        return int(event.data["dataset"])

    async def add_version(
        self, dataset: int, record: Digest, units: int, *, rekeyed: bool
    ) -> None:
        await self._send("datasets", "addVersion", dataset, record, units, rekeyed)

    async def set_terms(self, dataset: int, price: int, terms: Terms) -> None:
        row = evm_rows.terms_row(price, terms)
        await self._send("datasets", "setTerms", dataset, row)

    async def set_committee(self, dataset: int, committee: bytes) -> None:
        await self._send("datasets", "setCommittee", dataset, address(committee))

    async def withdraw_units(self, dataset: int, units: int) -> None:
        await self._send("datasets", "withdrawUnits", dataset, units)

    async def withdraw_dataset(self, dataset: int) -> None:
        await self._send("datasets", "withdraw", dataset)

    async def datasets(self) -> list[DatasetToken]:
        return await self._tokens(await self.link.final_number())

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
        to = address(grantee)
        token = await self._token(dataset, "latest")
        terms = token.terms
        scope = (
            units,
            terms.allowed if purposes is None else purposes,
            terms.required if acknowledged is None else acknowledged,
        )
        # The contract takes a grant to or from somebody who is no member, and it has no
        # effect; here it is refused, so that nobody takes it for one.
        roll = await self._roll("latest")
        place = place_of(roll, grantee)
        for account in (token.owner, grantee):
            at = place_of(roll, account)
            if at is None or not roll[at].member.roles:
                raise refused("datasets.give", "NotMember", account=account)
        assert place is not None
        await self._send("datasets", "give", dataset, to, scope, until)
        return grant_id(dataset, place)

    async def revoke(self, grant: int) -> None:
        dataset, place = grant_place(grant)
        roll = await self._roll("latest")
        grants = await self._grants_at(dataset, await self.link.newest_number())
        if all(one.grant != grant for one in grants):
            raise refused("datasets.revoke", "NoSuchGrant", grant=grant)
        account = address(roll[place].member.account)
        await self._send("datasets", "revoke", dataset, account)

    async def grants(self, dataset: int) -> list[Grant]:
        final = await self._grants_at(dataset, await self.link.final_number())
        if not self.link.confirmations:
            return final
        newest = await self._grants_at(dataset, await self.link.newest_number())
        return narrowed(final, newest)

    async def anchor_model(self, root: Digest, record: Digest) -> None:
        await self._send("anchors", "anchorModel", root, record)

    async def anchor_round(self, run: Digest, number: int, state: Digest) -> None:
        await self._send("anchors", "anchorRound", run, number, state)

    async def anchor_receipts(self, root: Digest, count: int) -> int:
        event = await self._send("anchors", "anchorReceipts", root, count)
        return int(event.data["batch"])

    async def anchored_receipts(self, host: bytes, root: Digest) -> int:
        number, at = await self.link.final_number(), address(host)
        view = self.contracts["anchors"].functions.batchOf
        call = guarded("anchors.batchOf", lambda: view(at, root))
        ask = partial(call.call, block_identifier=number)
        count, _, _ = await self.link.read("anchors.batchOf", ask)
        return int(count)

    async def follow(self, from_block: int) -> AsyncIterator[ChainEvent]:
        contracts = await self._known_sooner_or_later()
        async for event in Follower(self.link, contracts, from_block).events():
            yield event

    async def _known_sooner_or_later(self) -> Mapping[str, Any]:
        """All contracts; a daemon may start before its chain."""
        while True:
            try:
                return await self.discover()
            except ChainDownError as error:
                log.warning("chain is not followed", reason=str(error))
                await trio.sleep(self.link.poll_s)

    async def _send(self, name: str, function: str, *arguments: Any) -> ChainEvent:
        left = await self.link.send(self.contracts, name, function, *arguments)
        if not left:
            raise ChainError(f"{name}.{function} left no event")
        return left[-1]

    async def _grants_at(self, dataset: int, number: int) -> list[Grant]:
        """All grants of a dataset after block `number`."""
        roll = await self._roll(number)
        found: list[Any] = []
        for start in range(0, len(roll), PAGE):
            accounts = [address(row.member.account) for row in roll[start:][:PAGE]]
            found += await self._view(number, "grantsOf", dataset, accounts)
        if not any(map(evm_rows.is_given, found)):
            return []
        token = await self._token(dataset, number)
        owner = place_of(roll, token.owner)
        provides = owner is not None and roll[owner].member.has(ROLE_DATA_PROVIDER)
        return [
            evm_rows.grant(token, place, roll[place], row, provides=provides)
            for place, row in enumerate(found)
            if evm_rows.is_given(row)
        ]

    async def _roll(self, tag: int | str) -> list[Row]:
        """Everybody ever admitted, in the order of admission."""
        view = self.contracts["registry"].functions.page
        return [
            evm_rows.member_row(row)
            for row in await self.link.pages("registry", view, tag)
        ]

    async def _tokens(self, tag: int | str) -> list[DatasetToken]:
        view = self.contracts["datasets"].functions.page
        rows = await self.link.pages("datasets", view, tag)
        return [evm_rows.token(dataset, row) for dataset, row in enumerate(rows)]

    async def _token(self, dataset: int, tag: int | str) -> DatasetToken:
        return evm_rows.token(dataset, await self._view(tag, "datasetOf", dataset))

    async def _view(self, tag: int | str, function: str, *arguments: Any) -> Any:
        doing = f"datasets.{function}"
        view = self.contracts["datasets"].functions[function]
        call = guarded(doing, lambda: view(*arguments))
        return await self.link.read(doing, partial(call.call, block_identifier=tag))
