"""All contracts in an EVM inside this process: no network, no waiting.

For measuring gas and for tests that try what contracts must refuse.  Two machines run the same
committed bytecode.  `Revm` makes tens of thousands of calls a second, but its storage stays warm
from call to call, so what it says of gas is too low; `PyEvm` makes real blocks of signed
transactions, and its gas is the gas of a chain.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from eth_abi.abi import decode, encode
from eth_account import Account
from eth_utils.abi import (
    event_abi_to_log_topic,
    function_abi_to_4byte_selector,
    get_abi_input_types,
    get_abi_output_types,
)
from pyrevm import EVM, BlockEnv

from node.adapters.deployment import ARTIFACTS, Settings, plan
from node.devchain.kv import SqliteKV
from node.devchain.ledger import (
    FUND_WEI,
    GAS_LIMIT,
    Call,
    Ledger,
    Mined,
    RevertError,
)

START = 1_800_000_000
_REVERT = re.compile(r"^Revert \{ gas_used: \d+, output: 0x([0-9a-f]*) \}$")
_CHAIN_ID = 31337


def key_of(name: str) -> bytes:
    """The secret key of a test account."""
    return sha256(b"rexis bench " + name.encode()).digest()


@cache
def account(name: str) -> str:
    """The address of a test account, in lower case."""
    return str(Account.from_key(key_of(name)).address).lower()


class Reverted(Exception):  # noqa: N818 - what a contract is meant to do, not a fault of ours
    """A contract refused; `name` is its custom error."""

    def __init__(self, name: str, values: tuple[Any, ...]) -> None:
        super().__init__(f"{name}{values}")
        self.name, self.values = name, values


class RefusedBytes(Exception):  # noqa: N818 - as above
    """The bytes a call reverted with."""

    def __init__(self, data: bytes) -> None:
        super().__init__("0x" + data.hex())
        self.data = data


@dataclass(frozen=True)
class Log:
    address: str
    topics: tuple[bytes, ...]
    data: bytes


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


class Machine(Protocol):
    """An EVM; everything raises `RefusedBytes` for a revert."""

    def nonce(self, sender: str) -> int: ...

    def create(self, sender: str, code: bytes) -> tuple[str, int]:
        """The new contract's address, and the gas."""

    def execute(self, sender: str, to: str, data: bytes) -> tuple[list[Log], int]: ...

    def view(self, sender: str, to: str, data: bytes) -> bytes: ...

    def now(self) -> int:
        """The time that the next transaction sees, at the earliest."""

    def move(self, seconds: int) -> None:
        """Let time pass."""


class Revm:
    """In memory, and fast."""

    def __init__(self) -> None:
        self._evm = EVM(spec_id="PRAGUE")
        self._now = START
        self.move(0)

    def now(self) -> int:
        return self._now

    def move(self, seconds: int) -> None:
        self._now += seconds
        self._evm.set_block_env(BlockEnv(timestamp=self._now, number=1))

    def nonce(self, sender: str) -> int:
        return int(self._evm.basic(sender).nonce)

    def create(self, sender: str, code: bytes) -> tuple[str, int]:
        try:
            at = str(self._evm.deploy(sender, code)).lower()
        except RuntimeError as error:
            raise _refusal(error) from None
        return at, int(self._result().gas_used)

    def execute(self, sender: str, to: str, data: bytes) -> tuple[list[Log], int]:
        self._call(sender, to, data, static=False)
        result = self._result()
        logs = [
            Log(log.address.lower(), tuple(map(bytes, log.data[0])), bytes(log.data[1]))
            for log in result.logs
        ]
        return logs, int(result.gas_used)

    def view(self, sender: str, to: str, data: bytes) -> bytes:
        return self._call(sender, to, data, static=True)

    def _result(self) -> Any:
        assert self._evm.result is not None
        return self._evm.result

    def _call(self, sender: str, to: str, data: bytes, *, static: bool) -> bytes:
        try:
            return bytes(
                self._evm.message_call(sender, to, calldata=data, is_static=static)
            )
        except RuntimeError as error:
            raise _refusal(error) from None


