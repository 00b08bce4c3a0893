"""One account's connection to an Ethereum JSON-RPC URL: reads, sends, and when they are final.

web3 is synchronous and runs in a few threads of its own.  Reads may be abandoned; a send
never is, because a nonce would be lost.  A transaction counts once it is `confirmations`
blocks deep.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import trio
from eth_account import Account
from eth_account.messages import SignableMessage
from eth_utils.abi import event_abi_to_log_topic
from hexbytes import HexBytes
from web3 import Web3
from web3.exceptions import TransactionNotFound, Web3RPCError

from node.adapters import evm_contracts
from node.adapters.evm_contracts import account_address, guarded
from node.adapters.evm_heads import Heads, Newest
from node.errors import ChainDownError, ChainError
from node.ports.chain import ChainEvent, Head

THREADS = 4
PAGE = 200
LOG_RANGE = 1_000
"""Blocks of one search; common servers take no more."""
MINED_TIMEOUT_S = 180.0
_SEND_TRIES = 3
# A dict, because libp2p brings old stubs of trio that do not know the name.
_MAY_BE_LEFT: Mapping[str, Any] = {"abandon_on_cancel": True}

Result = TypeVar("Result")


class Link:
    """web3 with a sending account and a rule of finality."""

    def __init__(
        self,
        *,
        url: str,
        chain_id: int,
        account_key: bytes,
        confirmations: int,
        poll_s: float,
    ) -> None:
        self.chain_id = chain_id
        self.confirmations = confirmations
        self.poll_s = poll_s
        self.heads = Heads(self._newest, poll_s)
        self.account = account_address(account_key)
        self.web3 = evm_contracts.connect(url)
        self._signer = Account.from_key(account_key)
        self._limiter = trio.CapacityLimiter(THREADS)
        self._sending = trio.Lock()
        self._nonce: int | None = None

    async def check(self) -> None:
        """Fail unless the URL speaks for the chain we mean."""
        eth = self.web3.eth
        found = await self.read("asking the chain id", lambda: eth.chain_id)
        if found != self.chain_id:
            raise ChainError(
                f"chain id is {found}, expected {self.chain_id}",
                hint="check chain.url and chain.chain_id",
            )

    async def check_code(self, name: str, at: str) -> None:
        """Fail unless the contract at an address is the one this version was built with."""
        code = await self.read(
            f"reading {name}",
            lambda: self.web3.eth.get_code(Web3.to_checksum_address(at)),
        )
        if not code:
            raise ChainError(
                f"no contract at {at} ({name})",
                hint="check chain.contracts, or deploy with `rexis chain deploy`",
            )
        if not evm_contracts.is_ours(name, bytes(code)):
            raise ChainError(
                f"the contract at {at} is not the {name} that this version was built with",
                hint="check chain.contracts, and that all members run one version",
            )

    async def head(self) -> Head:
        def ask() -> Any:
            block = self.web3.eth.get_block("latest")
            if self.confirmations and block["number"]:
                number = max(0, block["number"] - self.confirmations)
                block = self.web3.eth.get_block(number)
            return block

        block = await self.read("reading the head", ask)
        return Head(block["number"], bytes(block["hash"]), block["timestamp"])

    async def _newest(self) -> Newest:
        eth = self.web3.eth
        block = await self.read("reading the head", lambda: eth.get_block("latest"))
        return Newest(block["number"], bytes(block["hash"]))

    async def newest_number(self) -> int:
        eth = self.web3.eth
        return int(await self.read("reading the head", lambda: eth.block_number))

    async def final_number(self) -> int:
        if self.confirmations:
            return (await self.head()).number
        return await self.newest_number()

    async def pages(
        self, name: str, view: Callable[[int, int], Any], tag: int | str
    ) -> list[Any]:
        """All rows of a paged view; the lists behind the views only grow."""
        rows: list[Any] = []

        def ask() -> list[Any]:
            return list(view(len(rows), PAGE).call(block_identifier=tag))

        while True:
            page = await self.read(f"reading {name}", ask)
            rows.extend(page)
            if len(page) < PAGE:
                return rows

    async def read(self, doing: str, ask: Callable[[], Result]) -> Result:
        return await trio.to_thread.run_sync(
            partial(guarded, doing, ask), limiter=self._limiter, **_MAY_BE_LEFT
        )

    async def newest_log(self, event: Any, indexed: Sequence[int]) -> Any:
        """The newest final log of an event whose first topics are these numbers, or None.

        Servers bound the range of a search, so it goes back from the head a range at a
        time: what is asked for is recent, and the first one found is the answer.
        """
        signature = HexBytes(event_abi_to_log_topic(event.abi))
        topics = [signature, *(HexBytes(one.to_bytes(32, "big")) for one in indexed)]
        last = await self.final_number()
        while last >= 0:
            first = max(0, last - LOG_RANGE + 1)
            asked = {
                "fromBlock": first,
                "toBlock": last,
                "address": event.address,
                "topics": topics,
            }
            found = await self.read(
                f"reading {event.event_name}", partial(self.web3.eth.get_logs, asked)
            )
            if found:
                return event.process_log(found[-1])
            last = first - 1
        return None

    async def deploy(self, name: str, *arguments: Any) -> str:
        """Put one contract on the chain from our account; its address, once it is final."""
        doing, compiled = f"deploying {name}", evm_contracts.artifact(name)
        factory = self.web3.eth.contract(
            abi=compiled["abi"], bytecode=compiled["bytecode"]
        )
        call = guarded(doing, lambda: factory.constructor(*arguments))
        async with self._sending:
            digest = await self._sent(doing, call)
        receipt = await self._final(doing, digest)
        if receipt["status"] != 1:
            raise ChainError(f"{doing} reverted")
        return str(receipt["contractAddress"])

    def sign(self, typed: SignableMessage) -> bytes:
        """Our account's signature of fields whose meaning we know; never of a bare digest."""
        return bytes(self._signer.sign_message(typed).signature)

    async def send(
        self, contracts: Mapping[str, Any], name: str, function: str, *arguments: Any
    ) -> list[ChainEvent]:
        """Send a call, wait until it is final; the events of `contracts` it left."""
        doing = f"{name}.{function}"
        call = guarded(doing, lambda: contracts[name].functions[function](*arguments))
        async with self._sending:
            digest = await self._sent(doing, call)
        receipt = await self._final(doing, digest)
        if receipt["status"] != 1:
            await self._explain(doing, call, receipt["blockNumber"])
        return evm_contracts.events(contracts.values(), receipt["logs"])

    async def _sent(self, doing: str, call: Any) -> bytes:
        """The hash of the sent transaction; runs under the sending lock.

        Only the send itself is never abandoned, and it is one request with a timeout:
        a daemon that stops while the chain is dead waits for that and not longer.
        """
        for attempt in range(1, _SEND_TRIES + 1):
            nonce, signed = await self.read(doing, lambda: self._signed(call))
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
            nonce = self.web3.eth.get_transaction_count(sender, "pending")
        fields = {"from": sender, "nonce": nonce, "chainId": self.chain_id}
        prices = evm_contracts.fees(self.web3)
        return nonce, self._signer.sign_transaction(
            call.build_transaction({**fields, **prices, "gas": gas + gas // 5})
        )

    def _put_out(self, signed: Any) -> None:
        try:
            self.web3.eth.send_raw_transaction(signed.raw_transaction)
        except Web3RPCError as error:
            # An earlier send of the same bytes arrived although its answer was lost.
            if "already" not in str(error) and not self._mined(signed.hash):
                raise

    def _mined(self, digest: bytes) -> bool:
        try:
            self.web3.eth.get_transaction_receipt(HexBytes(digest))
        except TransactionNotFound:
            return False
        return True

    async def _final(self, doing: str, digest: bytes) -> Any:
        """The receipt, once its block is as deep as this node asks."""

        def ask() -> Any:
            try:
                receipt = self.web3.eth.get_transaction_receipt(HexBytes(digest))
            except TransactionNotFound:
                return None
            if not self.confirmations:
                return receipt
            newest = self.web3.eth.get_block("latest")["number"]
            deep = newest - receipt["blockNumber"] >= self.confirmations
            return receipt if deep else None

        with trio.move_on_after(MINED_TIMEOUT_S):
            while True:
                receipt = await self.read(doing, ask)
                if receipt is not None:
                    return receipt
                await trio.sleep(self.poll_s)
        raise ChainDownError(
            f"{doing}: not final after {MINED_TIMEOUT_S:.0f} s",
            hint="the chain is slow, or the fee is too low; it is safe to try again",
        )

    async def _explain(self, doing: str, call: Any, block: int) -> None:
        """Why a mined transaction failed, by running it once more."""

        def ask() -> None:
            call.call({"from": self._signer.address}, block_identifier=block)

        await self.read(doing, ask)
        raise ChainError(f"{doing} reverted in block {block}")
