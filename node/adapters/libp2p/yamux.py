"""Yamux with correct windows, woken writers and a reader that never waits to write.

What differs from the stock muxer, each for a measured reason (docs/network.md): a writer
without window sleeps until it gets some, instead of polling and giving up after five
seconds; the credit we grant never exceeds one window, all windows of a connection are
bounded together, and a peer that sends beyond loses the connection; frames are large and
what is in them is not copied again; and what the reading task has to answer (pings,
acknowledgements) is queued, so that two busy ends cannot wait for each other for ever.
"""

import logging
import struct
from collections import deque
from typing import Any

import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from libp2p.security.noise.io import MAX_PLAINTEXT_LENGTH
from libp2p.stream_muxer import muxer_multistream
from libp2p.stream_muxer.exceptions import (
    MuxedStreamEOF,
    MuxedStreamError,
    MuxedStreamReset,
)
from libp2p.stream_muxer.yamux import yamux as stock

from node.adapters.libp2p.unread import Unread

logger = logging.getLogger(__name__)

_HEADER = struct.Struct("!BBHII")
FRAME_BYTES = 4 * MAX_PLAINTEXT_LENGTH - _HEADER.size
"""A frame with its header fills four Noise messages to the last byte."""
WINDOW_LIMIT_BYTES = 4 << 20
"""Unread bytes one stream may hold at the receiver."""
CONNECTION_LIMIT_BYTES = 24 << 20
"""Windows of all streams of one connection together; a wider one is granted only within
it.  64 streams start with 256 KiB each, so the first windows are always within it."""
GRANT_BYTES = 1 << 19
WINDOW_TIMEOUT_S = 120.0
"""How long a reader may pause with a full window."""
LATER_LIMIT = 4096
BODY_TIMEOUT_S = 60.0


