"""Large content by its digest: served to whom the policy allows, checked when fetched."""

import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import trio

from node.adapters.libp2p.exchange import Exchange
from node.adapters.libp2p.frames import CHUNK_BYTES
from node.errors import AccessError, StorageError, TransportError
from node.ports import Blobs
from protocol.types import DIGEST_BYTES, Digest, PeerId

BLOB_PROTOCOL = "rexis/blob/1"
BATCH_BYTES = 2 << 20
"""Hashed and stored by a worker thread at once, while the next bytes come in."""


class BlobWriter(Protocol):
    """What `Blobs.writer()` returns where the store can take a blob piece by piece.

    `write` is called from worker threads, one call at a time.
    """

    def write(self, data: bytes) -> None: ...

    def commit(self, digest: Digest) -> None: ...

    def abort(self) -> None: ...


class _Buffer:
    """For a store that cannot: the blob is in memory until it is complete."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        self._parts.append(data)

    def commit(self, digest: Digest) -> None:
        stored = self._blobs.put(b"".join(self._parts))
        if stored != digest:
            raise StorageError(f"stored {stored.hex()} instead of {digest.hex()}")

    def abort(self) -> None:
        self._parts.clear()


def _writer(blobs: Blobs) -> BlobWriter:
    make: Callable[[], BlobWriter] | None = getattr(blobs, "writer", None)
    return _Buffer(blobs) if make is None else make()


class BlobExchange:
    """The `fetch` half of the port, and the service it talks to."""

    def __init__(
        self,
        exchange: Exchange,
        blobs: Blobs,
        may_fetch: Callable[[PeerId, Digest], bool],
    ) -> None:
        self._exchange = exchange
        self._blobs = blobs
        self._may_fetch = may_fetch
        exchange.serve_body(BLOB_PROTOCOL, self._serve, limit_bytes=DIGEST_BYTES)

    async def fetch(
        self, peer: PeerId, digest: Digest, *, limit_bytes: int, timeout_s: float
    ) -> None:
        if self._blobs.has(digest):
            return
        hasher = hashlib.sha256()
        writer = _writer(self._blobs)
        batch: list[bytes] = []

        def take() -> None:
            for piece in batch:
                hasher.update(piece)
                writer.write(piece)
            batch.clear()

        try:
            async with self._exchange.answer(
                peer,
                BLOB_PROTOCOL,
                digest,
                timeout_s=timeout_s,
                limit_bytes=limit_bytes,
            ) as (_, parts):
                async for part in parts:
                    batch.append(part)
                    if sum(map(len, batch)) >= BATCH_BYTES:
                        await trio.to_thread.run_sync(take)
            take()
            if hasher.digest() != digest:
                raise TransportError(
                    f"blob of {peer} has digest {hasher.hexdigest()}, not {digest.hex()}",
                    hint="the peer sent other bytes than it announced; ask another",
                )
            writer.commit(digest)
        except BaseException:
            writer.abort()
            raise

    async def _serve(
        self, peer: PeerId, payload: bytes
    ) -> tuple[int, AsyncIterator[bytes]]:
        digest = Digest(payload)
        if len(payload) != DIGEST_BYTES:
            raise TransportError(f"digest has {len(payload)} bytes, not {DIGEST_BYTES}")
        if not self._may_fetch(peer, digest):
            raise AccessError("not allowed")
        if not self._blobs.has(digest):
            raise TransportError(f"blob {digest.hex()} is not here")
        size = self._blobs.size(digest)
        return size, self._read(digest, size)

    async def _read(self, digest: Digest, size: int) -> AsyncIterator[bytes]:
        for offset in range(0, size, CHUNK_BYTES):
            yield self._blobs.read(digest, offset, min(CHUNK_BYTES, size - offset))
