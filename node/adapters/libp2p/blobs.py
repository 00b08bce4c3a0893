"""Large content by its digest: served to whom the policy allows, in ranges of chunks.

A range is asked for with `Want` and answered with the size of the whole blob (8 bytes)
and the chunks.  The digests of all chunks of a blob are a second protocol, asked only
after a blob from several holders came out wrong (audit.py).
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import trio

from node.adapters.libp2p.ahead import Ahead
from node.adapters.libp2p.exchange import Exchange, Parts
from node.adapters.libp2p.fetch import fetch
from node.adapters.libp2p.pool import SPAN_CHUNKS
from node.adapters.libp2p.wanted import (
    BLOB_PROTOCOL,
    LIST_PROTOCOL,
    SIZE_BYTES,
    Want,
    Wanted,
)
from node.adapters.partial_blob import CHUNK_BYTES, chunk_count
from node.errors import AccessError, TransportError
from node.ports.storage import Blobs
from node.ports.transport import Fetched
from protocol.types import DIGEST_BYTES, Digest, PeerId
from protocol.wire import decode

SENDING = 64
SENDING_TO_ONE = 4
"""Ranges on their way out; each holds two chunks in memory.  One peer that reads slowly
on all its streams cannot take every place."""
FETCHES = 12
"""Blobs fetched at once; each holds a few chunks in memory, further ones wait.  Several,
so that a holder that trickles does not keep everything else waiting."""
LISTS_KEPT = 8
WANT_LIMIT_BYTES = 128


class BlobExchange:
    """The `fetch` of the port, and the service it talks to."""

    def __init__(
        self,
        exchange: Exchange,
        blobs: Blobs,
        may_fetch: Callable[[PeerId, Digest], bool],
    ) -> None:
        self._exchange = exchange
        self._blobs = blobs
        self._may_fetch = may_fetch
        self._sending = trio.CapacityLimiter(SENDING)
        self._sending_to: dict[PeerId, trio.CapacityLimiter] = {}
        self._fetching = trio.CapacityLimiter(FETCHES)
        self._under_way: dict[Digest, trio.Lock] = {}
        self._listing = trio.CapacityLimiter(1)
        self._lists: OrderedDict[Digest, bytes] = OrderedDict()
        exchange.serve_body(BLOB_PROTOCOL, self._serve, limit_bytes=WANT_LIMIT_BYTES)
        exchange.serve(LIST_PROTOCOL, self._list, limit_bytes=DIGEST_BYTES)

    async def fetch(
        self,
        peers: Sequence[PeerId],
        digest: Digest,
        *,
        limit_bytes: int,
        timeout_s: float,
        lasting: bool = True,
    ) -> Fetched:
        lock = self._under_way.setdefault(digest, trio.Lock())
        try:
            with trio.fail_after(timeout_s):
                async with lock, self._fetching:
                    if self._blobs.has(digest):
                        return Fetched({}, frozenset())
                    wanted = Wanted(
                        self._exchange,
                        self._blobs,
                        digest,
                        limit_bytes=limit_bytes,
                        timeout_s=timeout_s,
                        lasting=lasting,
                    )
                    return await fetch(wanted, peers)
        except trio.TooSlowError as error:
            raise TransportError(
                f"blob {digest.hex()} took longer than {timeout_s} s",
                hint="what has arrived is kept; fetch it again to go on",
            ) from error
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._under_way.pop(digest, None)

    async def _serve(self, peer: PeerId, payload: bytes) -> tuple[int, Parts]:
        want = decode(payload, Want, limit_bytes=WANT_LIMIT_BYTES)
        digest, size = self._held(peer, want.digest)
        chunks = chunk_count(size)
        if not (0 <= want.first <= chunks and 0 <= want.count <= SPAN_CHUNKS):
            raise TransportError(
                f"chunks {want.first} and {want.count} more are outside of {chunks}"
            )
        start = want.first * CHUNK_BYTES
        end = min(size, start + want.count * CHUNK_BYTES)
        length = SIZE_BYTES + max(0, end - start)
        return length, self._read(peer, digest, size, range(start, end, CHUNK_BYTES))

    def _held(self, peer: PeerId, name: bytes) -> tuple[Digest, int]:
        """The digest and size of a blob that `peer` may have and we do."""
        digest = Digest(name)
        if len(digest) != DIGEST_BYTES:
            raise TransportError(f"digest has {len(digest)} bytes, not {DIGEST_BYTES}")
        if not self._may_fetch(peer, digest):
            raise AccessError("not allowed")
        if not self._blobs.has(digest):
            raise TransportError(f"blob {digest.hex()} is not here")
        return digest, self._blobs.size(digest)

    async def _read(
        self, peer: PeerId, digest: Digest, size: int, offsets: range
    ) -> Parts:
        own = self._sending_to.setdefault(peer, trio.CapacityLimiter(SENDING_TO_ONE))
        async with own, self._sending:
            head = size.to_bytes(SIZE_BYTES, "big")
            next_: Ahead[bytes] | None = None
            for offset in offsets:
                data = next_ or self._ahead(digest, size, offset)
                after = offset + CHUNK_BYTES
                next_ = self._ahead(digest, size, after) if after in offsets else None
                yield head + await data.result()
                head = b""
            if head:
                yield head

    def _ahead(self, digest: Digest, size: int, offset: int) -> Ahead[bytes]:
        length = min(CHUNK_BYTES, size - offset)
        return Ahead(partial(self._blobs.read, digest, offset, length))

    async def _list(self, peer: PeerId, payload: bytes) -> bytes:
        digest, size = self._held(peer, payload)
        async with self._listing:
            if digest not in self._lists:
                self._lists[digest] = await trio.to_thread.run_sync(
                    self._chunk_digests, digest, size
                )
            self._lists.move_to_end(digest)
            while len(self._lists) > LISTS_KEPT:
                self._lists.popitem(last=False)
            return self._lists[digest]

    def _chunk_digests(self, digest: Digest, size: int) -> bytes:
        return b"".join(
            hashlib.sha256(self._blobs.read(digest, offset, CHUNK_BYTES)).digest()
            for offset in range(0, size, CHUNK_BYTES)
        )
