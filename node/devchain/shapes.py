"""JSON-RPC shapes: hex in, hex out.  Every malformed parameter is an `RpcParamsError`."""

from typing import Any

from node.devchain.ledger import GAS_LIMIT, Call, DevchainError, Mined

JSON = dict[str, Any]


class RpcParamsError(DevchainError):
    """A parameter is not what the method takes."""

    code = 512


def quantity(value: int) -> str:
    return hex(value)


def data(value: bytes) -> str:
    return "0x" + value.hex()


def read_quantity(value: object) -> int:
    try:
        if not isinstance(value, str) or not value.startswith("0x"):
            raise ValueError
        number = int(value, 16)
    except ValueError as error:
        raise RpcParamsError(f"{value!r:.80} is not a hex number") from error
    if number >= 1 << 256:
        raise RpcParamsError("a number does not fit in 256 bits")
    return number


def read_data(value: object, length: int | None = None) -> bytes:
    try:
        if not isinstance(value, str) or not value.startswith("0x"):
            raise ValueError
        found = bytes.fromhex(value[2:])
    except ValueError as error:
        raise RpcParamsError(f"{value!r:.80} is not hex data") from error
    if length is not None and len(found) != length:
        raise RpcParamsError(f"hex data has {len(found)} bytes, needs {length}")
    return found


def read_call(value: object) -> Call:
    if not isinstance(value, dict):
        raise RpcParamsError("a call is an object")
    body = value.get("input", value.get("data"))
    return Call(
        sender=read_data(value["from"], 20) if value.get("from") else bytes(20),
        to=read_data(value["to"], 20) if value.get("to") else b"",
        data=read_data(body) if body is not None else b"",
        value=read_quantity(value.get("value", "0x0")),
        gas=min(GAS_LIMIT, read_quantity(value.get("gas", hex(GAS_LIMIT)))),
    )


def block(found: Any, full_transactions: bool) -> JSON:
    """A block as eth_getBlockByNumber answers; transactions always by hash."""
    if full_transactions:
        raise RpcParamsError("this chain lists transactions by hash only")
    header = found.header
    return {
        "number": quantity(header.block_number),
        "hash": data(header.hash),
        "parentHash": data(header.parent_hash),
        "nonce": data(header.nonce),
        "sha3Uncles": data(header.uncles_hash),
        "logsBloom": data(header.bloom.to_bytes(256, "big")),
        "transactionsRoot": data(header.transaction_root),
        "stateRoot": data(header.state_root),
        "receiptsRoot": data(header.receipt_root),
        "miner": data(header.coinbase),
        "difficulty": "0x0",
        "totalDifficulty": "0x0",
        "extraData": data(header.extra_data),
        "size": "0x0",
        "gasLimit": quantity(header.gas_limit),
        "gasUsed": quantity(header.gas_used),
        "timestamp": quantity(header.timestamp),
        "mixHash": data(header.mix_hash),
        "baseFeePerGas": quantity(header.base_fee_per_gas or 0),
        "transactions": [data(one.hash) for one in found.transactions],
        "uncles": [],
    }


def receipt(mined: Mined) -> JSON:
    """A receipt as eth_getTransactionReceipt answers; one transaction per block."""
    header, transaction = mined.header, mined.transaction
    where = {
        "blockNumber": quantity(header.block_number),
        "blockHash": data(header.hash),
        "transactionHash": data(transaction.hash),
        "transactionIndex": "0x0",
    }
    logs = [
        {
            **where,
            "address": data(log.address),
            "topics": [data(topic.to_bytes(32, "big")) for topic in log.topics],
            "data": data(log.data),
            "logIndex": quantity(index),
            "removed": False,
        }
        for index, log in enumerate(mined.receipt.logs)
    ]
    tip = min(
        transaction.max_priority_fee_per_gas,
        transaction.max_fee_per_gas - header.base_fee_per_gas,
    )
    return {
        **where,
        "from": data(transaction.sender),
        "to": data(transaction.to) if transaction.to else None,
        "contractAddress": data(mined.created) if mined.created else None,
        "cumulativeGasUsed": quantity(mined.receipt.gas_used),
        "gasUsed": quantity(mined.receipt.gas_used),
        "effectiveGasPrice": quantity(header.base_fee_per_gas + tip),
        "logs": logs,
        "logsBloom": data(mined.receipt.bloom.to_bytes(256, "big")),
        "status": "0x1" if mined.receipt.state_root == b"\x01" else "0x0",
        "type": quantity(getattr(transaction, "type_id", None) or 0),
    }


def matches(log: JSON, topics: list[Any]) -> bool:
    """The filter rule: null is any, a list is any of, a missing tail is any."""
    found = log["topics"]
    if len(topics) > len(found):
        return all(one is None for one in topics[len(found) :]) and matches(
            log, topics[: len(found)]
        )
    for wanted, has in zip(topics, found, strict=False):
        choices = wanted if isinstance(wanted, list) else [wanted]
        if wanted is not None and choices and has not in choices:
            return False
    return True
