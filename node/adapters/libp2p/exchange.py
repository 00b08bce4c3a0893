"""Requests on kept streams, and the server side of them.

Opening a stream costs three round trips, so a stream is kept and used for one request
after another.  Whoever gives up in the middle of one (cancelled, too slow, bad bytes)
resets that stream, because nobody can say what the next byte on it would mean.
"""

import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import trio

from node.adapters.libp2p.frames import (
    BROKEN,
    CHUNK_BYTES,
    Ask,
    Body,
    Reply,
    receive,
    receive_header,
    send,
    send_header,
    some,
)
from node.adapters.libp2p.host import Host
from node.errors import AccessError, NodeError, TransportError
from node.ports.transport import Answer
from protocol.errors import ProtocolError
from protocol.types import PeerId

logger = logging.getLogger(__name__)

STREAMS_PER_PEER = 16
INBOUND_PER_PEER = 32
"""Streams one peer may hold open; each serves one request at a time."""
INBOUND_BYTES_PER_PEER = 1 << 25
"""Requests of one peer in memory at once; a single larger one waits until it is alone."""
DRAIN_LIMIT_BYTES = 1 << 26
RESET_TIMEOUT_S = 1.0
TEXT_LIMIT = 400
_OK = 0

Parts = AsyncGenerator[bytes, None]
Source = Callable[[PeerId, bytes], Awaitable[tuple[int, Parts]]]
"""Serve with a streamed answer: its size, then its bytes."""


class RefusedError(TransportError):
    """The peer understood and said no; asking it again is of no use."""


class Exchange:
    """Every request of this node, and every request to it."""

    def __init__(self, host: Host, allowed: Callable[[PeerId], bool]) -> None:
        self._host = host
        self._allowed = allowed
        self._served: dict[str, tuple[Source, int]] = {}
        self._idle: dict[PeerId, list[Any]] = {}
        self._slots: dict[PeerId, trio.CapacityLimiter] = {}
        self._inbound: Counter[PeerId] = Counter()
        self._rooms: dict[PeerId, _Room] = {}
        host.serve(self._accept)

    def serve(self, protocol: str, answer: Answer, *, limit_bytes: int) -> None:
        async def whole(peer: PeerId, payload: bytes) -> tuple[int, Parts]:
            data = await answer(peer, payload)
            return len(data), _chunks(data)

        self.serve_body(protocol, whole, limit_bytes=limit_bytes)

    def serve_body(self, protocol: str, source: Source, *, limit_bytes: int) -> None:
        if protocol in self._served:
            raise TransportError(f"protocol {protocol!r} is served already")
        self._served[protocol] = (source, limit_bytes)

    async def request(
        self,
        peer: PeerId,
        protocol: str,
        payload: bytes,
        *,
        timeout_s: float,
        limit_bytes: int,
    ) -> bytes:
        async with self.answer(
            peer, protocol, payload, timeout_s=timeout_s, limit_bytes=limit_bytes
        ) as body:
            return b"".join(await body.take(body.left))

    @asynccontextmanager
    async def answer(
        self,
        peer: PeerId,
        protocol: str,
        payload: bytes,
        *,
        timeout_s: float,
        limit_bytes: int,
    ) -> AsyncIterator[Body]:
        """Ask, and read the answer as it comes; every failure is a `NodeError`."""
        if not self._allowed(peer):
            raise TransportError(f"peer {peer} is not a member")
        try:
            with trio.fail_after(timeout_s):
                async with self._stream(peer) as stream:
                    await _send_ask(stream, protocol, payload)
                    reply = await receive_header(stream, Reply)
                    if reply.code == _OK:
                        _require_size(reply.size, limit_bytes, peer)
                        body = Body(stream, reply.size)
                        yield body
                        if body.left:
                            raise TransportError(f"{body.left} bytes were not read")
        except trio.TooSlowError as error:
            raise TransportError(
                f"{protocol} to {peer} took longer than {timeout_s} s",
                hint="the peer is slow or gone; the request may be repeated",
            ) from error
        except (*BROKEN, ProtocolError) as error:
            raise TransportError(f"{protocol} to {peer}: {_text(error)}") from error
        if reply.code != _OK:
            raise _refusal(reply)

    def forget(self, peer: PeerId) -> None:
        """The connection is gone and its streams with it."""
        self._idle.pop(peer, None)

    @asynccontextmanager
    async def _stream(self, peer: PeerId) -> AsyncIterator[Any]:
        slots = self._slots.setdefault(peer, trio.CapacityLimiter(STREAMS_PER_PEER))
        async with slots:
            stream = self._resting(peer) or await self._host.open(peer)
            try:
                yield stream.muxed_stream
            except BaseException:
                await _reset(stream)
                raise
            self._idle.setdefault(peer, []).append(stream)

    def _resting(self, peer: PeerId) -> Any | None:
        idle = self._idle.get(peer, [])
        while idle:
            stream = idle.pop()
            if not stream.muxed_conn.is_closed:
                return stream
        return None

    async def _accept(self, peer: PeerId, stream: Any) -> None:
        """Serve one inbound stream until it ends; never raises."""
        if not self._allowed(peer) or self._inbound[peer] >= INBOUND_PER_PEER:
            logger.warning("stream refused peer=%s", peer)
            await _reset(stream)
            return
        self._inbound[peer] += 1
        try:
            while self._allowed(peer):
                await self._serve_one(peer, stream.muxed_stream)
        except EOFError:
            logger.debug("stream ended peer=%s", peer)
        except (*BROKEN, NodeError, ProtocolError) as error:
            logger.info("stream dropped peer=%s: %s", peer, _text(error))
        finally:
            self._inbound[peer] -= 1
            await _reset(stream)

    async def _serve_one(self, peer: PeerId, stream: Any) -> None:
        ask = await receive_header(stream, Ask)
        source, limit = self._served.get(ask.protocol, (None, 0))
        if source is None or ask.size > limit:
            reason = (
                f"protocol {ask.protocol!r} is not served"
                if source is None
                else f"request has {ask.size} bytes, limit is {limit}"
            )
            await _discard(stream, ask.size)
            await _refuse(stream, TransportError(reason))
            return
        room = self._rooms.setdefault(peer, _Room())
        async with room.hold(ask.size):
            await self._answer_one(peer, stream, ask, source)

    async def _answer_one(
        self, peer: PeerId, stream: Any, ask: Ask, source: Source
    ) -> None:
        payload = await receive(stream, ask.size)
        try:
            size, parts = await source(peer, payload)
        except (NodeError, ProtocolError) as error:
            await _refuse(stream, error)
            return
        except Exception:  # a service's bug is logged here and must not stop the node
            logger.exception("service failed protocol=%s peer=%s", ask.protocol, peer)
            await _refuse(stream, TransportError("internal error at the peer"))
            return
        await _send_answer(stream, size, parts)


