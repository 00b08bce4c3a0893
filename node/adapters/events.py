"""How both stores keep what an event tells."""

from collections.abc import Mapping
from typing import Any

import msgspec

from node.errors import StorageError


def encoded(kind: str, data: Mapping[str, Any]) -> str:
    """JSON with bytes as hex, so that a person with `sqlite3` can read it."""
    try:
        return msgspec.json.encode(_plain(data)).decode()
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise StorageError(f"event {kind!r} cannot be stored: {error}") from error


def decoded(text: str) -> dict[str, Any]:
    """What `encoded` made."""
    return msgspec.json.decode(text, type=dict[str, Any])


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return value
