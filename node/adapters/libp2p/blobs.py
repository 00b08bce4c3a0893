"""Large content by its digest: served to whom the policy allows, checked when fetched."""

import hashlib
from collections.abc import AsyncIterator, Callable

from node.adapters.libp2p.exchange import Exchange
from node.adapters.libp2p.frames import CHUNK_BYTES
from node.errors import AccessError, TransportError
from node.ports import Blobs
from protocol.types import DIGEST_BYTES, Digest, PeerId

BLOB_PROTOCOL = "rexis/blob/1"


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
        received: list[bytes] = []
        async with self._exchange.answer(
            peer, BLOB_PROTOCOL, digest, timeout_s=timeout_s, limit_bytes=limit_bytes
        ) as (_, parts):
            async for part in parts:
                hasher.update(part)
                received.append(part)
        if hasher.digest() != digest:
            raise TransportError(
                f"blob from {peer} has digest {hasher.hexdigest()}, not {digest.hex()}",
                hint="the peer sent other bytes than it announced; ask another",
            )
        self._blobs.put(b"".join(received))

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
