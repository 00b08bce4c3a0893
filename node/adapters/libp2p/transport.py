"""The five parts put together behind the `Transport` port."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import trio

from node.adapters.libp2p.blobs import BlobExchange
from node.adapters.libp2p.exchange import Exchange
from node.adapters.libp2p.gossip import Gossip
from node.adapters.libp2p.host import Host
from node.adapters.libp2p.links import Links
from node.ports.storage import Blobs
from node.ports.transport import Announcement, Answer, Fetched
from protocol.types import Digest, PeerId


class Libp2pTransport:
    """A node's place in the network; `run` holds it open until cancelled."""

    def __init__(
        self,
        *,
        identity_seed: bytes,
        sign: Callable[[bytes], bytes],
        listen: tuple[str, ...],
        allowed: Callable[[PeerId], bool],
        blobs: Blobs,
        may_fetch: Callable[[PeerId, Digest], bool],
    ) -> None:
        self._listen = listen
        self._host = Host(identity_seed, allowed)
        self._exchange = Exchange(self._host, allowed)
        self._blobs = BlobExchange(self._exchange, blobs, may_fetch)
        self._gossip = Gossip(self._exchange, self.peer_id, sign, allowed)
        self._links = Links(self._host, self._exchange, self._gossip, allowed)

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        async with self._host.running(self._listen):
            task_status.started()
            await self._links.run()

    @property
    def peer_id(self) -> PeerId:
        return self._host.peer_id

    def addresses(self) -> tuple[str, ...]:
        return self._host.addresses()

    def connected(self) -> frozenset[PeerId]:
        return self._links.connected()

    def keep_connected(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        self._links.want(peer, addresses)

    def serve(self, protocol: str, answer: Answer, *, limit_bytes: int) -> None:
        self._exchange.serve(protocol, answer, limit_bytes=limit_bytes)

    async def announce(self, topic: str, payload: bytes) -> None:
        self._gossip.announce(topic, payload)
        await trio.lowlevel.checkpoint()

    def announcements(self) -> AsyncIterator[Announcement]:
        return self._gossip.arrivals

    async def request(
        self,
        peer: PeerId,
        protocol: str,
        payload: bytes,
        *,
        timeout_s: float,
        limit_bytes: int,
    ) -> bytes:
        return await self._exchange.request(
            peer, protocol, payload, timeout_s=timeout_s, limit_bytes=limit_bytes
        )

    async def fetch(
        self,
        peer: PeerId,
        digest: Digest,
        *,
        limit_bytes: int,
        timeout_s: float,
        others: Sequence[PeerId] = (),
        lasting: bool = True,
    ) -> Fetched:
        return await self._blobs.fetch(
            (peer, *others),
            digest,
            limit_bytes=limit_bytes,
            timeout_s=timeout_s,
            lasting=lasting,
        )
