"""The council's motions about the market's parameters, beside an `EvmChain`."""

from functools import partial
from typing import Any

from node.adapters import evm_contracts
from node.adapters.evm_chain import EvmChain
from node.adapters.evm_contracts import guarded
from node.adapters.evm_rows import address
from node.errors import ChainError
from node.ports import ChainEvent, Motion
from protocol.types import digest

# `Parameters.Values` in its order, under the names of `node.ports.Rules`.
FIELDS = (
    *("answer_s", "dispute_s", "challenge_s", "vote_s", "unbonding_s"),
    *("quorum", "open_requests", "bond"),
)


class EvmCouncil:
    """Through the account and the connection of `chain`."""

    def __init__(self, chain: EvmChain) -> None:
        self._chain, self._link = chain, chain.link
        self._contract: Any = None
        self._counted: tuple[bytes, list[Motion]] = (b"", [])
        self._texts: dict[int, str] = {}

    async def motions(self) -> list[Motion]:
        """As they stand in the block that this node takes as final, each of them.

        Of the newest block a vote may be gone again, and two reads of it may be of two blocks.
        """
        head = await self._link.head()
        known, counted = self._counted
        if known != head.digest:
            count = await self._view("count", at=head.number)
            counted = [await self._motion(one, head.number) for one in range(count)]
            self._counted = (head.digest, counted)
        return list(counted)

    async def propose_token(self, token: bytes, *, accepted: bool) -> int:
        return await self._propose("setToken", [address(token), accepted])

    async def propose_rules(self, **changes: int) -> int:
        parameters = (await self._chain.discover())["parameters"]
        values = await self._link.read(
            "parameters.values", parameters.functions.values().call
        )
        known = dict(zip(FIELDS, values, strict=True))
        if wrong := sorted(set(changes) - set(known)):
            raise ChainError(f"{wrong[0]!r} is no parameter", hint=", ".join(FIELDS))
        return await self._propose("set", [tuple({**known, **changes}.values())])

    async def vote(self, motion: int) -> None:
        await self._send("vote", motion)

    async def execute(self, motion: int) -> None:
        await self._send("execute", motion, (await self._proposed(motion))["call"])

    async def _propose(self, function: str, arguments: list[Any]) -> int:
        parameters = (await self._chain.discover())["parameters"]
        call = guarded(
            "council.propose", lambda: parameters.encode_abi(function, arguments)
        )
        left = await self._send(
            "propose", parameters.address, call, digest(call.encode())
        )
        # From the receipt, never counted beforehand: two members may propose in one block, and
        # who took the other's number would vote for what it did not ask for.
        (number,) = [one.data["proposal"] for one in left if one.kind == "Proposed"]
        return int(number)

    async def _motion(self, number: int, at: int) -> Motion:
        _, opened, ready, done, electorate, yes, _ = await self._view(
            "proposalOf", number, at=at
        )
        if number not in self._texts:
            self._texts[number] = await self._text(await self._proposed(number))
        return Motion(number, self._texts[number], yes, electorate, opened, ready, done)

    async def _text(self, proposed: Any) -> str:
        parameters = (await self._chain.discover())["parameters"]
        if proposed["target"] != parameters.address:
            return f"a call of {proposed['target']}"
        try:
            function, given = guarded(
                "reading a motion",
                partial(parameters.decode_function_input, proposed["call"]),
            )
        except ChainError:
            return "a call that the parameters do not know"
        if function.fn_name == "setToken":
            verb = "take" if given["accepted_"] else "take no longer"
            return f"{verb} token {given['token'].lower()} for prices"
        if function.fn_name == "set":
            values = given["values_"]
            rows = values.values() if isinstance(values, dict) else values
            pairs = zip(FIELDS, rows, strict=True)
            return ", ".join(f"{name} {value}" for name, value in pairs)
        return f"parameters.{function.fn_name}"

    async def _proposed(self, number: int) -> Any:
        event = (await self._council()).events.Proposed()
        found = await self._link.newest_log(event, [number])
        if found is None:
            raise ChainError(
                f"proposal {number} is not on the chain yet",
                hint="wait for the block that this node takes as final",
            )
        return found["args"]

    async def _council(self) -> Any:
        """Whoever owns the parameters now, if that is a council of ours."""
        if self._contract is None:
            owner = (await self._chain.discover())["parameters"].functions.owner()
            at = await self._link.read("parameters.owner", owner.call)
            await self._link.check_code("council", at)
            self._contract = evm_contracts.contract(self._link.web3, "council", at)
        return self._contract

    async def _view(self, function: str, *arguments: Any, at: int | str) -> Any:
        doing = f"council.{function}"
        view = (await self._council()).functions[function]
        call = guarded(doing, lambda: view(*arguments))
        return await self._link.read(doing, partial(call.call, block_identifier=at))

    async def _send(self, function: str, *arguments: Any) -> list[ChainEvent]:
        contracts = {"council": await self._council()}
        return await self._link.send(contracts, "council", function, *arguments)
