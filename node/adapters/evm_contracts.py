"""The contracts as data: artifacts, names of errors, logs as events.

Artifacts are compiled from `contracts/src` and committed (docs/chain.md); nothing here
speaks to a chain, except `deploy`, which an operator calls once per federation.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from importlib import resources
from typing import Any, TypeVar

import requests
from eth_abi.abi import decode as abi_decode
from eth_abi.exceptions import DecodingError
from eth_account import Account
from eth_utils.abi import event_abi_to_log_topic, function_abi_to_4byte_selector
from web3 import Web3
from web3.exceptions import (
    BadResponseFormat,
    ContractLogicError,
    LogTopicError,
    MismatchedABI,
    Web3Exception,
    Web3RPCError,
)
from web3.middleware import ExtraDataToPOAMiddleware
from web3.providers.rpc.utils import (
    REQUEST_RETRY_ALLOWLIST,
    ExceptionRetryConfiguration,
)

from node.adapters.chain_errors import refused
from node.adapters.deployment import ARTIFACTS, Settings, plan
from node.errors import ChainDownError, ChainError, ContractRefusedError
from node.ports.chain import ChainEvent

# The ones an operator configures; the others are found from them.
NAMES = ("registry", "datasets", "anchors")

# Inherited logs (Transfer, OwnershipTransferred, …) say nothing that these do not.
EVENTS = frozenset(
    {
        *("MemberSet", "KeysRotated"),
        *("DatasetListed", "DatasetVersion", "TermsChanged", "CommitteeChanged"),
        *("UnitsWithdrawn", "DatasetWithdrawn"),
        *("AccessGranted", "AccessRevoked"),
        *("ModelAnchored", "RoundAnchored", "ReceiptsAnchored"),
        *("AccessRequested", "RequestApproved", "RequestDisputed", "RequestClosed"),
        *("CaseOpened", "ReceiptChallenged", "Voted", "CaseClosed"),
        *("DisputeOpened", "DisputeAnswered", "DisputeClosed"),
        *("PartAsked", "NodesShown", "LeafShown"),
        "Proposed",
    }
)

REQUEST_TIMEOUT_S = 10
DEPLOY_TIMEOUT_S = 180
READ_TRIES = 2

_SHOWN_CHARS = 300

Result = TypeVar("Result")


@cache
def artifact(name: str) -> Mapping[str, Any]:
    """The compiled contract called `registry`, `datasets`, … (`deployment.ARTIFACTS`)."""
    file = {**ARTIFACTS, "coin": "DevCoin", "committee": "Committee"}[name]
    path = resources.files("node.adapters") / "artifacts" / f"{file}.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def connect(url: str) -> Web3:
    """A client that neither follows contracts to the web nor minds proof of authority."""
    provider = Web3.HTTPProvider(
        url,
        request_kwargs={"timeout": REQUEST_TIMEOUT_S},
        # By default web3 repeats for a minute, and repeats sends too, whose second
        # answer ("already known") then hides that the first arrived.
        exception_retry_configuration=ExceptionRetryConfiguration(
            errors=(requests.ConnectionError,),
            retries=READ_TRIES,
            method_allowlist=[
                name
                for name in REQUEST_RETRY_ALLOWLIST
                if name != "eth_sendRawTransaction"
            ],
        ),
    )
    web3 = Web3(provider)
    # web3 would let a contract name URLs for this node to fetch (EIP-3668).
    web3.provider.global_ccip_read_enabled = False
    web3.middleware_onion.inject(ExtraDataToPOAMiddleware, layer=0)
    return web3


def contract(web3: Web3, name: str, address: str) -> Any:
    """The contract at an address."""
    if not re.fullmatch(r"0x[0-9a-fA-F]{40}", address):
        raise ChainError(
            f"address of {name} is {address!r:.80}, not 0x and 40 hex digits",
            hint="copy the addresses that `rexis chain deploy` printed",
        )
    checksummed = Web3.to_checksum_address(address.lower())
    return web3.eth.contract(address=checksummed, abi=artifact(name)["abi"])


def is_ours(name: str, code: bytes) -> bool:
    """Whether deployed code is the artifact's, apart from what its constructor fills in."""
    compiled = artifact(name)
    ours = bytes.fromhex(compiled["runtime"][2:])
    if len(code) != len(ours):
        return False
    masked = bytearray(code)
    for start, length in compiled["immutables"]:
        masked[start : start + length] = bytes(length)
    return bytes(masked) == ours


