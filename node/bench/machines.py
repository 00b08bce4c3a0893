"""Two EVMs inside this process: no network, no waiting.

`Revm` makes tens of thousands of calls a second, but its storage stays warm from call to call, so
what it says of gas is too low; `PyEvm` makes real blocks of signed transactions, and its gas is
the gas of a chain.
"""

import re
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from eth_account import Account
from pyrevm import EVM, BlockEnv

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


def _refusal(error: RuntimeError) -> Exception:
    found = _REVERT.match(str(error))
    if found is None:
        return AssertionError(f"the EVM stopped: {error}")
    return RefusedBytes(bytes.fromhex(found[1]))
