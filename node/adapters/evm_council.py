"""The council's motions about the market's parameters, beside an `EvmChain`."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from node.adapters import evm_contracts
from node.adapters.evm_chain import EvmChain
from node.adapters.evm_contracts import guarded
from node.adapters.evm_rows import address
from node.errors import ChainError, ContractRefusedError
from node.ports.chain import ChainEvent
from node.ports.market import Motion
from protocol.types import digest

# `Parameters.Values` in its order, under the names of `node.ports.market.Rules`.
FIELDS = (
    *("answer_s", "dispute_s", "challenge_s", "vote_s", "unbonding_s"),
    *("quorum", "open_requests", "bond"),
)
_NAMES = {
    "answerWindow": "answer_s",
    "disputeWindow": "dispute_s",
    "challengeWindow": "challenge_s",
    "voteWindow": "vote_s",
    "unbonding": "unbonding_s",
    "quorum": "quorum",
    "openRequests": "open_requests",
}
"""As `OutOfBounds` says it."""


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
        call = ("setToken", [address(token), accepted])
        await self._would_do(*call)
        return await self._propose(*call)

    async def propose_rules(self, **changes: int) -> int:
        """Refused here if no vote could pass them: the contract's bounds, under our names."""
        parameters = (await self._chain.discover())["parameters"]
        values = await self._link.read(
            "parameters.values", parameters.functions.values().call
        )
        known = dict(zip(FIELDS, values, strict=True))
        if wrong := sorted(set(changes) - set(known)):
            raise ChainError(f"{wrong[0]!r} is no parameter", hint=", ".join(FIELDS))
        wanted = {**known, **changes}
        largest = _largest(parameters)
        # What its type does not hold is out of the contract's bounds too, which name the limit.
        held = [min(wanted[name], largest[name]) for name in FIELDS]
        try:
            await self._would_do("set", [tuple(held)])
        except ContractRefusedError as error:
            raise _out_of_bounds(error, wanted) from None
        for name in FIELDS:
            if wanted[name] > largest[name]:
                raise ChainError(f"{name} is {wanted[name]}, limit is {largest[name]}")
        return await self._propose("set", [tuple(wanted.values())])

    async def vote(self, motion: int) -> None:
        await self._send("vote", motion)

    async def execute(self, motion: int) -> None:
        await self._send("execute", motion, (await self._proposed(motion))["call"])

    async def _would_do(self, function: str, arguments: list[Any]) -> None:
        """Ask the contract whether it would take this from the council.

        The council takes any call as a motion, and what it calls refuses only when the
        members have voted, waited out the delay and paid for all of it.
        """
        doing = f"parameters.{function}"
        parameters = (await self._chain.discover())["parameters"]
        sender = {"from": (await self._council()).address}
        call = guarded(doing, lambda: parameters.functions[function](*arguments))
        await self._link.read(doing, partial(call.call, sender))

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


def _largest(parameters: Any) -> dict[str, int]:
    """What the contract's type of each parameter can hold."""
    (values,) = parameters.functions.set.abi["inputs"]
    types = [one["type"].removeprefix("uint") for one in values["components"]]
    return {n: 2 ** int(bits) - 1 for n, bits in zip(FIELDS, types, strict=True)}


def _out_of_bounds(
    error: ContractRefusedError, wanted: Mapping[str, int]
) -> ChainError:
    """The contract's refusal under the names that were given, with the value and its bounds."""
    name = _NAMES.get(str(error.values.get("name")))
    if error.name != "OutOfBounds" or name is None:
        return error
    lowest, highest = error.values["lowest"], error.values["highest"]
    return ContractRefusedError(
        error.name,
        f"{name} is {wanted[name]}, it may be {lowest} to {highest}",
        hint="unbonding_s is at least challenge_s and vote_s together"
        if name == "unbonding_s"
        else "no vote passes these bounds",
        values=error.values,
    )
