"""The Chain port over any Ethereum JSON-RPC URL.

web3 is synchronous and runs in a few threads of its own.  Reads may be abandoned; a send
never is, because a nonce would be lost.  A transaction counts once it is `confirmations`
blocks deep; grants are read at that depth, but a revocation counts as soon as it is seen.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import structlog
import trio
from eth_account import Account
from hexbytes import HexBytes
from web3 import Web3
from web3.exceptions import TransactionNotFound, Web3RPCError

from node.adapters import evm_contracts
from node.adapters.evm_contracts import (
    NAMES,
    account_address,
    deploy,
    guarded,
)
from node.errors import ChainDownError, ChainError
from node.ports import ChainEvent, DatasetToken, Grant, Head
from protocol.members import Member, MemberSet
from protocol.types import Digest

__all__ = ["ChainDownError", "EvmChain", "account_address", "deploy"]

THREADS = 4
PAGE = 200
BLOCK_RANGE = 1_000
MINED_TIMEOUT_S = 180.0
BACK_OFF_LIMIT_S = 15.0
_SEND_TRIES = 3
# A dict, because libp2p brings old stubs of trio that do not know the name.
_MAY_BE_LEFT: Mapping[str, Any] = {"abandon_on_cancel": True}

Result = TypeVar("Result")

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
        self._chain_id = chain_id
        self._confirmations = confirmations
        self._poll_s = poll_s
        self.account = account_address(account_key)
        self._signer = Account.from_key(account_key)
        self._web3 = evm_contracts.connect(url)
        self._contracts = {
            name: evm_contracts.contract(self._web3, name, contracts.get(name, ""))
            for name in NAMES
        }
        self._limiter = trio.CapacityLimiter(THREADS)
        self._sending = trio.Lock()
        self._nonce: int | None = None

    async def check(self) -> None:
        """Fail unless this is the chain we mean and our contracts are on it."""
        eth = self._web3.eth
        found = await self._read("asking the chain id", lambda: eth.chain_id)
        if found != self._chain_id:
            raise ChainError(
                f"chain id is {found}, expected {self._chain_id}",
                hint="check chain.url and chain.chain_id",
            )
        for name, contract in self._contracts.items():
            code = await self._read(
                f"reading {name}",
                partial(eth.get_code, contract.address),
            )
            if not code:
                raise ChainError(
                    f"no contract at {contract.address} ({name})",
                    hint="check chain.contracts, or deploy with `rexis chain deploy`",
                )
            if not evm_contracts.is_ours(name, bytes(code)):
                raise ChainError(
                    f"the contract at {contract.address} is not the {name} that this"
                    " version was built with",
                    hint="check chain.contracts, and that all members run one version",
                )
        registry = self._contracts["registry"].address
        for name, contract in self._contracts.items():
            if name == "registry":
                continue
            theirs = await self._read(
                f"reading {name}", contract.functions.registry().call
            )
            if theirs != registry:
                raise ChainError(
                    f"{name} belongs to the registry at {theirs}, not to {registry}",
                    hint="take all of chain.contracts from one deployment",
                )

    async def head(self) -> Head:
        def ask() -> Any:
            block = self._web3.eth.get_block("latest")
            if self._confirmations and block["number"]:
                number = max(0, block["number"] - self._confirmations)
                block = self._web3.eth.get_block(number)
            return block

        block = await self._read("reading the head", ask)
        return Head(block["number"], bytes(block["hash"]), block["timestamp"])

    async def members(self) -> MemberSet:
        rows = await self._pages("registry", "page")
        return MemberSet.of(
            [
                Member(
                    node_key=bytes(node_key),
                    seal_key=bytes(seal_key),
                    account=bytes.fromhex(account[2:]),
                    roles=roles,
                    name=name,
                )
                for node_key, seal_key, account, roles, name in rows
                if roles
            ]
        )

    async def register(self, member: Member, roles: int) -> None:
        account = _address(member.account)
        row = (member.node_key, member.seal_key, account, roles, member.name)
        await self._send("registry", "setMember", row)

    async def list_dataset(self, record: Digest, units: int, price: int) -> int:
        event = await self._send("datasets", "list", record, units, price)
        return int(event.data["dataset"])

    async def datasets(self) -> list[DatasetToken]:
        rows = await self._pages("datasets", "page")
        return [
            DatasetToken(
                dataset, bytes.fromhex(owner[2:]), Digest(bytes(record)), units, price
            )
            for dataset, (record, owner, units, price) in enumerate(rows)
        ]

    async def grant(self, dataset: int, grantee: bytes, units: int, until: int) -> int:
        event = await self._send(
            "datasets", "give", dataset, _address(grantee), units, until
        )
        return int(event.data["grant"])

    async def revoke(self, grant: int) -> None:
        await self._send("datasets", "revoke", grant)

    async def grants(self, dataset: int) -> list[Grant]:
        final = await self._grants_at(dataset, await self._final_tag())
        if not self._confirmations:
            return final
        newest = {g.grant: g for g in await self._grants_at(dataset, "latest")}
        return [newest.get(grant.grant, grant) for grant in final]

    async def anchor_model(self, root: Digest, record: Digest) -> None:
        await self._send("anchors", "anchorModel", root, record)

    async def anchor_round(self, run: Digest, number: int, state: Digest) -> None:
        await self._send("anchors", "anchorRound", run, number, state)

    async def anchor_receipts(self, root: Digest, count: int) -> int:
        event = await self._send("anchors", "anchorReceipts", root, count)
        return int(event.data["batch"])

    async def follow(self, from_block: int) -> AsyncIterator[ChainEvent]:
        following, pause = from_block, self._poll_s
        while True:
            try:
                found, following_next = await self._logs_from(following)
            except ChainError as error:
                log.warning("chain is not followed", reason=str(error), retry_s=pause)
                await trio.sleep(pause)
                pause = min(BACK_OFF_LIMIT_S, 2 * pause)
                continue
            pause = self._poll_s
            for event in found:
                yield event
            if following_next == following:
                await trio.sleep(self._poll_s)
            following = following_next

    async def _logs_from(self, first: int) -> tuple[list[ChainEvent], int]:
        """Events from block `first` on, and the block to ask for next."""

        def ask() -> tuple[list[ChainEvent], int]:
            eth = self._web3.eth
            last = min(eth.block_number - self._confirmations, first + BLOCK_RANGE - 1)
            if last < first:
                return [], first
            query = {
                "fromBlock": first,
                "toBlock": last,
                "address": [one.address for one in self._contracts.values()],
                "topics": [[HexBytes(topic) for topic in evm_contracts.event_topics()]],
            }
            logs = eth.get_logs(query)
            return evm_contracts.events(self._contracts.values(), logs), last + 1

        return await self._read("reading logs", ask)

    async def _grants_at(self, dataset: int, tag: int | str) -> list[Grant]:
        rows = await self._pages("datasets", "grantPage", dataset, tag=tag)
        return [
            Grant(grant, of, bytes.fromhex(grantee[2:]), units, until, revoked)
            for grant, (of, grantee, units, until, revoked) in rows
        ]

    async def _final_tag(self) -> int | str:
        return (await self.head()).number if self._confirmations else "latest"

    async def _pages(
        self, name: str, function: str, *arguments: int, tag: int | str | None = None
    ) -> list[Any]:
        """All rows of a paged view; the lists behind the views only grow."""
        where = await self._final_tag() if tag is None else tag
        rows: list[Any] = []
        view = self._contracts[name].functions[function]

        def ask() -> list[Any]:
            page = view(*arguments, len(rows), PAGE).call(block_identifier=where)
            # A pair of lists (ids and rows) reads as a list of pairs.
            return list(zip(*page, strict=True)) if function == "grantPage" else page

        while True:
            page = await self._read(f"reading {name}", ask)
            rows.extend(page)
            if len(page) < PAGE:
                return rows

    async def _read(self, doing: str, ask: Callable[[], Result]) -> Result:
        return await trio.to_thread.run_sync(
            partial(guarded, doing, ask), limiter=self._limiter, **_MAY_BE_LEFT
        )

    async def _send(self, name: str, function: str, *arguments: Any) -> ChainEvent:
        """Send a call, wait until it is final; the event it left."""
        doing = f"{name}.{function}"
        call = guarded(
            doing, lambda: self._contracts[name].functions[function](*arguments)
        )
        async with self._sending:
            digest = await self._sent(doing, call)
        receipt = await self._final(doing, digest)
        if receipt["status"] != 1:
            await self._explain(doing, call, receipt["blockNumber"])
        left = evm_contracts.events(self._contracts.values(), receipt["logs"])
        if not left:
            raise ChainError(f"{doing} left no event")
        return left[-1]

    async def _sent(self, doing: str, call: Any) -> bytes:
        """The hash of the sent transaction; runs under the sending lock.

        Only the send itself is never abandoned, and it is one request with a timeout:
        a daemon that stops while the chain is dead waits for that and not longer.
        """
        for attempt in range(1, _SEND_TRIES + 1):
            nonce, signed = await self._read(doing, lambda: self._signed(call))
            self._nonce = None  # known again once this is sent
            try:
                await trio.to_thread.run_sync(
                    partial(guarded, doing, partial(self._put_out, signed)),
                    limiter=self._limiter,
                )
            except ChainError as error:
                if attempt == _SEND_TRIES or "nonce" not in str(error):
                    raise
            else:
                self._nonce = nonce + 1
                return bytes(signed.hash)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _signed(self, call: Any) -> tuple[int, Any]:
        """The next nonce, and the transaction under it."""
        sender = self._signer.address
        gas = call.estimate_gas({"from": sender})
        nonce = self._nonce
        if nonce is None:
            nonce = self._web3.eth.get_transaction_count(sender, "pending")
        fields = {"from": sender, "nonce": nonce, "chainId": self._chain_id}
        prices = evm_contracts.fees(self._web3)
        return nonce, self._signer.sign_transaction(
            call.build_transaction({**fields, **prices, "gas": gas + gas // 5})
        )

    def _put_out(self, signed: Any) -> None:
        try:
            self._web3.eth.send_raw_transaction(signed.raw_transaction)
        except Web3RPCError as error:
            # An earlier send of the same bytes arrived although its answer was lost.
            if "already" not in str(error) and not self._mined(signed.hash):
                raise

    def _mined(self, digest: bytes) -> bool:
        try:
            self._web3.eth.get_transaction_receipt(HexBytes(digest))
        except TransactionNotFound:
            return False
        return True

    async def _final(self, doing: str, digest: bytes) -> Any:
        """The receipt, once its block is as deep as this node asks."""

        def ask() -> Any:
            try:
                receipt = self._web3.eth.get_transaction_receipt(HexBytes(digest))
            except TransactionNotFound:
                return None
            if not self._confirmations:
                return receipt
            newest = self._web3.eth.get_block("latest")["number"]
            deep = newest - receipt["blockNumber"] >= self._confirmations
            return receipt if deep else None

        with trio.move_on_after(MINED_TIMEOUT_S):
            while True:
                receipt = await self._read(doing, ask)
                if receipt is not None:
                    return receipt
                await trio.sleep(self._poll_s)
        raise ChainDownError(
            f"{doing}: not final after {MINED_TIMEOUT_S:.0f} s",
            hint="the chain is slow, or the fee is too low; it is safe to try again",
        )

    async def _explain(self, doing: str, call: Any, block: int) -> None:
        """Why a mined transaction failed, by running it once more."""

        def ask() -> None:
            call.call({"from": self._signer.address}, block_identifier=block)

        await self._read(doing, ask)
        raise ChainError(f"{doing} reverted in block {block}")


def _address(account: bytes) -> str:
    if len(account) != 20:
        raise ChainError(f"account has {len(account)} bytes, needs 20")
    return str(Web3.to_checksum_address("0x" + account.hex()))
