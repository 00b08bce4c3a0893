"""A compiled contract, and how to speak to it.

Most arguments and answers here are words of 32 bytes; those take a short way, because a test that
makes a hundred thousand calls would otherwise spend its time in a general codec.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from importlib import resources
from typing import Any

from eth_abi.abi import decode as slow_decode
from eth_abi.abi import encode as slow_encode
from eth_abi.grammar import TupleType, parse
from eth_utils.abi import (
    event_abi_to_log_topic,
    function_abi_to_4byte_selector,
    get_abi_input_types,
    get_abi_output_types,
)


class Abi:
    """A compiled contract: its code and how to speak to it."""

    def __init__(self, artifact: Mapping[str, Any]) -> None:
        self.items: list[Mapping[str, Any]] = artifact["abi"]
        self.bytecode = bytes.fromhex(artifact["bytecode"][2:])

    @cached_property
    def functions(self) -> dict[str, tuple[bytes, list[str], list[str]]]:
        # Of overloaded names the first is taken, which is the one without `bytes`.
        items = reversed(self._of("function"))
        return {
            item["name"]: (
                function_abi_to_4byte_selector(item),
                get_abi_input_types(item),
                get_abi_output_types(item),
            )
            for item in items
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


def encode(types: Sequence[str], values: Sequence[Any]) -> bytes:
    """ABI encoding of arguments."""
    leaves = _leaves(tuple(types))
    if leaves is None:
        return bytes(slow_encode(types, values))
    flat: list[Any] = []
    _flatten(values, flat)
    return b"".join(_word(leaf, one) for leaf, one in zip(leaves, flat, strict=True))


def decode(types: Sequence[str], data: bytes) -> tuple[Any, ...]:
    """What `encode` was given; structs are tuples, addresses lower-case text."""
    reader = _reader(tuple(types))
    if reader is None:
        return tuple(slow_decode(types, data))
    return reader(data)


@cache
def _leaves(types: tuple[str, ...]) -> tuple[str, ...] | None:
    """The words behind some types, or None if one has no fixed size."""
    found: list[str] = []
    for one in map(parse, types):
        if one.is_dynamic or one.arrlist:
            return None
        if isinstance(one, TupleType):
            inner = _leaves(tuple(part.to_type_str() for part in one.components))
            if inner is None:
                return None
            found += inner
        else:
            found.append(one.to_type_str())
    return tuple(found)


def _flatten(values: Sequence[Any], into: list[Any]) -> None:
    for value in values:
        if isinstance(value, tuple | list):
            _flatten(value, into)
        else:
            into.append(value)


def _word(leaf: str, value: Any) -> bytes:
    if leaf.startswith("bytes"):
        return bytes(value).ljust(32, b"\0")
    if leaf == "address":
        return bytes.fromhex(value[2:]).rjust(32, b"\0")
    return int(value).to_bytes(32, "big")


@cache
def _reader(types: tuple[str, ...]) -> Callable[[bytes], tuple[Any, ...]] | None:
    if _leaves(types) is None:
        return None
    parsed = [parse(one) for one in types]

    def read(data: bytes) -> tuple[Any, ...]:
        at = 0

        def take(kinds: Sequence[Any]) -> tuple[Any, ...]:
            nonlocal at
            values: list[Any] = []
            for kind in kinds:
                if isinstance(kind, TupleType):
                    values.append(take(kind.components))
                    continue
                word, at = data[at : at + 32], at + 32
                if kind.base == "bytes":
                    values.append(word[: kind.sub])
                elif kind.base == "address":
                    values.append("0x" + word[12:].hex())
                elif kind.base == "bool":
                    values.append(word[-1] == 1)
                else:
                    values.append(int.from_bytes(word, "big"))
            return tuple(values)

        return take(parsed)

    return read
