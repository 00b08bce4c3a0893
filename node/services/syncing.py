"""One state from several donors at once: the hands of `protocol.sync` (docs/protocol.md §7.5).

What has come lies in one sparse file beside the state's, each chunk in its place.  After a crash
the chunks in it are hashed again and the right ones are not asked for twice, so nothing need be
recorded while they come.  Only the whole file gets the state's name.
"""

import math
import os
import time
from collections.abc import Sequence
from functools import partial as bound
from pathlib import Path

import trio

from node.compute.state import CHUNK_BYTES
from node.disk import mapped, sync_folder, write_all
from node.errors import ComputeError, NodeError, StorageError
from node.ports.transport import Transport
from protocol import merkle
from protocol.errors import MalformedMessageError
from protocol.sync import (
    CHUNK_PROTOCOL,
    LIST_PROTOCOL,
    AskChunk,
    AskList,
    Begun,
    ChunkRequest,
    Complete,
    Event,
    Failed,
    Found,
    ListAnswer,
    Listed,
    ListRequest,
    LookUp,
    StateSync,
    Stored,
    list_fault,
)
from protocol.types import Digest, Millis, PeerId
from protocol.wire import decode, encode

REQUEST_LIMIT_BYTES = 256
TIMEOUT_S = 30.0
"""For one chunk; a donor that hangs costs that much once, the others go on meanwhile."""
REASONS_AT_MOST = 8
"""Complaints of donors told to an operator."""
FORGOTTEN_AFTER_S = 86_400
"""What came of another state and was not gone on with for a day is of no use any more."""

_SUFFIX = ".chunks"
_LEAF_BYTES = 34
"""A leaf digest with its header on the wire."""


def partial(path: Path) -> Path:
    """Where the chunks of a state lie that is not whole yet."""
    return path.with_name(path.name + _SUFFIX)


