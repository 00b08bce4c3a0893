"""How one exchange looks on a stream: a short header, then exactly as many bytes as it says.

A stream is one of our muxer's (yamux.py), without the library's wrapper around it.

header = u16 length, then canonical MessagePack of `Ask` or `Reply`.  Sizes are checked
before anything is read, and every read and write has a deadline of its own.
"""

from typing import Any, TypeVar

import trio
from libp2p.exceptions import BaseLibp2pError

from node.errors import TransportError
from protocol.errors import MalformedMessageError
from protocol.wire import Message, decode, encode

M = TypeVar("M", bound=Message)

HEADER_LIMIT_BYTES = 2048
CHUNK_BYTES = 1 << 20
PIECE_TIMEOUT_S = 30.0
"""Longest silence in the middle of a message; between messages a stream may rest."""

BROKEN = (
    BaseLibp2pError,
    OSError,
    EOFError,
    trio.TooSlowError,
    trio.BrokenResourceError,
)
"""Everything a stream or connection may end with; all of it means: reset, try again."""


class Ask(Message, frozen=True, tag="ask"):
    """Opens a request."""

    protocol: str
    size: int


class Reply(Message, frozen=True, tag="reply"):
    """Opens an answer; a `code` other than 0 is a refusal and has no body."""

    code: int
    message: str
    hint: str
    size: int


async def send_header(stream: Any, header: Message, body: bytes = b"") -> None:
    """Write a header and the first (often only) part of its body in one go."""
    data = encode(header)
    await send(stream, len(data).to_bytes(2, "big") + data + body)


async def send(stream: Any, data: bytes) -> None:
    with trio.fail_after(PIECE_TIMEOUT_S):
        await stream.write(data)


async def receive_header(stream: Any, type_: type[M]) -> M:
    """Wait for the next header, however long; its bytes then come without a pause."""
    first: bytes = await stream.read(1)
    length = int.from_bytes(first + await receive(stream, 1), "big")
    if not 0 < length <= HEADER_LIMIT_BYTES:
        raise MalformedMessageError(
            f"header has {length} bytes, limit is {HEADER_LIMIT_BYTES}"
        )
    header = decode(await receive(stream, length), type_)
    size: int = getattr(header, "size", 0)
    if size < 0:
        raise MalformedMessageError(f"header announces {size} bytes")
    return header


async def receive(stream: Any, size: int) -> bytes:
    """Exactly `size` bytes; the caller has checked that it wants so many."""
    return b"".join(await receive_parts(stream, size))


async def receive_parts(stream: Any, size: int) -> list[bytes]:
    """Exactly `size` bytes, in the pieces they come in."""
    parts: list[bytes] = []
    left = size
    while left:
        more = await some(stream, left)
        left -= sum(map(len, more))
        parts += more
    return parts


async def some(stream: Any, most: int) -> list[bytes]:
    """What is there, or the first that comes."""
    more: list[bytes] = []
    with trio.move_on_after(PIECE_TIMEOUT_S) as scope:
        more = await stream.take(min(most, CHUNK_BYTES))
    if scope.cancelled_caught:
        raise TransportError(f"no byte for {PIECE_TIMEOUT_S} s")
    return more


class Body:
    """The content of an answer while it is still arriving."""

    def __init__(self, stream: Any, size: int) -> None:
        self._stream = stream
        self.left = size

    async def take(self, size: int) -> list[bytes]:
        """Exactly the next `size` bytes, in the pieces they came in."""
        if size > self.left:
            raise MalformedMessageError(f"answer ends {size - self.left} bytes early")
        self.left -= size
        return await receive_parts(self._stream, size)
