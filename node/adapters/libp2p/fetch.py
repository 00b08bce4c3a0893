"""One blob from whoever has it: many holders, any of which may die, hang or lie.

The blob is cut into chunks; the holders' streams take spans of missing chunks from one
pool, so a fast holder gives more, and a span whose holder fails returns to the pool.
Near the end an idle stream also asks for what another has been slow with.  One task
writes and hashes what arrives, in threads, while the next chunks come in.

Only the digest of the whole is trusted.  If it does not come out, the holders are asked
for the digests of their chunks and believed one after another: the chunks in which ours
differ from what one holder claims are fetched again, from that holder alone.  The claim
under which the whole comes out right is the true one; who sent a chunk it replaced, or
claimed otherwise before, has lied.  One honest holder is enough, and each liar costs at
most one more transfer of what it lied about.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from operator import itemgetter

import trio
from trio.to_thread import run_sync as in_thread

from node.adapters.libp2p.exchange import Exchange, RefusedError
from node.adapters.libp2p.frames import Body
from node.adapters.libp2p.pool import SPAN_CHUNKS, Pool
from node.adapters.partial_blob import (
    CHUNK_BYTES,
    PartialBlob,
    earlier_size,
    open_partial,
)
from node.errors import AccessError, NodeError, StorageError, TransportError
from node.ports import Blobs, Fetched
from protocol.types import DIGEST_BYTES, Digest, PeerId
from protocol.wire import Message, encode

logger = logging.getLogger(__name__)

BLOB_PROTOCOL = "rexis/blob/2"
LIST_PROTOCOL = "rexis/blob-list/1"
SIZE_BYTES = 8
HOLDERS = 8
WAITING = 4
"""Chunks between the network and the disk.  With one arriving from each of `HOLDERS` and
as many being written as waiting, a fetch has at most 16 chunks in memory."""
TRIES = 3
"""Failures in a row after which a holder is given up; a refusal ends it at once."""
RETRY_PAUSE_S = 0.4
CATCH_UP_CHUNKS = 8
SETTLE_BYTES = 1 << 25
LOOK_AGAIN_S = 0.25
"""A chunk becomes late without anything happening; so idle streams look again."""


Chunk = tuple[int, list[bytes]]


class Want(Message, frozen=True, tag="want"):
    """Ask for `count` chunks of a blob from chunk `first` on, and for its size."""

    digest: bytes
    first: int
    count: int


class Fetch:
    """The whole of one fetch, over every size that holders claim."""

    def __init__(
        self,
        exchange: Exchange,
        blobs: Blobs,
        digest: Digest,
        *,
        limit_bytes: int,
        timeout_s: float,
    ) -> None:
        self.exchange = exchange
        self.blobs = blobs
        self.digest = digest
        self.limit_bytes = limit_bytes
        self.timeout_s = timeout_s
        self.sources: Counter[PeerId] = Counter()
        self.liars: set[PeerId] = set()
        self.errors: dict[PeerId, NodeError] = {}

    async def run(self, peers: Sequence[PeerId]) -> Fetched:
        """Raises the one holder's error, or one that names them all."""
        waiting = list(dict.fromkeys(peers))[:HOLDERS]
        size = earlier_size(self.blobs, self.digest)
        wrong: set[PeerId] = set()
        while waiting:
            collection = Collection(self, waiting, size)
            if await collection.run():
                self.liars |= wrong
                for peer in self.liars:
                    logger.warning("lied blob=%s peer=%s", self.digest.hex(), peer)
                return Fetched(dict(self.sources), frozenset(self.liars))
            # Another size than what an earlier fetch left is no lie yet: it may have
            # been that fetch which was lied to.
            wrong |= collection.agreed
            waiting = [peer for peer in waiting if peer in collection.dissenters]
            size = None
        raise self._failure()

    def _failure(self) -> NodeError:
        if len(self.errors) == 1:
            return next(iter(self.errors.values()))
        refused = all(isinstance(error, AccessError) for error in self.errors.values())
        kind = AccessError if self.errors and refused else TransportError
        told = "; ".join(f"{peer}: {error}" for peer, error in self.errors.items())
        return kind(
            f"no holder gave blob {self.digest.hex()}: {told or 'none was named'}",
            hint="fetch it again to go on with what has arrived",
        )