class PyEvm:
    """The development chain's own ledger, for what things really cost."""

    def __init__(self, folder: Path) -> None:
        self._now = START
        self._kv = SqliteKV(folder / "chain.sqlite")
        self._ledger = Ledger(self._kv, _CHAIN_ID, clock=lambda: self._now)
        self._keys: dict[str, bytes] = {}

    def close(self) -> None:
        self._kv.close()

    def know(self, name: str) -> str:
        """Give a test account something to pay with; its address."""
        self._keys[account(name)] = key_of(name)
        to = bytes.fromhex(account(name)[2:])
        self._ledger.fund(to, FUND_WEI, lambda _: None)
        return account(name)

    def nonce(self, sender: str) -> int:
        state = self._ledger.state(self._ledger.height())
        return int(state.get_nonce(bytes.fromhex(sender[2:])))

    def create(self, sender: str, code: bytes) -> tuple[str, int]:
        mined = self._send(sender, b"", code)
        return "0x" + (mined.created or b"").hex(), int(mined.receipt.gas_used)

    def execute(self, sender: str, to: str, data: bytes) -> tuple[list[Log], int]:
        mined = self._send(sender, bytes.fromhex(to[2:]), data)
        logs = [
            Log(
                "0x" + log.address.hex(),
                tuple(topic.to_bytes(32, "big") for topic in log.topics),
                log.data,
            )
            for log in mined.receipt.logs
        ]
        return logs, int(mined.receipt.gas_used)

    def view(self, sender: str, to: str, data: bytes) -> bytes:
        return self._run(sender, bytes.fromhex(to[2:]), data)

    def now(self) -> int:
        # No two blocks have the same time.
        head = self._ledger.block(self._ledger.height()).header
        return max(self._now, int(head.timestamp) + 1)

    def move(self, seconds: int) -> None:
        self._now = self.now() + seconds

    def _send(self, sender: str, to: bytes, data: bytes) -> Mined:
        self._run(sender, to, data)  # a refusal speaks here
        signed = Account.from_key(self._keys[sender]).sign_transaction(
            {
                "chainId": _CHAIN_ID,
                "nonce": self.nonce(sender),
                "to": to,
                "value": 0,
                "data": data,
                "gas": GAS_LIMIT // 2,
                "maxFeePerGas": 10**10,
                "maxPriorityFeePerGas": 1,
            }
        )
        found: list[Mined] = []
        self._ledger.send(bytes(signed.raw_transaction), found.append)
        return found[0]

    def _run(self, sender: str, to: bytes, data: bytes) -> bytes:
        call = Call(bytes.fromhex(sender[2:]), to, data, 0, GAS_LIMIT)
        try:
            return self._ledger.call(call, self._ledger.height())
        except RevertError as error:
            raise RefusedBytes(error.data) from None


class Abi:
    """A compiled contract: its code and how to speak to it."""

    def __init__(self, artifact: Mapping[str, Any]) -> None:
        self.items: list[Mapping[str, Any]] = artifact["abi"]
        self.bytecode = bytes.fromhex(artifact["bytecode"][2:])

    @cached_property
    def functions(self) -> dict[str, tuple[bytes, list[str], list[str]]]:
        return {
            item["name"]: (
                function_abi_to_4byte_selector(item),
                get_abi_input_types(item),
                get_abi_output_types(item),
            )
            for item in self._of("function")
        }

    @cached_property
    def constructor(self) -> list[str]:
        return [
            t for item in self._of("constructor") for t in get_abi_input_types(item)
        ]

    @cached_property
    def errors(self) -> dict[bytes, tuple[str, list[str]]]:
        return {
            function_abi_to_4byte_selector(item): (
                item["name"],
                get_abi_input_types(item),
            )
            for item in self._of("error")
        }

    @cached_property
    def events(self) -> dict[bytes, Mapping[str, Any]]:
        return {event_abi_to_log_topic(item): item for item in self._of("event")}

    def _of(self, kind: str) -> list[Any]:
        return [item for item in self.items if item["type"] == kind]


@cache
def compiled(name: str) -> Abi:
    """The committed artifact of a contract, by its Solidity name."""
    path = resources.files("node.adapters") / "artifacts" / f"{name}.json"
    return Abi(json.loads(path.read_text()))


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


def _refusal(error: RuntimeError) -> Exception:
    found = _REVERT.match(str(error))
    if found is None:
        return AssertionError(f"the EVM stopped: {error}")
    return RefusedBytes(bytes.fromhex(found[1]))
