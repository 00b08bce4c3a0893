"""Announcements between nodes: push to every neighbour, then compare and repair.

A push is a request with an acknowledgement, so a slow neighbour slows only its own queue;
a full queue drops, because the comparison brings everything back.
"""

import logging
import time
from collections.abc import Callable

import trio

from node.adapters.libp2p.exchange import Exchange
from node.errors import NodeError
from node.ports.transport import Announcement
from protocol.errors import GossipIgnore, ProtocolError
from protocol.gossip import (
    BATCH_LIMIT_BYTES,
    KEEP_NOTES,
    SEALED_LIMIT_BYTES,
    Batch,
    GossipLog,
    Pull,
)
from protocol.members import peer_id, public_key
from protocol.types import Millis, PeerId
from protocol.wire import MESSAGE_LIMIT_BYTES, decode, encode

logger = logging.getLogger(__name__)

PUSH_PROTOCOL = "rexis/push/1"
PULL_PROTOCOL = "rexis/pull/1"
REPLY_LIMIT_BYTES = BATCH_LIMIT_BYTES + SEALED_LIMIT_BYTES
QUEUE_LENGTH = 256
"""Announcements that wait for the consumer, 16 MiB at most; the rest wait at neighbours."""
PUSH_QUEUE_LENGTH = 1024
EXCHANGE_TIMEOUT_S = 10.0
MAX_PULLS = 256
"""Rounds of one repair; at half a MiB each more than a full log of 64 members."""


class Gossip:
    """The log, its arrivals, and the conversation with each neighbour."""

    def __init__(
        self,
        exchange: Exchange,
        own: PeerId,
        sign: Callable[[bytes], bytes],
        allowed: Callable[[PeerId], bool],
    ) -> None:
        self._exchange = exchange
        self._log = GossipLog(
            public_key(own), sign, lambda key: allowed(peer_id(key)), _now()
        )
        self._queues: dict[PeerId, trio.MemorySendChannel[bytes]] = {}
        self._arrived, self.arrivals = trio.open_memory_channel[Announcement](
            QUEUE_LENGTH
        )
        exchange.serve(PUSH_PROTOCOL, self._pushed, limit_bytes=MESSAGE_LIMIT_BYTES)
        exchange.serve(PULL_PROTOCOL, self._pulled, limit_bytes=MESSAGE_LIMIT_BYTES)

    def announce(self, topic: str, payload: bytes) -> None:
        """Seal, keep, and queue for every neighbour."""
        sealed = self._log.announce(topic, payload)
        for peer, queue in self._queues.items():
            try:
                queue.send_nowait(sealed)
            except (trio.WouldBlock, trio.BrokenResourceError):
                logger.debug("push queue full peer=%s", peer)

    def meet(self, peer: PeerId) -> trio.MemoryReceiveChannel[bytes]:
        """Queue for a neighbour from now on: what is said next arrives in order."""
        self._queues[peer], receiver = trio.open_memory_channel[bytes](
            PUSH_QUEUE_LENGTH
        )
        return receiver

    async def push_to(
        self, peer: PeerId, queue: trio.MemoryReceiveChannel[bytes]
    ) -> None:
        """Send a neighbour what we announce, in batches, while it is connected."""
        async with queue:
            async for first in queue:
                batch = Batch(_drain(first, queue), more=False)
                await self._push(peer, encode(batch))

    def part(self, peer: PeerId) -> None:
        self._queues.pop(peer, None)

    async def repair_from(self, peer: PeerId) -> None:
        """Ask a neighbour for what we lack, until it has no more."""
        self._log.forget_strangers()
        for _ in range(MAX_PULLS):
            data = await self._exchange.request(
                peer,
                PULL_PROTOCOL,
                encode(self._log.known()),
                timeout_s=EXCHANGE_TIMEOUT_S,
                limit_bytes=REPLY_LIMIT_BYTES,
            )
            batch = decode(data, Batch, limit_bytes=REPLY_LIMIT_BYTES)
            if not self._take(peer, batch) or not batch.more:
                return

    async def _push(self, peer: PeerId, data: bytes) -> None:
        try:
            await self._exchange.request(
                peer,
                PUSH_PROTOCOL,
                data,
                timeout_s=EXCHANGE_TIMEOUT_S,
                limit_bytes=0,
            )
        except NodeError as error:
            logger.info("push lost peer=%s: %s", peer, error)

    async def _pushed(self, peer: PeerId, payload: bytes) -> bytes:
        self._take(peer, decode(payload, Batch))
        return b""

    async def _pulled(self, _peer: PeerId, payload: bytes) -> bytes:
        return encode(self._log.missing(decode(payload, Pull)))

    def _take(self, peer: PeerId, batch: Batch) -> int:
        """Deliver what is new; returns how many, 0 also if the consumer is behind."""
        taken = 0
        for sealed in batch.sealed:
            try:
                heard = self._log.inspect(sealed, _now())
            except GossipIgnore as reason:
                logger.debug("announcement ignored peer=%s: %s", peer, reason)
                continue
            except ProtocolError as error:
                logger.warning("announcement refused peer=%s: %s", peer, error)
                continue
            announcement = Announcement(
                peer_id(heard.sender), heard.topic, heard.content
            )
            try:
                self._arrived.send_nowait(announcement)
            except trio.WouldBlock:
                logger.warning("announcements wait for their consumer")
                return 0
            self._log.record(heard)
            taken += 1
        return taken


def _drain(
    first: bytes, receiver: trio.MemoryReceiveChannel[bytes]
) -> tuple[bytes, ...]:
    chosen = [first]
    size = len(first)
    while size < BATCH_LIMIT_BYTES and len(chosen) < KEEP_NOTES:
        try:
            chosen.append(receiver.receive_nowait())
        except trio.WouldBlock:
            break
        size += len(chosen[-1])
    return tuple(chosen)


def _now() -> Millis:
    return Millis(time.time_ns() // 1_000_000)
