"""Yamux with correct windows, woken writers and a reader that never waits to write.

Four things differ from the stock muxer, each for a measured reason (docs/network.md):
a writer without window sleeps until it gets some, instead of polling and giving up after
five seconds; the credit we grant never exceeds one window, and a peer that sends beyond
it loses the connection; frames are large; and what the reading task has to answer (pings,
acknowledgements) is queued, so that two busy ends cannot wait for each other for ever.
"""

import struct
from collections import deque
from typing import Any

import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from libp2p.stream_muxer import muxer_multistream
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux import yamux as stock

FRAME_BYTES = 1 << 18
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
_HEADER = struct.Struct("!BBHII")


class Stream(stock.YamuxStream):
    """One stream; its window is an event, not a number to poll."""

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
            self._wake()

    @property
    def recv_window(self) -> int:
        return self._room

    @recv_window.setter
    def recv_window(self, value: int) -> None:
        self._room = value
        if value < 0:
            self.conn.overrun(self.stream_id)

    def _wake(self) -> None:
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
        """As the stock stream; what lies ready is copied once instead of three times."""
        buffer = self.conn.stream_buffers.get(self.stream_id)
        if not buffer or n is None or n <= 0 or self.recv_closed:
            return await super().read(n)
        with memoryview(buffer) as view:
            data = bytes(view[:n])
        del buffer[: len(data)]
        await self._auto_tune_and_send_window_update(bytes_read=len(data))
        await trio.lowlevel.checkpoint()
        return data

    async def _wait_for_window(self) -> None:
        deadline = trio.current_time() + WINDOW_TIMEOUT_S
        while self._credit <= 0:
            self._require_open()
            if trio.current_time() > deadline:
                raise MuxedStreamError(f"no window for {WINDOW_TIMEOUT_S} s")
            waiting = self.__dict__.setdefault("_waiting", trio.Event())
            with trio.move_on_after(1.0):  # a reset does not set the event
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


class Muxer(stock.Yamux):
    """One connection's streams."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._later: deque[bytes] = deque()
        self._wanted = trio.Event()
        self._reader: trio.lowlevel.Task | None = None

    def overrun(self, stream_id: int | None) -> None:
        """A peer sent more than it was granted: nothing it says can be bounded."""
        stock.logger.warning(
            "window overrun peer=%s stream=%s", self.peer_id, stream_id
        )
        self.event_shutting_down.set()

    def windows(self) -> int:
        """What the peer may have sent us unread, on all streams."""
        return sum(stream.target_recv_window for stream in self.streams.values())

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

    async def _read_data_body(self, length: int) -> bytes:
        """The body of one frame; our session returns it whole or at the end."""
        if length > WINDOW_LIMIT_BYTES:
            self.overrun(None)
            raise ConnectionClosedError(f"frame announces {length} bytes")
        with trio.fail_after(BODY_TIMEOUT_S):
            data: bytes = await self.secured_conn.read(length)
        if len(data) < length:
            raise IncompleteReadError(
                "connection closed", expected_bytes=length, received_bytes=len(data)
            )
        return data

    async def handle_incoming(self) -> None:
        self._reader = trio.lowlevel.current_task()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._flush)
            await super().handle_incoming()
            nursery.cancel_scope.cancel()
        if not self.event_closed.is_set():
            await self._cleanup_on_error()


def install() -> dict[str, type[Muxer]]:
    """The muxers a host may offer: this one.

    The library makes streams and Yamux connections from the names in two of its modules,
    whatever class it is given; so the names are replaced, for the whole process.
    """
    stock.YamuxStream = Stream
    muxer_multistream.Yamux = Muxer
    return {stock.PROTOCOL_ID: Muxer}
