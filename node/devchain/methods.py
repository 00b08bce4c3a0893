"""The JSON-RPC methods, one function each, over one ledger and one lock."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from node.devchain import shapes
from node.devchain.kv import SqliteKV
from node.devchain.ledger import (
    FUND_WEI,
    TIP_WEI,
    DevchainError,
    Ledger,
    Mined,
    RevertError,
)
from node.devchain.shapes import JSON, RpcParamsError

PARSE_ERROR, INVALID_REQUEST = -32700, -32600
NO_METHOD, BAD_PARAMS, REFUSED, REVERTED = -32601, -32602, -32000, 3
INTERNAL = -32603
BATCH_LIMIT = 200
LOGS_LIMIT = 20_000
MOVE_LIMIT_S = 10 * 365 * 86_400


class Methods:
    """Answers one parsed JSON-RPC request at a time."""

    def __init__(
        self, ledger: Ledger, kv: SqliteKV, *, time_travel: bool = False
    ) -> None:
        self._ledger, self._kv = ledger, kv
        self._lock = threading.Lock()
        constant: Mapping[str, Any] = {
            "eth_chainId": hex(ledger.chain_id),
            "net_version": str(ledger.chain_id),
            "web3_clientVersion": "rexis-devchain/1",
            "eth_maxPriorityFeePerGas": hex(TIP_WEI),
            "eth_syncing": False,
            "eth_accounts": [],
        }
        self._methods: dict[str, Callable[..., Any]] = {
            "eth_blockNumber": lambda: hex(ledger.height()),
            "eth_gasPrice": lambda: hex(ledger.gas_price()),
            "eth_getBlockByNumber": self._block_by_number,
            "eth_getBlockByHash": self._block_by_hash,
            "eth_getTransactionReceipt": self._receipt,
            "eth_getTransactionCount": self._nonce,
            "eth_getBalance": self._balance,
            "eth_getCode": self._code,
            "eth_call": self._call,
            "eth_estimateGas": self._estimate,
            "eth_sendRawTransaction": self._send,
            "eth_getLogs": self._logs,
            "dev_fund": self._fund,
        }
        if time_travel:
            self._methods["dev_move"] = self._move
        for name, value in constant.items():
            self._methods[name] = lambda value=value: value

    def answer(self, request: object) -> JSON | list[JSON]:
        """One request or a batch; never raises for what a client sent."""
        if isinstance(request, list):
            if not request or len(request) > BATCH_LIMIT:
                return error(None, INVALID_REQUEST, f"a batch has 1 to {BATCH_LIMIT}")
            return [self._one(each) for each in request]
        return self._one(request)

    def fund_if_empty(self, account: bytes) -> None:
        """What `--fund` does: accounts that own nothing get something."""
        with self._lock:
            if self._ledger.state(self._ledger.height()).get_balance(account) == 0:
                self._ledger.fund(account, FUND_WEI, self._file)

    def _one(self, request: object) -> JSON:
        if not isinstance(request, dict) or not isinstance(request.get("method"), str):
            return error(None, INVALID_REQUEST, "a request is an object with a method")
        ident, name = request.get("id"), request["method"]
        params = request.get("params", [])
        method = self._methods.get(name)
        if method is None:
            return error(ident, NO_METHOD, f"method {name:.80} is not known here")
        if not isinstance(params, list):
            return error(ident, BAD_PARAMS, "params is a list")
        try:
            with self._lock:
                result = method(*params)
        except RevertError as refused:
            return error(ident, REVERTED, str(refused), shapes.data(refused.data))
        except RpcParamsError as refused:
            return error(ident, BAD_PARAMS, str(refused))
        except DevchainError as refused:
            return error(ident, REFUSED, str(refused))
        except TypeError as refused:
            return error(ident, BAD_PARAMS, f"{name} does not take these: {refused}")
        except Exception as failed:
            # The outermost place: a client gets an answer whatever went wrong here.
            return error(ident, INTERNAL, f"{name} failed: {failed!r:.200}")
        return {"jsonrpc": "2.0", "id": ident, "result": result}

    def _number(self, tag: object) -> int:
        if tag == "earliest":
            return 0
        if tag in {"latest", "pending", "safe", "finalized", None}:
            return self._ledger.height()
        return shapes.read_quantity(tag)

    def _block_by_number(self, tag: object, full: bool = False) -> JSON | None:
        if tag in {"latest", "pending", "safe", "finalized"}:
            self._ledger.head()
        found = self._ledger.block(self._number(tag))
        return None if found is None else shapes.block(found, full)

    def _block_by_hash(self, block_hash: object, full: bool = False) -> JSON | None:
        number = self._ledger.number_of(shapes.read_data(block_hash, 32))
        if number is None:
            return None
        return shapes.block(self._ledger.block(number), full)

    def _receipt(self, transaction: object) -> JSON | None:
        return self._kv.receipt(shapes.read_data(transaction, 32))

    def _account(self, account: object, tag: object) -> tuple[Any, bytes]:
        address = shapes.read_data(account, 20)
        return self._ledger.state(self._number(tag)), address

    def _nonce(self, account: object, tag: object = None) -> str:
        state, address = self._account(account, tag)
        return hex(state.get_nonce(address))

    def _balance(self, account: object, tag: object = None) -> str:
        state, address = self._account(account, tag)
        return hex(state.get_balance(address))

    def _code(self, account: object, tag: object = None) -> str:
        state, address = self._account(account, tag)
        return shapes.data(state.get_code(address))

    def _call(self, call: object, tag: object = None) -> str:
        number = self._number(tag)
        return shapes.data(self._ledger.call(shapes.read_call(call), number))

    def _estimate(self, call: object, tag: object = None) -> str:
        number = self._number(tag)
        return hex(self._ledger.estimate(shapes.read_call(call), number))

    def _send(self, raw: object) -> str:
        return shapes.data(self._ledger.send(shapes.read_data(raw), self._file))

    def _fund(self, account: object, wei: object = None) -> str:
        amount = FUND_WEI if wei is None else shapes.read_quantity(wei)
        to = shapes.read_data(account, 20)
        return shapes.data(self._ledger.fund(to, amount, self._file))

    def _move(self, seconds: object) -> str:
        """Make a block that many seconds after the newest."""
        ahead = shapes.read_quantity(seconds)
        if ahead > MOVE_LIMIT_S:
            raise RpcParamsError(f"{ahead} seconds, the limit is {MOVE_LIMIT_S}")
        return hex(self._ledger.move(ahead).timestamp)

    def _file(self, mined: Mined) -> None:
        self._kv.add_receipt(bytes(mined.transaction.hash), shapes.receipt(mined))

    def _logs(self, wanted: object) -> list[JSON]:
        if not isinstance(wanted, dict):
            raise RpcParamsError("a log filter is an object")
        if "blockHash" in wanted:
            number = self._ledger.number_of(shapes.read_data(wanted["blockHash"], 32))
            if number is None:
                raise DevchainError("block of the filter not found")
            first = last = number
        else:
            first = self._number(wanted.get("fromBlock"))
            last = self._number(wanted.get("toBlock"))
        topics = wanted.get("topics") or []
        if not isinstance(topics, list):
            raise RpcParamsError("topics is a list")
        addresses = _addresses(wanted.get("address"))
        top = min(last, self._ledger.height())
        logs = self._kv.logs(first, top, addresses) if first <= top else []
        found = [log for log in logs if shapes.matches(log, topics)]
        if len(found) > LOGS_LIMIT:
            raise DevchainError(f"{len(found)} logs found, the limit is {LOGS_LIMIT}")
        return found


def _addresses(value: object) -> list[str]:
    if value is None:
        return []
    each = value if isinstance(value, list) else [value]
    return [shapes.data(shapes.read_data(one, 20)) for one in each]


def error(ident: object, code: int, message: str, data: str | None = None) -> JSON:
    """A JSON-RPC error answer."""
    body: JSON = {"code": code, "message": message}
    if data is not None:
        body["data"] = data
    return {"jsonrpc": "2.0", "id": ident, "error": body}