@cache
def event_topics() -> Mapping[bytes, str]:
    """Topic 0 to the event's name, for the events we follow."""
    return {
        event_abi_to_log_topic(item): item["name"]
        for name in ARTIFACTS
        for item in artifact(name)["abi"]
        if item["type"] == "event" and item["name"] in EVENTS
    }


def events(contracts: Iterable[Any], logs: Iterable[Any]) -> list[ChainEvent]:
    """Our events among logs, in chain order."""
    by_address = {one.address: one for one in contracts}
    found = []
    for log in logs:
        kind = event_topics().get(bytes(log["topics"][0])) if log["topics"] else None
        owner = by_address.get(log["address"])
        if kind is None or owner is None:
            continue
        try:
            entry = owner.events[kind]().process_log(log)
        except (LogTopicError, MismatchedABI, DecodingError, ValueError) as error:
            raise ChainError(f"log {kind} cannot be read: {error}") from error
        data = {key: _plain(value) for key, value in _flat(entry["args"])}
        found.append(ChainEvent(log["blockNumber"], log["logIndex"], kind, data))
    return sorted(found, key=lambda event: (event.block, event.index))


def _flat(arguments: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """A struct's fields stand beside the event's own."""
    for key, value in arguments.items():
        if isinstance(value, Mapping):
            yield from value.items()
        else:
            yield key, value


def _plain(value: Any) -> Any:
    """Addresses and bytes32 as bytes; the names of members stay text."""
    if isinstance(value, str) and Web3.is_checksum_address(value):
        return bytes.fromhex(value[2:])
    return bytes(value) if isinstance(value, bytes) else value


@cache
def _errors() -> Mapping[bytes, Mapping[str, Any]]:
    return {
        function_abi_to_4byte_selector(item): item
        for name in (*ARTIFACTS, "coin")
        for item in artifact(name)["abi"]
        if item["type"] == "error"
    }


def refusal(doing: str, data: bytes) -> ContractRefusedError:
    """What a revert's data says, by the custom error's name."""
    item = _errors().get(data[:4])
    if item is None:
        shown = f"0x{data.hex()}"[:_SHOWN_CHARS] if data else "without a reason"
        return ContractRefusedError("", f"{doing} reverted {shown}")
    inputs = item["inputs"]
    try:
        values = abi_decode([one["type"] for one in inputs], data[4:])
    except DecodingError:
        return refused(doing, item["name"])
    return refused(
        doing,
        item["name"],
        **{one["name"]: value for one, value in zip(inputs, values, strict=True)},
    )


def guarded(doing: str, ask: Callable[[], Result]) -> Result:
    """Run a web3 call; whatever it raises becomes a `ChainError`."""
    try:
        return ask()
    except ContractLogicError as error:
        raise refusal(doing, _revert_data(error)) from error
    except (
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
    ) as error:
        raise ChainDownError(
            f"{doing}: the chain does not answer",
            hint="check chain.url, and that the chain's node runs",
        ) from error
    except requests.HTTPError as error:
        raise _http_refusal(doing, error) from error
    except (json.JSONDecodeError, UnicodeDecodeError, BadResponseFormat) as error:
        raise ChainError(
            f"{doing}: the answer is not JSON-RPC",
            hint="check that chain.url is an Ethereum JSON-RPC address",
        ) from error
    except Web3RPCError as error:
        raise ChainError(
            f"{doing}: {_rpc_message(error)}", hint=_rpc_hint(_rpc_message(error))
        ) from error
    except (Web3Exception, requests.RequestException) as error:
        raise ChainError(f"{doing}: {str(error)[:_SHOWN_CHARS]}") from error
    except (ValueError, TypeError, OverflowError) as error:
        raise ChainError(
            f"{doing}: cannot be encoded or decoded: {str(error)[:_SHOWN_CHARS]}",
            hint="check the values, and that chain.url is an Ethereum JSON-RPC address",
        ) from error


def _http_refusal(doing: str, error: requests.HTTPError) -> ChainError:
    """Providers answer 429 and 5xx when they are busy or restarting."""
    status = error.response.status_code if error.response is not None else 0
    message = f"{doing}: the chain's server answered HTTP {status}"
    if status == 429 or status >= 500:
        return ChainDownError(message, hint="the server is busy or restarting")
    return ChainError(message, hint="check chain.url, and the access it needs")


def _revert_data(error: ContractLogicError) -> bytes:
    data = error.data
    if not isinstance(data, str) or not data.startswith("0x"):
        return b""
    try:
        return bytes.fromhex(data[2:])
    except ValueError:
        return b""


def _rpc_message(error: Web3RPCError) -> str:
    response = error.rpc_response or {}
    body = response.get("error", {})
    message = body.get("message", "") if isinstance(body, dict) else str(body)
    return str(message or error)[:_SHOWN_CHARS]


def _rpc_hint(message: str) -> str:
    if "insufficient funds" in message:
        return "send this node's account some of the chain's currency"
    return ""


def account_address(key: bytes) -> bytes:
    """The 20-byte account of a 32-byte secp256k1 key."""
    try:
        return bytes.fromhex(Account.from_key(key).address[2:])
    except ValueError as error:
        raise ChainError("the account key is not a secp256k1 secret") from error
    except Exception as error:  # eth_keys has its own root
        raise ChainError(f"the account key has {len(key)} bytes, needs 32") from error


def fees(web3: Web3) -> dict[str, int]:
    """EIP-1559 prices that survive six full blocks."""
    base = int(web3.eth.get_block("latest").get("baseFeePerGas", 0))
    tip = int(web3.eth.max_priority_fee)
    return {"maxFeePerGas": 2 * base + tip, "maxPriorityFeePerGas": tip}


def deploy(
    url: str, chain_id: int, deployer_key: bytes, settings: Settings | None = None
) -> dict[str, str]:
    """Put the contracts on a chain; the deployer owns the registry, members the rest.

    Returns the addresses that go into `chain.contracts`.
    """
    web3 = connect(url)
    found = guarded("asking the chain id", lambda: web3.eth.chain_id)
    if found != chain_id:
        raise ChainError(f"chain id is {found}, expected {chain_id}")
    account = Account.from_key(deployer_key)
    nonce = guarded(
        "asking the nonce",
        lambda: web3.eth.get_transaction_count(account.address, "pending"),
    )
    steps = plan(account.address.lower(), nonce, settings or Settings())
    for offset, (name, expected, arguments) in enumerate(steps):
        doing = f"deploying {name}"
        told = [checksummed(one) for one in arguments]
        at = guarded(
            doing, partial(deploy_one, web3, account, nonce + offset, name, told)
        )
        if at.lower() != expected:
            raise ChainError(
                f"{doing}: it stands at {at}, expected {expected}",
                hint="use the deployer's key for nothing else meanwhile, and start again",
            )
    addresses = {name: Web3.to_checksum_address(at) for name, at, _ in steps}
    return {name: addresses[name] for name in NAMES}


def checksummed(argument: Any) -> Any:
    """An address as web3 wants it, anything else as it is."""
    text = isinstance(argument, str) and argument.startswith("0x")
    return Web3.to_checksum_address(argument) if text else argument


def deploy_one(
    web3: Web3, account: Any, nonce: int, name: str, arguments: list[Any]
) -> str:
    """Put one contract on a chain; its address."""
    compiled = artifact(name)
    factory = web3.eth.contract(abi=compiled["abi"], bytecode=compiled["bytecode"])
    transaction = factory.constructor(*arguments).build_transaction(
        {
            "from": account.address,
            "nonce": nonce,
            "chainId": web3.eth.chain_id,
            **fees(web3),
        }
    )
    signed = account.sign_transaction(transaction)
    digest = web3.eth.send_raw_transaction(signed.raw_transaction)
    receipt = web3.eth.wait_for_transaction_receipt(
        digest, DEPLOY_TIMEOUT_S, poll_latency=0.05
    )
    if receipt["status"] != 1:
        raise ChainError(f"deploying {name} reverted")
    return str(receipt["contractAddress"])
