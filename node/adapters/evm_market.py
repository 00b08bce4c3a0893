"""The Market port over any Ethereum JSON-RPC URL, beside an `EvmChain`."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from node.adapters import evm_contracts, evm_rows
from node.adapters.chain_scores import BOARD_FIELDS, MARKET_FIELDS, scores
from node.adapters.evm_chain import EvmChain
from node.adapters.evm_contracts import guarded
from node.adapters.evm_rows import address
from node.errors import ChainError
from node.ports.chain import ChainEvent, DatasetToken
from node.ports.market import Case, Purse, Request, RequestStatus, Rules
from protocol import merkle
from protocol.types import Digest


class EvmMarket:
    """The market through the account and the connection of `chain`."""

    def __init__(self, chain: EvmChain) -> None:
        self._chain, self._link = chain, chain.link

    async def requests(self) -> list[Request]:
        rows = await self._rows("market")
        return [evm_rows.request(number, row) for number, row in enumerate(rows)]

    async def request(
        self,
        dataset: int,
        units: int,
        days: int,
        max_price: int,
        *,
        purposes: int | None = None,
        acknowledged: int | None = None,
        record: Digest | None = None,
    ) -> int:
        token = await self._token(dataset)
        scope = (
            units,
            token.terms.allowed if purposes is None else purposes,
            token.terms.required if acknowledged is None else acknowledged,
        )
        if 0 < token.price <= max_price:
            await self._allow(token.terms.token, "market", token.price)
        paid_in = address(token.terms.token)
        read = token.record if record is None else record
        wanted = (dataset, read, scope, days, max_price, paid_in)
        event = await self._send("market", "request", wanted)
        return int(event.data["request"])

    async def approve(self, request: int, key_digest: Digest) -> None:
        await self._send("market", "approve", request, key_digest)

    async def approval(self, request: int) -> Digest | None:
        market = (await self._chain.discover())["market"]
        found = await self._link.newest_log(market.events.RequestApproved(), [request])
        return None if found is None else Digest(bytes(found["args"]["keyDigest"]))

    async def reject(self, request: int) -> None:
        await self._send("market", "reject", request)

    async def cancel(self, request: int) -> None:
        await self._send("market", "cancel", request)

    async def accept(self, request: int) -> None:
        await self._send("market", "accept", request)

    async def dispute(self, request: int, claim: Digest) -> int:
        await self.allow_bond()
        event = await self._send("market", "dispute", request, claim)
        return int(event.data["number"])

    async def close_request(self, request: int) -> None:
        found = await self._view("market", "requestOf", request)
        approved = evm_rows.request(request, found).status is RequestStatus.APPROVED
        await self._send("market", "settle" if approved else "expire", request)

    async def cases(self) -> list[Case]:
        rows = await self._rows("board")
        return [evm_rows.case(number, row) for number, row in enumerate(rows)]

    async def challenge(
        self,
        host: bytes,
        root: Digest,
        receipt: bytes,
        index: int,
        proof: Sequence[Digest],
        claim: Digest,
    ) -> int:
        leaf = merkle.leaf_digest(receipt)
        await self.allow_bond()
        event = await self._send(
            *("board", "challenge", address(host), root, leaf),
            *(index, list(proof), claim),
        )
        return int(event.data["number"])

    async def vote(self, case: int, report: Digest, *, uphold: bool) -> None:
        await self._send("board", "vote", case, uphold, report)

    async def close_case(self, case: int) -> None:
        await self._send("board", "close", case)

    async def stake(self, amount: int) -> None:
        await self._allow(await self._bond_token(), "board", amount)
        await self._quietly("board", "stake", amount)

    async def unstake(self, amount: int) -> None:
        await self._quietly("board", "unstake", amount)

    async def release(self) -> None:
        await self._quietly("board", "release")

    async def collect(self, token: bytes) -> None:
        """From the market and from the board, whichever holds something."""
        account, coin = address(self._chain.account), address(token)
        held = [
            name
            for name in ("market", "board")
            if await self._view(name, "credits", coin, account)
        ]
        for name in held or ["market"]:
            await self._quietly(name, "collect", coin)

    async def scores(self, account: bytes) -> Mapping[str, tuple[int, int]]:
        who = address(account)
        market = await self._view("market", "tallyOf", who)
        board = await self._view("board", "tallyOf", who)
        return scores(
            dict(zip(MARKET_FIELDS, market, strict=True)),
            dict(zip(BOARD_FIELDS, board, strict=True)),
        )

    async def rules(self) -> Rules:
        values = await self._view("parameters", "values")
        return Rules(*[*values, await self._bond_token()])

    async def accepts(self, token: bytes) -> bool:
        return bool(await self._view("parameters", "accepted", address(token)))

    async def purse(self, token: bytes) -> Purse:
        account, at = address(self._chain.account), address(token)
        coin = evm_contracts.contract(self._link.web3, "coin", at)
        balance = await self._link.read(
            "coin.balanceOf", coin.functions.balanceOf(account).call
        )
        held = [
            await self._view(name, "credits", at, account)
            for name in ("market", "board")
        ]
        return Purse(token, balance, sum(held))

    async def _token(self, dataset: int) -> DatasetToken:
        row = await self._view("datasets", "datasetOf", dataset)
        return evm_rows.token(dataset, row)

    async def _rows(self, name: str) -> list[Any]:
        contracts = await self._chain.discover()
        view = contracts[name].functions.page
        return await self._link.pages(name, view, await self._link.final_number())

    async def _view(self, name: str, function: str, *arguments: Any) -> Any:
        doing = f"{name}.{function}"
        view = (await self._chain.discover())[name].functions[function]
        call = guarded(doing, lambda: view(*arguments))
        return await self._link.read(doing, call.call)

    async def _bond_token(self) -> bytes:
        return bytes.fromhex((await self._view("board", "token"))[2:])

    async def allow_bond(self) -> None:
        """Let the board take the bond of a case or a dispute."""
        bond = (await self._view("parameters", "values"))[-1]
        await self._allow(await self._bond_token(), "board", bond)

    async def _allow(self, token: bytes, spender: str, amount: int) -> None:
        """Let one of our contracts take so much of an ERC-20 of ours."""
        if token == bytes(20) or amount == 0:
            return
        contracts = await self._chain.discover()
        coin = evm_contracts.contract(self._link.web3, "coin", "0x" + token.hex())
        to = contracts[spender].address
        mine = address(self._chain.account)
        allowed = await self._link.read(
            "coin.allowance", partial(coin.functions.allowance(mine, to).call)
        )
        if allowed < amount:
            await self._link.send({"coin": coin}, "coin", "approve", to, amount)

    async def _send(self, name: str, function: str, *arguments: Any) -> ChainEvent:
        left = await self._quietly(name, function, *arguments)
        if not left:
            raise ChainError(f"{name}.{function} left no event")
        return left[-1]

    async def _quietly(
        self, name: str, function: str, *arguments: Any
    ) -> list[ChainEvent]:
        contracts = await self._chain.discover()
        return await self._link.send(contracts, name, function, *arguments)
