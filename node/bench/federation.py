"""The contracts of one federation in an EVM inside this process.

For measuring gas and for tests that try what contracts must refuse.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eth_utils.abi import get_abi_input_types

from node.adapters.deployment import ARTIFACTS, Settings, plan
from node.bench.abi import Abi, compiled, decode, encode
from node.bench.machines import Log, Machine, RefusedBytes


class Reverted(Exception):  # noqa: N818 - what a contract is meant to do, not a fault of ours
    """A contract refused; `name` is its custom error."""

    def __init__(self, name: str, values: tuple[Any, ...]) -> None:
        super().__init__(f"{name}{values}")
        self.name, self.values = name, values


@dataclass(frozen=True)
class Event:
    """One log, decoded."""

    name: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Sent:
    """What a transaction left and cost."""

    events: tuple[Event, ...]
    gas: int


class Federation:
    """One deployment by `owner`; `replace` puts other code in the place of a contract."""

    def __init__(
        self,
        machine: Machine,
        owner: str,
        settings: Settings,
        *,
        replace: Mapping[str, Abi] | None = None,
    ) -> None:
        self.machine, self.owner = machine, owner
        self._abis: dict[str, Abi] = {}
        self.at: dict[str, str] = {}
        self.deployed: dict[str, int] = {}
        others = replace or {}
        steps = plan(owner, machine.nonce(owner), settings)
        for name, expected, arguments in steps:
            artifact = ARTIFACTS[name]
            code = others.get(artifact, compiled(artifact))
            assert self.deploy(name, code, *arguments) == expected

    def deploy(self, name: str, abi: Abi, *arguments: Any) -> str:
        """Another contract of the owner's, under a name of the caller's choice."""
        self._abis[name] = abi
        code = abi.bytecode + encode(abi.constructor, arguments)
        try:
            self.at[name], self.deployed[name] = self.machine.create(self.owner, code)
        except RefusedBytes as error:
            raise self._named(error.data) from None
        return self.at[name]

    def know(self, name: str, abi: Abi, address: str) -> None:
        """A contract that is there already."""
        self._abis[name], self.at[name] = abi, address

    def now(self) -> int:
        return self.machine.now()

    def move(self, seconds: int) -> None:
        """Let time pass."""
        self.machine.move(seconds)

    def send(self, sender: str, name: str, function: str, *arguments: Any) -> Sent:
        """A transaction; raises `Reverted` if a contract refuses."""
        data = self.encoded(name, function, *arguments)
        try:
            logs, gas = self.machine.execute(sender, self.at[name], data)
        except RefusedBytes as error:
            raise self._named(error.data) from None
        return Sent(tuple(self._event(log) for log in logs), gas)

    def call(self, name: str, function: str, *arguments: Any) -> Any:
        """The answer of a view; a single value as itself."""
        data = self.encoded(name, function, *arguments)
        try:
            output = self.machine.view(self.owner, self.at[name], data)
        except RefusedBytes as error:
            raise self._named(error.data) from None
        values = decode(self._abis[name].functions[function][2], output)
        return values[0] if len(values) == 1 else values

    def encoded(self, name: str, function: str, *arguments: Any) -> bytes:
        """The call as bytes, for contracts that pass it on."""
        selector, types, _ = self._abis[name].functions[function]
        return bytes(selector + encode(types, arguments))

    def _event(self, log: Log) -> Event:
        owner = next(name for name, at in self.at.items() if at == log.address)
        item = self._abis[owner].events[log.topics[0]]
        indexed = [one for one in item["inputs"] if one["indexed"]]
        plain = [one for one in item["inputs"] if not one["indexed"]]
        values = {
            one["name"]: decode([one["type"]], topic)[0]
            for one, topic in zip(indexed, log.topics[1:], strict=True)
        }
        types = get_abi_input_types({**item, "inputs": plain})
        found = decode(types, log.data)
        names = [one["name"] for one in plain]
        return Event(item["name"], {**values, **dict(zip(names, found, strict=True))})

    def _named(self, data: bytes) -> Reverted:
        for abi in self._abis.values():
            if data[:4] in abi.errors:
                name, types = abi.errors[data[:4]]
                return Reverted(name, decode(types, data[4:]))
        return Reverted("0x" + data.hex(), ())


def first(items: Sequence[Event], name: str) -> Mapping[str, Any]:
    """The fields of the first event of a name."""
    return next(event.data for event in items if event.name == name)