class Download:
    """One state on its way."""

    def __init__(
        self,
        transport: Transport,
        path: Path,
        run: bytes,
        root: Digest,
        length_bytes: int,
    ) -> None:
        self._transport = transport
        self._path = path
        self._partial = partial(path)
        self._run = run
        self._root = root
        self._length = length_bytes
        self._count = -(-length_bytes // CHUNK_BYTES)
        self._peers: dict[bytes, PeerId] = {}
        self._refused: list[str] = []
        self._file = -1

    async def run(self, donors: Sequence[PeerId]) -> None:
        """Until the state is on disk.

        Raises `ComputeError` where nobody gives the rest, `StorageError` for this node's disk.
        """
        self._peers = {donor.encode(): donor for donor in donors}
        machine = StateSync(self._root, self._length, list(self._peers))
        self._file = await trio.to_thread.run_sync(self._open)
        try:
            await self._drive(machine)
            await trio.to_thread.run_sync(self._finish)
        finally:
            os.close(self._file)

    async def _drive(self, machine: StateSync) -> None:
        answers, events = trio.open_memory_channel[Event | StorageError](math.inf)
        broken: NodeError | None = None
        async with trio.open_nursery() as nursery:
            event: Event | StorageError = Begun()
            under_way = 0
            while True:
                if isinstance(event, StorageError):
                    broken = event
                    break
                for effect in machine.handle(event, _now()):
                    if not isinstance(effect, Complete):
                        under_way += 1
                        nursery.start_soon(self._carry_out, effect, answers)
                if machine.done:
                    break
                if not under_way:
                    broken = self._nobody()
                    break
                event = await events.receive()
                under_way -= 1
            nursery.cancel_scope.cancel()
        if broken is not None:
            raise broken

    def _nobody(self) -> ComputeError:
        return ComputeError(
            f"no member gives state {self._root.hex()[:16]}:"
            f" {'; '.join(self._refused) or 'none asked'}",
            hint="what has come is kept; the rest is asked for again",
        )

    async def _carry_out(
        self,
        effect: AskList | AskChunk | LookUp,
        answers: "trio.MemorySendChannel[Event | StorageError]",
    ) -> None:
        event: Event | StorageError
        try:
            match effect:
                case AskList():
                    event = await self._ask_list(effect)
                case AskChunk():
                    event = await self._ask_chunk(effect)
                case LookUp():
                    event = Found(await trio.to_thread.run_sync(self._look_up, effect))
        except StorageError as error:
            event = error  # a full disk is nobody's lie
        answers.send_nowait(event)

    async def _ask_list(self, effect: AskList) -> Event:
        limit = 64 + _LEAF_BYTES * self._count
        try:
            data = await self._transport.request(
                self._peers[effect.donor],
                LIST_PROTOCOL,
                encode(ListRequest(self._run, effect.root)),
                timeout_s=TIMEOUT_S,
                limit_bytes=limit,
            )
            answer = decode(data, ListAnswer, limit_bytes=limit)
        except NodeError as error:
            return self._failed(effect.donor, None, str(error))
        except MalformedMessageError as error:
            return self._failed(effect.donor, None, str(error), lied=True)
        fault = list_fault(answer.leaves, self._root, self._length)
        if fault:
            return self._failed(effect.donor, None, fault, lied=True)
        return Listed(effect.donor, tuple(Digest(leaf) for leaf in answer.leaves))

    async def _ask_chunk(self, effect: AskChunk) -> Event:
        try:
            data = await self._transport.request(
                self._peers[effect.donor],
                CHUNK_PROTOCOL,
                encode(ChunkRequest(self._run, effect.root, effect.index)),
                timeout_s=TIMEOUT_S,
                limit_bytes=CHUNK_BYTES,
            )
        except NodeError as error:
            return self._failed(effect.donor, effect.index, str(error))
        kept = await trio.to_thread.run_sync(self._keep, effect, data)
        if not kept:
            reason = f"{len(data)} bytes that are not chunk {effect.index}"
            return self._failed(effect.donor, effect.index, reason, lied=True)
        return Stored(effect.donor, effect.index)

    def _failed(
        self, donor: bytes, index: int | None, reason: str, *, lied: bool = False
    ) -> Failed:
        self._note(donor, reason)
        return Failed(donor, index, lied=lied)

    def _note(self, donor: bytes, reason: str) -> None:
        if len(self._refused) < REASONS_AT_MOST:
            self._refused.append(f"{self._peers[donor]}: {reason}")

    # On disk, in a thread ----------------------------------------------------------------

    def _open(self) -> int:
        with mapped(self._partial):
            for old in self._path.parent.glob(f"*{_SUFFIX}"):
                if old != self._partial and _is_forgotten(old):
                    old.unlink(missing_ok=True)
            file = os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                os.ftruncate(file, self._length)
            except BaseException:
                os.close(file)
                raise
        return file

    def _look_up(self, effect: LookUp) -> frozenset[int]:
        read = bound(os.pread, self._file, CHUNK_BYTES)
        with mapped(self._partial):
            if not os.fstat(self._file).st_blocks:
                return frozenset()
            return frozenset(
                index
                for index, leaf in enumerate(effect.leaves)
                if merkle.leaf_digest(read(index * CHUNK_BYTES)) == leaf
            )

    def _keep(self, effect: AskChunk, data: bytes) -> bool:
        if merkle.leaf_digest(data) != effect.leaf:
            return False
        with mapped(self._partial):
            write_all(self._file, data, effect.index * CHUNK_BYTES)
        return True

    def _finish(self) -> None:
        with mapped(self._partial):
            os.fsync(self._file)
            if self._is_ours():
                self._partial.replace(self._path)
            elif not self._path.is_file():
                raise FileNotFoundError(self._partial)
            # Else another run wanted the same state and was done first, with the same bytes.
            sync_folder(self._path.parent)

    def _is_ours(self) -> bool:
        """Is what lies under the name the file that the chunks went to?"""
        try:
            found = self._partial.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(self._file))


def _is_forgotten(path: Path) -> bool:
    try:
        return path.stat().st_mtime < time.time() - FORGOTTEN_AFTER_S
    except FileNotFoundError:
        return False  # another process was faster


def _now() -> Millis:
    return Millis(int(trio.current_time() * 1_000))
