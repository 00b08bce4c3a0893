"""Canonical MessagePack: one byte string per value (docs/protocol.md §3).

Bytes from the network pass four gates: a size bound, the type, which is read straight from
the bytes, `msgpack` with explicit limits on every container, and the encoding: they are
encoded again and compared, because MessagePack itself spells one integer in several ways
and a signature over a malleable encoding is worth nothing.
"""

from collections.abc import Hashable
from functools import lru_cache
from typing import Any, TypeVar, cast

import msgpack
import msgspec

from protocol.errors import LocalProtocolError, MalformedMessageError

T = TypeVar("T")

MESSAGE_LIMIT_BYTES = 1 << 20
"""The largest message of any kind: gossipsub's own ceiling for one RPC, so that nothing
we call a message can be too large for the carrier.  Bulk travels as blobs."""

_CONTAINER_LIMIT = 65_536
"""Items of one array or map.  The longest honest list is the chunk digests of a
manifest; 65,536 chunks of 1 MiB are a 64 GiB unit."""


_ENCODER = msgspec.msgpack.Encoder(order="deterministic")
_TYPES_AT_MOST = 512
"""Decoders kept: far more than there are types to decode, each made in a few microseconds."""


class Message(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=True
):
    """Base of everything that travels: a tagged array, its fields in order."""


def encode(value: Any) -> bytes:
    """The canonical bytes of `value`."""
    return _ENCODER.encode(value)


def decode(data: bytes, type_: type[T], *, limit_bytes: int = MESSAGE_LIMIT_BYTES) -> T:
    """The value of type `type_` whose canonical form is `data`.

    Raises `MalformedMessageError` for every other input; never anything else.
    """
    if len(data) > limit_bytes:
        raise MalformedMessageError(
            f"message has {len(data)} bytes, limit is {limit_bytes}"
        )
    try:
        # First, and without a tree in between: sixteen million empty lists are 16 MiB to send
        # and more than a gigabyte and seconds to build, whatever type they turn out not to be.
        value: T = _decoder(cast("Hashable", type_)).decode(data)
        msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=False,
            max_str_len=limit_bytes,
            max_bin_len=limit_bytes,
            max_array_len=_CONTAINER_LIMIT,
            max_map_len=_CONTAINER_LIMIT,
            max_ext_len=0,
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        # Those of msgspec and `msgpack.ExtraData` are ValueErrors too.
        raise MalformedMessageError(f"not a {_name(type_)}: {error}") from error
    if encode(value) != data:
        raise MalformedMessageError(f"{_name(type_)} is not in canonical form")
    return value


@lru_cache(_TYPES_AT_MOST)
def _decoder(type_: Any) -> msgspec.msgpack.Decoder[Any]:
    """What reads `type_`: made anew each time, that of a union costs more than the decoding."""
    return msgspec.msgpack.Decoder(type_)


def require_length(name: str, value: bytes, length: int) -> None:
    """Refuse to build a message around a field of the wrong length."""
    if len(value) != length:
        raise LocalProtocolError(f"{name} has {len(value)} bytes, needs {length}")


def _name(type_: object) -> str:
    return getattr(type_, "__name__", str(type_))
