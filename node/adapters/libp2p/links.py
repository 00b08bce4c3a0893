"""Staying connected: redial with growing, jittered pauses; beat, and drop the dead.

libp2p notices a closed socket, never a silent peer.  Each neighbour is asked for a beat
every few seconds over the same exchange the services use, so a beat that comes back
proves that requests do.
"""

import logging
import random
from collections.abc import Callable
from math import inf

import trio

from node.adapters.libp2p.exchange import Exchange
from node.adapters.libp2p.frames import BROKEN
from node.adapters.libp2p.gossip import Gossip
from node.adapters.libp2p.host import Host
from node.errors import NodeError
from protocol.errors import ProtocolError
from protocol.types import PeerId

logger = logging.getLogger(__name__)

BEAT_PROTOCOL = "rexis/beat/1"
LOOK_S = 0.1
"""How often the set of connections is compared with the neighbours we talk to."""
BEAT_PERIOD_S = 3.0
BEAT_TIMEOUT_S = 4.0
SILENT_BEATS = 2
"""Beats in a row during which not one byte came: the peer hangs or its network is gone.
Two, because after a stall of our own every answer seems late once."""
MUTE_BEATS = 5
"""Beats in a row without an answer although bytes come, each waiting twice as long as the
one before, two minutes in all: the peer is overloaded or refuses us.  A machine that is
short of time must not lose its connections over it, because making new ones costs more
than anything else."""
STALL_S = 0.5
"""When our own look-around comes later than this, nothing is known about silence."""
AGAIN_S = 0.5
REPAIR_PERIOD_S = 5.0
REDIAL_FIRST_S = 0.25
REDIAL_LAST_S = 15.0


class Links:
    """The nursery of neighbours: one dialler per wanted peer, one session per neighbour."""

    def __init__(
        self,
        host: Host,
        exchange: Exchange,
        gossip: Gossip,
        allowed: Callable[[PeerId], bool],
    ) -> None:
        self._host = host
        self._exchange = exchange
        self._gossip = gossip
        self._allowed = allowed
        self._wanted: dict[PeerId, tuple[str, ...]] = {}
        self._dialling: dict[PeerId, trio.CancelScope] = {}
        self._sessions: dict[PeerId, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self._stalled = -inf
        """When our own event loop was late the last time."""
        exchange.serve(BEAT_PROTOCOL, _beat, limit_bytes=0)

    def connected(self) -> frozenset[PeerId]:
        return frozenset(self._sessions)

    def want(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """Keep a connection to `peer`; other addresses replace the old, and at once."""
        if self._wanted.get(peer) == addresses:
            return
        new = peer not in self._wanted
        self._wanted[peer] = addresses
        if new and self._nursery is not None:
            self._nursery.start_soon(self._dial_for_ever, peer)
        elif peer in self._dialling:
            self._dialling[peer].cancel()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for peer in self._wanted:
                nursery.start_soon(self._dial_for_ever, peer)
            while True:
                due = trio.current_time() + LOOK_S
                self._look(nursery)
                await trio.sleep_until(due)
                if trio.current_time() > due + STALL_S:
                    self._stalled = trio.current_time()

    def _look(self, nursery: trio.Nursery) -> None:
        """One session per connected member; none for whom it is over."""
        present = self._host.connected()
        members = frozenset(filter(self._allowed, present))
        for peer in present - members:
            nursery.start_soon(self._host.drop, peer)
        for peer in members - self._sessions.keys():
            self._sessions[peer] = trio.CancelScope()
            queue = self._gossip.meet(peer)
            nursery.start_soon(self._session, peer, self._sessions[peer], queue)
        for peer in self._sessions.keys() - members:
            self._sessions[peer].cancel()

    async def _session(
        self,
        peer: PeerId,
        scope: trio.CancelScope,
        queue: trio.MemoryReceiveChannel[bytes],
    ) -> None:
        """Everything we do with one neighbour while its connection lasts."""
        logger.info("connected peer=%s", peer)
        try:
            with scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._gossip.push_to, peer, queue)
                    nursery.start_soon(self._repair, peer)
                    await self._beat_until_dead(peer)
                    await self._host.drop(peer)
                    nursery.cancel_scope.cancel()
        finally:
            self._exchange.forget(peer)
            self._gossip.part(peer)
            self._sessions.pop(peer, None)
            logger.info("disconnected peer=%s", peer)

    async def _beat_until_dead(self, peer: PeerId) -> None:
        silent = mute = 0
        while silent < SILENT_BEATS and mute < MUTE_BEATS:
            asked = trio.current_time()
            try:
                await self._exchange.request(
                    peer,
                    BEAT_PROTOCOL,
                    b"",
                    timeout_s=BEAT_TIMEOUT_S * 2 ** max(0, mute - silent),
                    limit_bytes=0,
                )
            except NodeError as error:
                alive = max(self._host.heard(peer), self._stalled) >= asked
                silent = 0 if alive else silent + 1
                mute += 1
                logger.info("no beat peer=%s silent=%s: %s", peer, silent, error)
                await trio.sleep(_jitter(AGAIN_S))
            else:
                silent = mute = 0
                await trio.sleep(_jitter(BEAT_PERIOD_S))
        logger.warning("peer answers nothing peer=%s", peer)

    async def _repair(self, peer: PeerId) -> None:
        while True:
            try:
                await self._gossip.repair_from(peer)
            except (NodeError, ProtocolError) as error:
                logger.info("no repair peer=%s: %s", peer, error)
            await trio.sleep(_jitter(REPAIR_PERIOD_S))

    async def _dial_for_ever(self, peer: PeerId) -> None:
        pause = REDIAL_FIRST_S
        while True:
            with trio.CancelScope() as scope:  # cancelled when there are new addresses
                self._dialling[peer] = scope
                if await self._dial(peer):
                    pause = REDIAL_FIRST_S
                await trio.sleep(_jitter(pause))
                pause = min(2 * pause, REDIAL_LAST_S)
            if scope.cancelled_caught:
                pause = REDIAL_FIRST_S

    async def _dial(self, peer: PeerId) -> bool:
        """One attempt, if one is needed; false if it failed."""
        if peer in self._host.connected() or not self._allowed(peer):
            return True
        try:
            await self._host.dial(peer, self._wanted[peer])
        except (*BROKEN, NodeError) as error:
            logger.info("no connection peer=%s: %s", peer, error)
            return False
        return True


async def _beat(_peer: PeerId, _payload: bytes) -> bytes:
    return b""


def _jitter(pause: float) -> float:
    return pause * random.uniform(0.7, 1.3)