class _Room:
    """Bytes of one peer's requests that may be here at the same time."""

    def __init__(self) -> None:
        self._held = 0
        self._changed = trio.Event()

    @asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        while self._held and self._held + size > INBOUND_BYTES_PER_PEER:
            await self._changed.wait()
        self._held += size
        try:
            yield
        finally:
            self._held -= size
            self._changed.set()
            self._changed = trio.Event()


async def _send_ask(stream: Any, protocol: str, payload: bytes) -> None:
    first, rest = payload[:CHUNK_BYTES], payload[CHUNK_BYTES:]
    await send_header(stream, Ask(protocol, len(payload)), first)
    async for part in _chunks(rest):
        await send(stream, part)


async def _send_answer(stream: Any, size: int, parts: Parts) -> None:
    header: Reply | None = Reply(_OK, "", "", size)
    async with aclosing(parts):  # it may hold places, which it gives back in this task
        async for part in parts:
            if header is not None:
                await send_header(stream, header, part)
                header = None
            else:
                await send(stream, part)
    if header is not None:
        await send_header(stream, header)


async def _chunks(data: bytes) -> Parts:
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]


async def _discard(stream: Any, size: int) -> None:
    """Read what we refuse, so that the refusal can be read; up to a limit."""
    if size > DRAIN_LIMIT_BYTES:
        raise TransportError(f"request has {size} bytes, limit is {DRAIN_LIMIT_BYTES}")
    while size:
        size -= sum(map(len, await some(stream, size)))


async def _refuse(stream: Any, error: NodeError | ProtocolError) -> None:
    code = error.code if isinstance(error, NodeError) else TransportError.code
    hint = error.hint() if isinstance(error, NodeError) else ""
    await send_header(
        stream, Reply(code, str(error)[:TEXT_LIMIT], hint[:TEXT_LIMIT], 0)
    )


def _refusal(reply: Reply) -> NodeError:
    kind = AccessError if reply.code == AccessError.code else RefusedError
    return kind(reply.message[:TEXT_LIMIT], hint=reply.hint[:TEXT_LIMIT])


def _require_size(size: int, limit: int, peer: PeerId) -> None:
    if size > limit:
        raise TransportError(f"answer of {peer} has {size} bytes, limit is {limit}")


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


async def _reset(stream: Any) -> None:
    with trio.move_on_after(RESET_TIMEOUT_S) as scope, suppress(Exception):
        scope.shield = True
        await stream.reset()
