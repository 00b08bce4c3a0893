"""Store and blobs in memory, for a federation inside one test; nothing survives."""

import hashlib
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import trio

from node.adapters.events import decoded, encoded
from node.clock import now_millis
from node.errors import StorageError
from node.ports.storage import Event
from protocol.types import DIGEST_BYTES, Digest


class MemoryStore:
    """Implements `node.ports.storage.Store`, and what `SqliteStore` has besides."""

    def __init__(self) -> None:
        self._records: dict[str, dict[bytes, bytes]] = {}
        self._events: list[Event] = []
        self._appended = trio.Event()

    def close(self) -> None:
        """Nothing to fold or flush."""

    async def get(self, namespace: str, key: bytes) -> bytes | None:
        await trio.lowlevel.checkpoint()
        return self._records.get(namespace, {}).get(key)

    async def scan(self, namespace: str) -> list[tuple[bytes, bytes]]:
        await trio.lowlevel.checkpoint()
        return sorted(self._records.get(namespace, {}).items())

    async def put(self, namespace: str, key: bytes, value: bytes) -> None:
        await self.put_many([(namespace, key, value)])

    async def delete(self, namespace: str, key: bytes) -> None:
        await self.put_many([(namespace, key, None)])

    async def put_many(
        self,
        writes: Sequence[tuple[str, bytes, bytes | None]],
        *,
        event: tuple[str, Mapping[str, Any]] | None = None,
        lasting: bool = True,  # noqa: ARG002 - here nothing is
    ) -> int | None:
        text = None if event is None else encoded(*event)
        await trio.lowlevel.checkpoint()
        for namespace, key, value in writes:
            table = self._records.setdefault(namespace, {})
            if value is None:
                table.pop(key, None)
            else:
                table[key] = bytes(value)
        if event is None or text is None:
            return None
        number = len(self._events) + 1
        self._events.append(Event(number, now_millis(), event[0], decoded(text)))
        self._appended.set()
        self._appended = trio.Event()
        return number

    async def scrub(self) -> None:
        """Nothing is left behind in memory."""
        await trio.lowlevel.checkpoint()

    async def append_event(self, kind: str, data: Mapping[str, Any]) -> int:
        number = await self.put_many([], event=(kind, data))
        assert number is not None
        return number

    async def events(self, after: int = 0, limit: int = 100) -> list[Event]:
        await trio.lowlevel.checkpoint()
        return [event for event in self._events if event.number > after][:limit]

    async def wait_events(self, after: int) -> None:
        while not await self.events(after, 1):
            await self._appended.wait()


class MemoryBlobs:
    """Implements `node.ports.storage.Blobs`."""

    def __init__(self) -> None:
        self._held: dict[Digest, bytes] = {}

    def has(self, digest: Digest) -> bool:
        if len(digest) != DIGEST_BYTES:
            raise StorageError(f"digest has {len(digest)} bytes, not {DIGEST_BYTES}")
        return digest in self._held

    def size(self, digest: Digest) -> int:
        return len(self._get(digest))

    def read(self, digest: Digest, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0:
            raise StorageError(f"cannot read {length} bytes from offset {offset}")
        return self._get(digest)[offset : offset + length]

    def put(self, data: bytes | memoryview) -> Digest:
        digest = Digest(hashlib.sha256(data).digest())
        self._held[digest] = bytes(data)
        return digest

    def batch(self) -> "MemoryBatch":
        return MemoryBatch(self)

    def delete(self, digest: Digest) -> None:
        self._held.pop(digest, None)

    def _get(self, digest: Digest) -> bytes:
        if digest not in self._held:
            raise StorageError(f"blob {digest.hex()} is not here")
        return self._held[digest]


class MemoryBatch:
    """Implements `node.ports.storage.BlobBatch`."""

    def __init__(self, blobs: MemoryBlobs) -> None:
        self._blobs = blobs
        self._written: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._written.clear()

    def put(self, data: bytes | memoryview) -> Digest:
        self._written.append(bytes(data))
        return Digest(hashlib.sha256(data).digest())

    def commit(self) -> None:
        for data in self._written:
            self._blobs.put(data)
        self._written.clear()
