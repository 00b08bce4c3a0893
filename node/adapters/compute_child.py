"""The Compute port over a trusted child process.

The daemon keeps one child and talks to it over a socketpair: a frame is a 4-byte big-endian
length and a MessagePack map.  Requests carry an id; answers and progress carry it back, so
several calls may be under way.  The child runs one at a time, in order of arrival.

A child that dies fails the calls under way with `ComputeError` and is started afresh by the
next call: nothing it held is authoritative, whatever must last is a file it has synced or
an answer the daemon has stored.
"""

import socket
import struct
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgpack
import trio

from node.errors import ComputeError
from node.ports.compute import Progress

FRAME_LIMIT_BYTES = 64 << 20
"""Large vectors travel as files; a frame holds rows of one inference batch at most."""

COMMAND = (sys.executable, "-m", "node.compute")


class _Call:
    """One request under way."""

    def __init__(self, progress: Progress | None) -> None:
        self.done = trio.Event()
        self.answer: dict[str, Any] = {}
        self.progress = progress


class ComputeChild:
    """`Compute`; made by `open_compute_child`."""

    def __init__(self, nursery: trio.Nursery, command: Sequence[str]) -> None:
        self._nursery = nursery
        self._command = tuple(command)
        self._calls: dict[int, _Call] = {}
        self._next_id = 0
        self._stream: trio.SocketStream | None = None
        self._process: trio.Process | None = None
        self._starting = trio.Lock()
        self._sending = trio.Lock()

    @property
    def pid(self) -> int | None:
        """Process id of the running child."""
        return None if self._process is None else self._process.pid

    async def call(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Run `method` in the child; raises `ComputeError` with the child's words."""
        stream = await self._started()
        self._next_id += 1
        call_id, call = self._next_id, _Call(progress)
        frame = msgpack.packb({"id": call_id, "method": method, "params": dict(params)})
        if len(frame) > FRAME_LIMIT_BYTES:
            raise ComputeError(
                f"{method} needs a frame of {len(frame)} bytes, limit is {FRAME_LIMIT_BYTES}",
                hint="send fewer rows in one request",
            )
        self._calls[call_id] = call
        try:
            async with self._sending:
                await stream.send_all(struct.pack(">I", len(frame)) + frame)
            await call.done.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise _died(method) from error
        finally:
            self._calls.pop(call_id, None)
        if "error" in call.answer:
            said = call.answer["error"]
            raise ComputeError(
                str(said.get("message", "unknown error")),
                hint=str(said.get("hint", "")),
            )
        if "result" not in call.answer:
            raise _died(method)
        return dict(call.answer["result"])

    async def _started(self) -> trio.SocketStream:
        async with self._starting:
            if self._stream is None:
                ours, theirs = socket.socketpair()
                try:
                    self._process = await trio.lowlevel.open_process(
                        [*self._command, "--fd", str(theirs.fileno())],
                        pass_fds=[theirs.fileno()],
                        stdin=None,
                    )
                except OSError as error:
                    ours.close()
                    raise ComputeError(
                        f"cannot start the compute child: {error}",
                        hint="install the institution extra: pip install 'rexis[institution]'",
                    ) from error
                finally:
                    theirs.close()
                self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
                self._nursery.start_soon(self._read, self._stream, self._process)
            return self._stream

    async def _read(self, stream: trio.SocketStream, process: trio.Process) -> None:
        buffer = bytearray()
        try:
            while data := await stream.receive_some(1 << 18):
                buffer += data
                while (frame := _take_frame(buffer)) is not None:
                    self._dispatch(msgpack.unpackb(frame))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the child died, or we hung up: the callers are told below
        finally:
            # Only this reader knows that the child is gone; whoever waits must hear it.
            self._stream = None
            for call in self._calls.values():
                call.done.set()
            await trio.aclose_forcefully(stream)
        await process.wait()

    def _dispatch(self, answer: dict[str, Any]) -> None:
        call = self._calls.get(answer.get("id", -1))
        if call is None:
            return
        if "progress" in answer:
            if call.progress is not None:
                call.progress(answer["progress"])
            return
        call.answer = answer
        call.done.set()

    async def aclose(self) -> None:
        """Hang up; the child ends at end of file, or is killed after two seconds."""
        if self._stream is not None:
            await self._stream.aclose()
        process = self._process
        if process is None:
            return
        with trio.move_on_after(2):
            await process.wait()
        if process.poll() is None:
            process.kill()
            await process.wait()


def _take_frame(buffer: bytearray) -> bytes | None:
    if len(buffer) < 4:
        return None
    length = int.from_bytes(buffer[:4], "big")
    if length > FRAME_LIMIT_BYTES:
        raise ComputeError(
            f"the compute child sent a frame of {length} bytes, limit is {FRAME_LIMIT_BYTES}"
        )
    if len(buffer) < 4 + length:
        return None
    frame = bytes(buffer[4 : 4 + length])
    del buffer[: 4 + length]
    return frame


def _died(method: str) -> ComputeError:
    return ComputeError(
        f"the compute child ended during {method}",
        hint="its last words are in the log; the call can be repeated",
    )


@asynccontextmanager
async def open_compute_child(
    command: Sequence[str] = COMMAND,
) -> AsyncIterator[ComputeChild]:
    """A child for as long as the block lasts; started by the first call."""
    async with trio.open_nursery() as nursery:
        child = ComputeChild(nursery, command)
        try:
            yield child
        finally:
            with trio.CancelScope(shield=True):
                await child.aclose()
            nursery.cancel_scope.cancel()
