"""One blob from whoever has it, while holders die, hang, and give at different rates.

The blob is cut into chunks; the holders' streams take spans of missing chunks from one
pool, so a fast holder gives more, and a span whose holder fails returns to the pool.
Near the end an idle stream also asks for what another has been slow with.  One task
writes and hashes what arrives, in threads, while the next chunks come in.
"""

from operator import itemgetter

import trio
from trio.to_thread import run_sync as in_thread

from node.adapters.libp2p.audit import Outcome, audit
from node.adapters.libp2p.exchange import RefusedError
from node.adapters.libp2p.pool import SPAN_CHUNKS, Pool
from node.adapters.libp2p.wanted import SIZE_BYTES, Wanted
from node.adapters.partial_blob import PartialBlob, open_partial
from node.errors import AccessError, StorageError, TransportError
from protocol.types import PeerId

HOLDERS = 8
WAITING = 4
"""Chunks between the network and the disk, and as many again being written.  With one
arriving from each of `HOLDERS` a fetch has at most 16 chunks in memory."""
TRIES = 3
"""Failures in a row after which a holder is given up; a refusal ends it at once."""
RETRY_PAUSE_S = 0.4
CATCH_UP_CHUNKS = 8
SETTLE_BYTES = 1 << 24
LOOK_AGAIN_S = 0.25
"""A chunk becomes late without anything happening; so idle streams look again."""

Chunk = tuple[int, list[bytes]]


class Collection:
    """The blob under one claim of its size."""

    def __init__(self, wanted: Wanted, peers: list[PeerId], size: int | None) -> None:
        """`size` is the claim, or None for that of whoever answers first."""
        self._wanted = wanted
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
            if not await in_thread(partial.matches):
                peers = [peer for peer in self._peers if peer not in self.dissenters]
                outcome = await audit(self._wanted, partial, peers, self._sender)
                if outcome is Outcome.WRONG:
                    await in_thread(partial.discard)
                if outcome is not Outcome.RIGHT:
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
                while (
                    len(batch) < WAITING
                    and self._arrived.statistics().current_buffer_used
                ):
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
        """Let the disk work while the network does.

        At the end it would take as long again; and only a sync sets it to work, because
        a virtual disk keeps what is written back to it in its host's memory until then.
        """
        done = 0
        while True:
            arrived = self._wanted.sources.total()
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
            if await self._pull(peer, first) or peer in self.agreed:
                return True
            if not self._may_recover(peer):
                break
            await trio.sleep(RETRY_PAUSE_S * number)
        return False

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
        error = self._wanted.errors.get(peer)
        return not self._fault and not isinstance(error, AccessError | RefusedError)

    async def _pull(self, peer: PeerId, span: range) -> bool:
        """One request; a failure is noted and what did not come is free again."""
        try:
            async with self._wanted.ask(peer, span) as body:
                size = int.from_bytes(b"".join(await body.take(SIZE_BYTES)), "big")
                partial = await self._agree(peer, size, span)
                for index in range(span.start, min(span.stop, partial.chunks)):
                    parts = await body.take(partial.length(index))
                    if self._pool.land(index):
                        self._sender[index] = peer
                        self._wanted.sources[peer] += partial.length(index)
                        await self._arriving.send((index, parts))
        except (AccessError, TransportError) as error:
            self._wanted.errors[peer] = error
            return False
        except StorageError as error:
            self._fault = error
            return False
        else:
            self._wanted.errors.pop(peer, None)
            return True
        finally:
            self._pool.failed(peer, span)
            self._signal()

    async def _agree(self, peer: PeerId, size: int, span: range) -> PartialBlob:
        """The place for the chunks, if `peer` speaks of the same blob."""
        limit = self._wanted.limit_bytes
        if size > limit:
            raise RefusedError(f"blob of {peer} has {size} bytes, limit is {limit}")
        async with self._opening:
            if self._size is not None and size != self._size:
                self.dissenters.add(peer)
                raise RefusedError(f"blob of {peer} has {size} bytes, not {self._size}")
            if self._partial is None:
                self._size = size
                wanted = self._wanted
                partial = await in_thread(
                    open_partial, wanted.blobs, wanted.digest, size, wanted.lasting
                )
                self._pool = Pool(partial.missing(), len(self._peers))
                self._pool.claim(peer, span, trio.current_time())
                self._partial = partial
        self.agreed.add(peer)
        return self._partial

    async def _change(self) -> None:
        with trio.move_on_after(LOOK_AGAIN_S):
            await self._changed.wait()

    def _signal(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