class Collection:
    """The blob under one claim of its size."""

    def __init__(self, fetch: Fetch, peers: list[PeerId], size: int | None) -> None:
        """`size` is the claim, or None for that of whoever answers first."""
        self._fetch = fetch
        self._peers = peers
        self._size = size
        self.agreed: set[PeerId] = set()
        self.dissenters: set[PeerId] = set()
        self._partial: PartialBlob | None = None
        self._opening = trio.Lock()
        self._pool = Pool([], 1)
        self._sender: dict[int, PeerId] = {}
        self._active = len(peers)
        self._fault: StorageError | None = None
        self._changed = trio.Event()
        self._arriving, self._arrived = trio.open_memory_channel[Chunk](WAITING)

    async def run(self) -> bool:
        """True once the blob is complete, right and committed."""
        try:
            await self._collect()
            partial = self._partial
            if partial is None or not self._pool.done:
                return False
            if not await in_thread(partial.matches) and not await self._audit(partial):
                await in_thread(partial.discard)
                return False
            await in_thread(partial.commit)
            return True
        finally:
            if self._partial is not None:
                self._partial.close()

    async def _collect(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write)
            nursery.start_soon(self._settle)
            for peer in self._peers:
                nursery.start_soon(self._holder, peer)
            while self._active and not self._fault:
                if self._partial is not None and self._pool.done:
                    break
                await self._change()
            nursery.cancel_scope.cancel()
        if self._fault is not None:
            raise self._fault

    async def _write(self) -> None:
        """Write what has arrived; hash it too, or catch up when nothing arrives."""
        try:
            async for chunk in self._arrived:
                batch = [chunk]
                while self._arrived.statistics().current_buffer_used:
                    batch.append(self._arrived.receive_nowait())
                indexes = [index for index, _ in batch]
                await in_thread(self._write_all, batch)
                for index in indexes:
                    self._pool.landed(index)
                self._signal()
        except StorageError as error:  # ours, not a peer's: nothing helps
            self._fault = error
            self._signal()

    def _write_all(self, batch: list[Chunk]) -> None:
        assert self._partial is not None
        batch.sort(key=itemgetter(0))
        while batch:
            first, run = batch[0][0], 1
            while run < len(batch) and batch[run][0] == first + run:
                run += 1
            self._partial.write(first, [part for _, ps in batch[:run] for part in ps])
            del batch[:run]
        for _ in range(CATCH_UP_CHUNKS):
            if not self._partial.advance():
                break

    async def _settle(self) -> None:
        """Bring what arrives to the disk meanwhile; at the end it would cost as long again."""
        done = 0
        while True:
            arrived = self._fetch.sources.total()
            if self._partial is None or arrived - done < SETTLE_BYTES:
                await self._change()
            else:
                await in_thread(self._partial.settle)
                done = arrived

    async def _holder(self, peer: PeerId) -> None:
        try:
            # One holder is asked for the first chunks at once.  Of several, or when
            # chunks may be here already, the size is asked first.
            whole = len(self._peers) == 1 and self._size is None
            if await self._meet(peer, range(SPAN_CHUNKS if whole else 0)):
                await self._stream(peer)
        finally:
            self._active -= 1
            self._signal()

    async def _meet(self, peer: PeerId, first: range) -> bool:
        """Learn the size from `peer`; False if it will not help."""
        for number in range(1, TRIES + 1):
            if await self._pull(peer, first):
                return True
            if not self._may_recover(peer):
                break
            await trio.sleep(RETRY_PAUSE_S * number)
        return peer in self.agreed

    async def _stream(self, peer: PeerId) -> None:
        failures = 0
        while failures < TRIES:
            span = self._pool.take(peer, trio.current_time())
            if span is None:
                await self._change()
            elif await self._pull(peer, span):
                failures = 0
            elif self._may_recover(peer):
                failures += 1
                await trio.sleep(RETRY_PAUSE_S * failures)
            else:
                return

    def _may_recover(self, peer: PeerId) -> bool:
        error = self._fetch.errors.get(peer)
        return not self._fault and not isinstance(error, AccessError | RefusedError)

    async def _pull(self, peer: PeerId, span: range) -> bool:
        """One request; a failure is noted and what did not come is free again."""
        try:
            async with self._ask(peer, span) as body:
                size = int.from_bytes(b"".join(await body.take(SIZE_BYTES)), "big")
                partial = await self._agree(peer, size, span)
                for index in range(span.start, min(span.stop, partial.chunks)):
                    parts = await body.take(partial.length(index))
                    if self._pool.land(index):
                        self._sender[index] = peer
                        self._fetch.sources[peer] += partial.length(index)
                        await self._arriving.send((index, parts))
        except (AccessError, TransportError) as error:
            self._fetch.errors[peer] = error
            return False
        except StorageError as error:
            self._fault = error
            return False
        else:
            self._fetch.errors.pop(peer, None)
            return True
        finally:
            self._pool.failed(peer, span)
            self._signal()

    def _ask(self, peer: PeerId, span: range) -> AbstractAsyncContextManager[Body]:
        want = Want(self._fetch.digest, span.start, len(span))
        return self._fetch.exchange.answer(
            peer,
            BLOB_PROTOCOL,
            encode(want),
            timeout_s=self._fetch.timeout_s,
            limit_bytes=SIZE_BYTES + len(span) * CHUNK_BYTES,
        )

    async def _agree(self, peer: PeerId, size: int, span: range) -> PartialBlob:
        """The place for the chunks, if `peer` speaks of the same blob."""
        limit = self._fetch.limit_bytes
        if size > limit:
            raise RefusedError(f"blob of {peer} has {size} bytes, limit is {limit}")
        async with self._opening:
            if self._size is not None and size != self._size:
                self.dissenters.add(peer)
                raise RefusedError(f"blob of {peer} has {size} bytes, not {self._size}")
            if self._partial is None:
                self._size = size
                partial = await in_thread(
                    open_partial, self._fetch.blobs, self._fetch.digest, size
                )
                self._pool = Pool(partial.missing(), len(self._peers))
                self._pool.claim(peer, span, trio.current_time())
                self._partial = partial
        self.agreed.add(peer)
        return self._partial

    async def _audit(self, partial: PartialBlob) -> bool:
        """Believe one holder after another; True once the whole is right."""
        found = partial.found()
        alone = len(self._peers) == 1 and len(self._sender) == partial.chunks
        for peer in () if alone else self._peers:
            if peer in self.dissenters:
                continue
            try:
                replaced = await self._believe(peer, partial)
            except (AccessError, TransportError) as error:
                self._fetch.errors[peer] = error
                continue
            if replaced is not None and await in_thread(partial.matches):
                self._fetch.liars |= replaced
                return True
            self._accuse(peer, found)
        if alone:
            self._accuse(self._peers[0], found)
        return False

    def _accuse(self, peer: PeerId, found: str) -> None:
        self._fetch.liars.add(peer)
        self._fetch.errors[peer] = TransportError(
            f"blob of {peer} has digest {found}, not {self._fetch.digest.hex()}",
            hint="the peer sent other bytes than it announced; ask another",
        )

    async def _believe(self, peer: PeerId, partial: PartialBlob) -> set[PeerId] | None:
        """Replace what differs from the claim of `peer`, and return who had sent that.

        None if `peer` does not keep to its own claim.
        """
        data = await self._fetch.exchange.request(
            peer,
            LIST_PROTOCOL,
            self._fetch.digest,
            timeout_s=self._fetch.timeout_s,
            limit_bytes=DIGEST_BYTES * partial.chunks,
        )
        starts = range(0, len(data), DIGEST_BYTES)
        claims = [data[start : start + DIGEST_BYTES] for start in starts]
        ours = await in_thread(partial.chunk_digests)
        if len(claims) != len(ours):
            return None
        differing = [index for index, own in enumerate(ours) if own != claims[index]]
        senders: set[PeerId] = set()
        for index in differing:
            async with self._ask(peer, range(index, index + 1)) as body:
                await body.take(SIZE_BYTES)
                parts = await body.take(partial.length(index))
            if hashlib.sha256(b"".join(parts)).digest() != claims[index]:
                return None
            await in_thread(partial.write, index, parts)
            if index in self._sender:
                senders.add(self._sender[index])
            self._sender[index] = peer
        return senders - {peer}

    async def _change(self) -> None:
        with trio.move_on_after(LOOK_AGAIN_S):
            await self._changed.wait()

    def _signal(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
