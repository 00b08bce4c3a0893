"""Blocks, state and calls on py-evm, and nothing of JSON.

One transaction is one block, made at once.  The ledger's faucet is an account whose key
anybody can compute: this chain is for development and holds nothing of value.  When the
newest block is older than `HEARTBEAT_S`, asking for it makes an empty one, so that time
passes for grants on a chain that nobody writes to.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from eth import constants
from eth.abc import BlockHeaderAPI, ComputationAPI
from eth.chains.base import MiningChain
from eth.db.atomic import AtomicDB
from eth.estimators.gas import binary_gas_search_1000_tolerance
from eth.exceptions import HeaderNotFound, PyEVMError
from eth.vm.forks import PragueVM
from eth.vm.spoof import SpoofTransaction
from eth_keys import keys
from eth_utils import ValidationError
from rlp.exceptions import RLPException

from node.devchain.kv import SqliteKV
from node.errors import ConfigError, NodeError

GAS_LIMIT = 30_000_000
FUND_WEI = 1_000 * 10**18
HEARTBEAT_S = 5
CALL_STIPEND = 2_300
TIP_WEI = 10**9
_FAUCET_WEI = 10**30
_HEAD_KEY = b"v1:canonical_head_hash"
_CHAIN_ID_KEY = b"rexis:chain-id"


class DevchainError(NodeError):
    """The chain refuses a transaction, a call or a question."""

    code = 510


class RevertError(DevchainError):
    """A contract reverted; `data` is what it said."""

    code = 511

    def __init__(self, data: bytes) -> None:
        super().__init__("execution reverted")
        self.data = data


@dataclass(frozen=True)
class Call:
    """What eth_call and eth_estimateGas ask for."""

    sender: bytes
    to: bytes
    data: bytes
    value: int
    gas: int


@dataclass(frozen=True)
class Mined:
    """One transaction in its block."""

    transaction: Any
    header: BlockHeaderAPI
    receipt: Any
    created: bytes | None


def _chain_class(chain_id: int) -> type[MiningChain]:
    class Devchain(MiningChain):
        vm_configuration = ((0, PragueVM),)

        def create_header_from_parent(
            self, parent_header: BlockHeaderAPI, **params: Any
        ) -> BlockHeaderAPI:
            params["gas_limit"] = parent_header.gas_limit
            return super().create_header_from_parent(parent_header, **params)

    Devchain.chain_id = chain_id
    return Devchain


class Ledger:
    """The chain; callers hold one lock around every method."""

    def __init__(
        self,
        kv: SqliteKV,
        chain_id: int,
        clock: Callable[[], int] = lambda: int(time.time()),
    ) -> None:
        self._kv, self._clock, self.chain_id = kv, clock, chain_id
        self._class = _chain_class(chain_id)
        self._faucet = keys.PrivateKey(
            sha256(b"rexis devchain faucet %d" % chain_id).digest()
        )
        if kv.exists(_HEAD_KEY):
            found = int(kv[_CHAIN_ID_KEY])
            if found != chain_id:
                raise ConfigError(
                    f"the database holds chain {found}, asked for {chain_id}",
                    hint="give --chain-id as before, or another --db",
                )
        else:
            with kv.block():
                self._make_genesis()
        self._chain = self._class(AtomicDB(kv))

    def _make_genesis(self) -> None:
        account = {"balance": _FAUCET_WEI, "nonce": 0, "code": b"", "storage": {}}
        header = {
            "coinbase": constants.ZERO_ADDRESS,
            "difficulty": 0,
            "extra_data": b"rexis devchain",
            "gas_limit": GAS_LIMIT,
            "mix_hash": constants.ZERO_HASH32,
            "nonce": bytes(8),
            "receipt_root": constants.BLANK_ROOT_HASH,
            "transaction_root": constants.BLANK_ROOT_HASH,
            "timestamp": self._clock(),
        }
        state = {self._faucet.public_key.to_canonical_address(): account}
        self._class.from_genesis(AtomicDB(self._kv), header, state)
        self._kv[_CHAIN_ID_KEY] = b"%d" % self.chain_id

    def head(self) -> BlockHeaderAPI:
        """The newest block; a fresh empty one when that is old."""
        header = self._chain.get_canonical_head()
        if self._clock() - header.timestamp < HEARTBEAT_S:
            return header
        with self._making_block():
            return self._mine()

    def move(self, seconds: int) -> BlockHeaderAPI:
        """An empty block `seconds` after the newest; what follows is later still."""
        with self._making_block():
            ahead = max(1, seconds)
            parent = self._chain.get_canonical_head()
            self._chain.set_header_timestamp(parent.timestamp + ahead)
            return self._mine(timed=True)

    def height(self) -> int:
        return int(self._chain.get_canonical_head().block_number)

    def block(self, number: int) -> Any:
        """The block, or None."""
        try:
            return self._chain.get_canonical_block_by_number(number)
        except HeaderNotFound:
            return None

    def number_of(self, block_hash: bytes) -> int | None:
        """The number of the block with this hash, or None."""
        try:
            return int(self._chain.get_block_header_by_hash(block_hash).block_number)
        except HeaderNotFound:
            return None

    def sender(self, transaction: Any) -> bytes:
        return bytes(transaction.sender)

    def send(self, raw: bytes, file: Callable[[Mined], None]) -> bytes:
        """Put one signed transaction into a block of its own; `file` indexes it."""
        builder = self._chain.get_vm().get_transaction_builder()
        try:
            transaction = builder.decode(raw)
            transaction.validate()
            sender = transaction.sender
        except (RLPException, ValidationError, PyEVMError, ValueError) as error:
            raise DevchainError(f"transaction cannot be read: {error}") from error
        # py-evm does not look; without this a transaction meant for another chain,
        # which anybody may copy from there, would count here.
        if transaction.chain_id != self.chain_id:
            raise DevchainError(
                f"transaction is for chain id {transaction.chain_id},"
                f" this chain is {self.chain_id}"
            )
        expected = self.state(self.height()).get_nonce(sender)
        if transaction.nonce != expected:
            low = "low" if transaction.nonce < expected else "high"
            raise DevchainError(
                f"nonce too {low}: next nonce {expected}, tx nonce {transaction.nonce}"
            )
        self._apply(transaction, file)
        return bytes(transaction.hash)

    def fund(self, account: bytes, wei: int, file: Callable[[Mined], None]) -> bytes:
        """Send `wei` from the faucet."""
        address = self._faucet.public_key.to_canonical_address()
        base = self._chain.header.base_fee_per_gas or 0
        builder = self._chain.get_vm().get_transaction_builder()
        unsigned = builder.new_unsigned_dynamic_fee_transaction(
            chain_id=self.chain_id,
            nonce=self.state(self.height()).get_nonce(address),
            max_priority_fee_per_gas=TIP_WEI,
            max_fee_per_gas=2 * base + TIP_WEI,
            gas=100_000,
            to=account,
            value=wei,
            data=b"",
            access_list=[],
        )
        transaction = unsigned.as_signed_transaction(self._faucet)
        self._apply(transaction, file)
        return bytes(transaction.hash)

    def state(self, number: int) -> Any:
        """The accounts after block `number`."""
        block = self.block(number)
        if block is None:
            raise DevchainError(
                f"block {number} not found, the head is {self.height()}"
            )
        return self._chain.get_vm(
            self._chain.create_header_from_parent(block.header)
        ).state

    def call(self, call: Call, number: int) -> bytes:
        """Run a call after block `number` and forget what it changed."""
        return bytes(self._run(call, number).output)

    def estimate(self, call: Call, number: int) -> int:
        """Gas with which the call succeeds, found by trying."""
        used = self._run(call, number).get_gas_used()  # a revert speaks here
        state, spoof = self._prepare(call, number)
        # A search takes 16 runs; nearly always the gas used is enough once it holds what
        # calls keep back (EIP-150: a 64th, and the stipend), which one run shows.
        guess = (spoof.intrinsic_gas + used + CALL_STIPEND) * 64 // 63
        if guess < call.gas and self._succeeds(replace(call, gas=guess), number):
            return int(guess)
        return int(binary_gas_search_1000_tolerance(state, spoof))

    def _succeeds(self, call: Call, number: int) -> bool:
        try:
            self._run(call, number)
        except DevchainError:
            return False
        return True

    def gas_price(self) -> int:
        return int(self._chain.header.base_fee_per_gas or 0) + TIP_WEI

    def _prepare(self, call: Call, number: int) -> tuple[Any, Any]:
        block = self.block(number)
        if block is None:
            raise DevchainError(
                f"block {number} not found, the head is {self.height()}"
            )
        header = self._chain.create_header_from_parent(block.header)
        newest = number == self.height()
        now = max(self._clock(), header.timestamp) if newest else header.timestamp
        vm = self._chain.get_vm(header.copy(base_fee_per_gas=0, timestamp=now))
        unsigned = vm.create_unsigned_transaction(
            nonce=vm.state.get_nonce(call.sender),
            gas_price=0,
            gas=call.gas,
            to=call.to,
            value=call.value,
            data=call.data,
        )
        return vm.state, SpoofTransaction(unsigned, from_=call.sender)

    def _run(self, call: Call, number: int) -> ComputationAPI:
        state, spoof = self._prepare(call, number)
        snapshot = state.snapshot()
        try:
            computation = state.costless_execute_transaction(spoof)
        except (ValidationError, PyEVMError) as error:
            raise DevchainError(f"call refused: {error}") from error
        finally:
            state.revert(snapshot)
        if computation.is_error:
            if computation.output or type(computation.error).__name__ == "Revert":
                raise RevertError(bytes(computation.output))
            raise DevchainError(f"execution failed: {computation.error!r}")
        return computation

    def _apply(self, transaction: Any, file: Callable[[Mined], None]) -> None:
        with self._making_block():
            try:
                self._set_time()
                _, receipt, computation = self._chain.apply_transaction(transaction)
            except (ValidationError, PyEVMError) as error:
                raise DevchainError(_plain(str(error))) from error
            header = self._mine(timed=True)
            created = None
            if transaction.to == b"" and not computation.is_error:
                created = bytes(computation.msg.storage_address)
            file(Mined(transaction, header, receipt, created))

    @contextmanager
    def _making_block(self) -> Iterator[None]:
        """A block is made whole, or the ledger is as before."""
        try:
            with self._kv.block():
                yield
        except BaseException:
            self._chain = self._class(AtomicDB(self._kv))  # forget what it cached
            raise

    def _set_time(self) -> None:
        parent = self._chain.get_canonical_head()
        self._chain.set_header_timestamp(max(self._clock(), parent.timestamp + 1))

    def _mine(self, *, timed: bool = False) -> BlockHeaderAPI:
        if not timed:
            self._set_time()
        number = self.height() + 1
        # Not random: the coins of a development chain need not be, and tests like them so.
        coin = sha256(b"rexis devchain coin %d" % number).digest()
        block = self._chain.mine_block(
            mix_hash=coin, blob_gas_used=0, coinbase=constants.ZERO_ADDRESS
        )
        return block.header


def _plain(message: str) -> str:
    """py-evm's words as clients know them."""
    if "balance" in message or "insufficient" in message.lower():
        return f"insufficient funds for gas * price + value: {message}"
    return f"transaction refused: {message}"
