"""What the daemon keeps: blobs by their digest, and small records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from protocol.types import Digest


@dataclass(frozen=True)
class Event:
    """Something an operator may want to know later."""

    number: int
    time: int
    """Unix milliseconds."""
    kind: str
    data: Mapping[str, Any]

    def row(self) -> dict[str, Any]:
        """As the admin interface shows it."""
        return {
            "number": self.number,
            "at_ms": self.time,
            "kind": self.kind,
            "data": dict(self.data),
        }


class Blobs(Protocol):
    """Large content by its SHA-256, on disk.

    What is not `lasting` survives kill -9, and is gone after a restart of the machine.
    """

    def has(self, digest: Digest) -> bool: ...

    def size(self, digest: Digest) -> int: ...

    def read(self, digest: Digest, offset: int, length: int) -> bytes: ...

    def put(self, data: bytes | memoryview) -> Digest:
        """Durable when this returns; the buffer is the caller's again."""

    def batch(self) -> "BlobBatch":
        """For many that are to be durable at one moment."""

    def delete(self, digest: Digest) -> None:
        """Nothing happens if it is not here."""


class BlobBatch(Protocol):
    """Blobs that are here, durably, once `commit` has returned, and not before.

    Leaving its context drops what was not committed.
    """

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def put(self, data: bytes | memoryview) -> Digest:
        """The buffer is the caller's again when this returns; from any thread."""

    def commit(self) -> None:
        """Nobody may be putting."""


class Store(Protocol):
    """Small records that survive kill -9 once a write has returned."""

    async def get(self, namespace: str, key: bytes) -> bytes | None: ...

    async def put(self, namespace: str, key: bytes, value: bytes) -> None: ...

    async def delete(self, namespace: str, key: bytes) -> None: ...

    async def scan(self, namespace: str) -> list[tuple[bytes, bytes]]: ...

    async def append_event(self, kind: str, data: Mapping[str, Any]) -> int: ...

    async def put_many(
        self,
        writes: Sequence[tuple[str, bytes, bytes | None]],
        *,
        event: tuple[str, Mapping[str, Any]] | None = None,
        lasting: bool = True,
    ) -> int | None:
        """All of it or nothing; None as a value deletes.  Returns the event's number.

        What is not `lasting` survives kill -9; a power cut may take it back.
        """

    async def scrub(self) -> None:
        """What was deleted or replaced until now is in none of our files any more."""

    async def events(self, after: int = 0, limit: int = 100) -> list[Event]:
        """Numbered from 1, without gaps, oldest first."""

    async def wait_events(self, after: int) -> None:
        """Until there is an event with a higher number."""
