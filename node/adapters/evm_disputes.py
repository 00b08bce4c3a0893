"""The Arbiter port over any Ethereum JSON-RPC URL, beside an `EvmChain`."""

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

from node.adapters.evm_chain import EvmChain
from node.adapters.evm_market import EvmMarket
from node.adapters.evm_rows import address
from node.errors import ChainError
from node.ports.chain import ChainEvent
from node.ports.disputes import Standing
from protocol.dispute import Asked, Claim, Leaf, Proof, SaltProof, Trunk, Turn
from protocol.receipt import BatchProof

# Places in `Disputes.Dispute`.
_DEADLINE, _TURN = 1, 2


class EvmDisputes:
    """Disputes through the account and the connection of `chain`."""

    def __init__(self, chain: EvmChain) -> None:
        self._chain, self._market = chain, EvmMarket(chain)

    @property
    def account(self) -> bytes:
        return self._chain.account

    async def accuse(
        self,
        host: bytes,
        batch: bytes,
        proof: BatchProof,
        receipt: bytes,
        trunk: Trunk,
        place: tuple[int, int, int],
    ) -> int:
        await self._market.allow_bond()
        left = await self._send(
            *("accuse", address(host), batch, proof.index, list(proof.path), receipt),
            astuple(trunk),
            *place,
        )
        opened = [event for event in left if event.kind == "DisputeOpened"]
        if not opened:
            raise ChainError("disputes.accuse left no event")
        return int(opened[0].data["number"])

    async def answer(self, number: int, roots: Sequence[bytes]) -> None:
        await self._send("answer", number, list(roots))

    async def ask(self, number: int, claim: Claim, asked: Asked) -> None:
        await self._send("ask", number, astuple(claim), *astuple(asked))

    async def show(
        self, number: int, claim: Claim, roots: Sequence[bytes], leaf: Leaf
    ) -> None:
        await self._send("show", number, astuple(claim), list(roots), astuple(leaf))

    async def split(
        self,
        number: int,
        claim: Claim,
        roots: Sequence[bytes],
        nodes: Sequence[bytes],
        path: Sequence[bytes],
    ) -> None:
        about = (number, astuple(claim), list(roots))
        await self._send("split", *about, list(nodes), list(path))

    async def prove(
        self,
        number: int,
        claim: Claim,
        roots: Sequence[bytes],
        proof: Proof | SaltProof,
    ) -> None:
        about = (number, astuple(claim), list(roots))
        if isinstance(proof, SaltProof):
            await self._send("proveSalt", *about, *astuple(proof))
        else:
            await self._send("prove", *about, astuple(proof))

    async def close(self, number: int) -> None:
        await self._send("close", number)

    async def standing(self, number: int) -> Standing:
        view = (await self._chain.discover())["disputes"].functions.disputeOf(number)
        row = await self._chain.link.read("disputes.disputeOf", view.call)
        return Standing(Turn(row[_TURN]), int(row[_DEADLINE]))

    async def _send(self, function: str, *arguments: Any) -> list[ChainEvent]:
        contracts = await self._chain.discover()
        return await self._chain.link.send(contracts, "disputes", function, *arguments)