class Stream(stock.YamuxStream):
    """One stream; its window is an event, not a number to poll."""

    conn: "Muxer"
    target_recv_window: int
    epoch_start: float
    _credit = 0
    _room = 0

    @property
    def send_window(self) -> int:
        return self._credit

    @send_window.setter
    def send_window(self, value: int) -> None:
        self._credit = value
        if value > 0:
            self.wake()

    @property
    def recv_window(self) -> int:
        return self._room

    @recv_window.setter
    def recv_window(self, value: int) -> None:
        self._room = value
        if value < 0:
            self.conn.overrun(self.stream_id)

    def wake(self) -> None:
        waiting: trio.Event | None = self.__dict__.pop("_waiting", None)
        if waiting is not None:
            waiting.set()

    async def write(self, data: bytes) -> None:
        sent = 0
        with memoryview(data) as view:
            while sent < len(view):
                if self._credit <= 0:
                    await self._wait_for_window()
                self._require_open()
                count = min(self._credit, FRAME_BYTES, len(view) - sent)
                self._credit -= count
                header = _HEADER.pack(0, stock.TYPE_DATA, 0, self.stream_id, count)
                await self.conn._write_frame(  # noqa: SLF001 - the class we extend
                    b"".join((header, view[sent : sent + count]))
                )
                sent += count

    async def read(self, n: int | None = -1) -> bytes:
        """What is there, at most `n` bytes; waits for the first."""
        if n == 0:
            return b""
        return b"".join(
            await self.take(WINDOW_LIMIT_BYTES if n is None or n < 0 else n)
        )

    async def take(self, most: int) -> list[bytes]:
        """As `read`, in the pieces it came in.

        Raises `MuxedStreamEOF` at the end, `MuxedStreamReset` if there is none to come.
        """
        unread = await self._wait_for_bytes()
        parts = unread.take(most)
        await self._auto_tune_and_send_window_update(bytes_read=most)
        if self.closed and not unread:
            self.conn.forget(self)
        return parts

    async def _wait_for_bytes(self) -> Unread:
        conn = self.conn
        while True:
            unread = conn.stream_buffers.get(self.stream_id)
            if unread:
                await trio.lowlevel.checkpoint()
                return unread
            event = conn.stream_events.get(self.stream_id)
            if self.reset_received:
                raise MuxedStreamReset("stream was reset")
            if unread is None or event is None or self.recv_closed:
                raise MuxedStreamEOF("stream has ended")
            if event.is_set():
                conn.stream_events[self.stream_id] = trio.Event()
            else:
                await event.wait()

    async def _wait_for_window(self) -> None:
        deadline = trio.current_time() + WINDOW_TIMEOUT_S
        while self._credit <= 0:
            self._require_open()
            if trio.current_time() > deadline:
                raise MuxedStreamError(f"no window for {WINDOW_TIMEOUT_S} s")
            waiting = self.__dict__.setdefault("_waiting", trio.Event())
            with trio.move_on_after(1.0):  # the library's `close` does not wake it
                await waiting.wait()

    def _require_open(self) -> None:
        if self.closed or self.send_closed or self.conn.event_shutting_down.is_set():
            raise MuxedStreamError("stream is closed")

    async def _auto_tune_and_send_window_update(self, *, bytes_read: int = 0) -> None:
        """Grant what the reader has taken; widen while it empties windows quickly."""
        buffered = len(self.conn.stream_buffers.get(self.stream_id, b""))
        grant = self.target_recv_window - self._room - buffered
        if self.recv_closed or grant < min(self.target_recv_window // 2, GRANT_BYTES):
            return
        now = trio.current_time()
        quick = now - self.epoch_start < 4 * max(self._effective_rtt(), 0.02)
        if quick and self.epoch_start and bytes_read:
            wider = min(2 * self.target_recv_window, WINDOW_LIMIT_BYTES)
            more = wider - self.target_recv_window
            if self.conn.windows() + more <= CONNECTION_LIMIT_BYTES:
                grant += more
                self.target_recv_window = wider
        self.epoch_start = now
        self._room += grant
        await self.send_window_update(grant)


class _Buffers(dict[int, Unread]):
    """The stock code makes a bytearray for each new stream; ours has something else."""

    def __setitem__(self, stream_id: int, _bytes: Any) -> None:
        super().__setitem__(stream_id, Unread())


class Muxer(stock.Yamux):
    """One connection's streams."""

    stream_buffers: _Buffers
    stream_events: dict[int, trio.Event]
    streams: dict[int, Stream]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stream_buffers = _Buffers()
        self._rtt: float = 0.0
        self._later: deque[bytes] = deque()
        self._wanted = trio.Event()
        self._reader: trio.lowlevel.Task | None = None

    def overrun(self, stream_id: int | None) -> None:
        """A peer sent more than it was granted: nothing it says can be bounded."""
        logger.warning("window overrun peer=%s stream=%s", self.peer_id, stream_id)
        self.event_shutting_down.set()

    def windows(self) -> int:
        """What the peer may have sent us unread, on all streams."""
        return sum(stream.target_recv_window for stream in self.streams.values())

    def forget(self, stream: Stream) -> None:
        """Drop what is known of a stream that has ended both ways and is read."""
        self._finalize_stream_locked(stream, fully_closed=True)

    async def _write_frame(self, data: bytes) -> None:
        if (
            trio.lowlevel.current_task() is self._reader
            and len(self._later) < LATER_LIMIT
        ):
            self._later.append(data)
            self._wanted.set()
            return
        async with self._write_lock:
            await self._send_later()
            await self.secured_conn.write(data)

    async def _send_later(self) -> None:
        """With the lock held; frames keep their order."""
        if self._later:
            frames = b"".join(self._later)
            self._later.clear()
            await self.secured_conn.write(frames)

    async def _flush(self) -> None:
        try:
            while True:
                await self._wanted.wait()
                self._wanted = trio.Event()
                async with self._write_lock:
                    await self._send_later()
        except (BaseLibp2pError, OSError, trio.ClosedResourceError):
            return  # the reading task sees the same end and cleans up

    async def handle_incoming(self) -> None:
        """Read frames until the connection ends, one way or another."""
        self._reader = trio.lowlevel.current_task()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._flush)
            try:
                while not self.event_shutting_down.is_set():
                    await self._read_frame()
            except (BaseLibp2pError, OSError, trio.TooSlowError) as error:
                logger.debug("connection ended peer=%s: %r", self.peer_id, error)
            nursery.cancel_scope.cancel()
        if not self.event_closed.is_set():
            await self._cleanup_on_error()

    async def _read_frame(self) -> None:
        session = self.secured_conn
        while session.ready < _HEADER.size:
            if not await session.fill():
                raise ConnectionClosedError("closed by the peer")
        head = b"".join(session.take(_HEADER.size))
        _, kind, flags, stream_id, length = _HEADER.unpack(head)
        if kind == stock.TYPE_DATA:
            parts = await self._read_body(length)
            await self._on_frame(stream_id, flags, parts=parts, length=length)
        elif kind == stock.TYPE_WINDOW_UPDATE:
            await self._on_frame(stream_id, flags, credit=length)
        elif kind == stock.TYPE_PING:
            await self._on_ping(flags, length)
        else:  # going away, or nothing Yamux knows
            logger.debug("frame kind=%s code=%s peer=%s", kind, length, self.peer_id)
            self.event_shutting_down.set()

    async def _read_body(self, length: int) -> list[bytes]:
        session = self.secured_conn
        if length > WINDOW_LIMIT_BYTES:
            self.overrun(None)
            raise ConnectionClosedError(f"frame announces {length} bytes")
        if session.ready < length:
            with trio.fail_after(BODY_TIMEOUT_S):
                while session.ready < length:
                    if not await session.fill():
                        raise IncompleteReadError(
                            "closed in a frame",
                            expected_bytes=length,
                            received_bytes=session.ready,
                        )
        return session.take(length)

    async def _on_frame(
        self,
        stream_id: int,
        flags: int,
        *,
        parts: list[bytes] | None = None,
        length: int = 0,
        credit: int = 0,
    ) -> None:
        """Bytes or credit for one stream, and what the flags do to it."""
        stream = self.streams.get(stream_id)
        opened = bool(flags & stock.FLAG_SYN)
        if opened:
            if stream is not None or stream_id % 2 == self.next_stream_id % 2:
                await self._reset(stream_id)
                return
            stream = self._open_inbound(stream_id)
        if stream is None:
            return  # of a stream that has ended here; the bytes were read and are gone
        if credit:
            stream.send_window += credit
        if parts:
            unread = self.stream_buffers[stream_id]
            for part in parts:
                unread.append(part)
            stream.recv_window -= length
        if flags & stock.FLAG_FIN:
            stream.recv_closed = True
            stream.closed = stream.closed or stream.send_closed
        if flags & stock.FLAG_RST:
            stream.closed = stream.reset_received = True
        if parts or flags & (stock.FLAG_FIN | stock.FLAG_RST):
            self.stream_events[stream_id].set()
        if stream.closed:
            stream.wake()
            self.forget(stream)
        if opened:
            await self._accept(stream)

    def _open_inbound(self, stream_id: int) -> Stream:
        stream = self.streams[stream_id] = Stream(stream_id, self, is_initiator=False)
        self.stream_buffers[stream_id] = b""
        self.stream_events[stream_id] = trio.Event()
        return stream

    async def _accept(self, stream: Stream) -> None:
        if not stream.reset_received:
            await self._write_frame(
                _HEADER.pack(
                    0, stock.TYPE_WINDOW_UPDATE, stock.FLAG_ACK, stream.stream_id, 0
                )
            )
        await self.new_stream_send_channel.send(stream)

    async def _reset(self, stream_id: int) -> None:
        await self._write_frame(
            _HEADER.pack(0, stock.TYPE_WINDOW_UPDATE, stock.FLAG_RST, stream_id, 0)
        )

    async def _on_ping(self, flags: int, value: int) -> None:
        if flags & stock.FLAG_SYN:
            await self._write_frame(
                _HEADER.pack(0, stock.TYPE_PING, stock.FLAG_ACK, 0, value)
            )
        elif flags & stock.FLAG_ACK:
            rtt = trio.current_time() - self._ping_sent_time
            self._rtt = (self._rtt + rtt) / 2 if self._rtt else rtt
            self._ping_event.set()


def install() -> dict[str, type[Muxer]]:
    """The muxers a host may offer: this one.

    The library makes streams and Yamux connections from the names in two of its modules,
    whatever class it is given; so the names are replaced, for the whole process.
    """
    stock.YamuxStream = Stream
    muxer_multistream.Yamux = Muxer
    return {stock.PROTOCOL_ID: Muxer}
