"""One libp2p host, hardened: what is switched off, bounded or repaired, and why.

docs/network.md lists the defects of 0.8.1 this file answers.  The rest of the adapter
sees four verbs: run, open a stream, dial, drop.
"""

import logging
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from math import inf
from typing import Any

import libp2p
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key
from libp2p.custom_types import TProtocol
from libp2p.network import swarm as swarm_module
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from node.adapters.libp2p import gate
from node.adapters.libp2p.frames import BROKEN
from node.adapters.libp2p.gate import CLOSE_TIMEOUT_S, Gate, close_socket
from node.adapters.libp2p.noise import GatedNoise
from node.adapters.libp2p.yamux import install
from node.errors import TransportError
from protocol.types import PeerId

logger = logging.getLogger(__name__)

LIBRARY_VERSION = "0.8.1"
PROTOCOL = TProtocol("/rexis/exchange/1")
MAX_CONNECTIONS = 192
DIAL_TIMEOUT_S = 10.0
STREAMS_PER_PEER = 64
"""Inbound streams of one peer, those included that have not named a protocol yet."""

StreamHandler = Callable[[PeerId, Any], Awaitable[None]]


class Host:
    """The only holder of libp2p objects besides the streams themselves."""

    def __init__(self, seed: bytes, allowed: Callable[[PeerId], bool]) -> None:
        _quieten()
        swarm_module._HAPPY_EYEBALLS_DELAY = 0  # noqa: SLF001 - a pinned library
        gate.install()
        keys = create_new_key_pair(seed)
        noise = GatedNoise(
            keys, noise_privkey=create_noise_key().private_key, allowed=allowed
        )
        self._host = libp2p.new_host(
            key_pair=keys,
            sec_opt={NOISE_ID: noise},
            muxer_opt={TProtocol(name): kind for name, kind in install().items()},
            connection_config=ConnectionConfig(
                max_connections=MAX_CONNECTIONS,
                high_watermark=MAX_CONNECTIONS,
                low_watermark=0,
                min_connections=0,
            ),
        )
        self._network = self._host.get_network()
        self._network.retry_config = RetryConfig(max_retries=0)  # links.py does that
        self._network.auto_connector.maybe_connect = _dial_nobody
        # Identify tells addresses, which come from the registry here, and runs in tasks
        # of trio's own, where an error would end the process; nothing of it is spoken.
        self._host.multiselect.handlers.clear()
        self._host._schedule_identify = _identify_nobody  # noqa: SLF001
        self._guard()

    @property
    def peer_id(self) -> PeerId:
        return PeerId(str(self._host.get_id()))

    @property
    def library_host(self) -> Any:
        """The wrapped host, for measurements and tests."""
        return self._host

    def addresses(self) -> tuple[str, ...]:
        return tuple(str(address) for address in self._host.get_addrs())

    def connected(self) -> frozenset[PeerId]:
        return frozenset(
            PeerId(str(peer))
            for peer, connections in self._network.get_connections_map().items()
            if any(not connection.is_closed for connection in connections)
        )

    def heard(self, peer: PeerId) -> float:
        """When the last byte came from `peer`, on trio's clock."""
        connections = self._network.get_connections(ID.from_base58(peer))
        sessions = (connection.muxed_conn.secured_conn for connection in connections)
        return max((session.heard for session in sessions), default=-inf)

    def serve(self, handler: StreamHandler) -> None:
        """Hand every inbound stream of our protocol to `handler`."""

        async def accept(stream: Any) -> None:
            await handler(PeerId(str(stream.muxed_conn.peer_id)), stream)

        self._host.set_stream_handler(PROTOCOL, accept)

    async def open(self, peer: PeerId) -> Any:
        """A new stream to a connected peer; never dials."""
        if peer not in self.connected():
            raise TransportError(
                f"peer {peer} is not connected",
                hint="check that its node runs and that its address is right",
            )
        return await self._host.new_stream(ID.from_base58(peer), [PROTOCOL])

    async def dial(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """Connect by the first address that works; raises what the last one did.

        The library bars a peer for a minute after a failure (R15), and of several TCP
        addresses it only ever tries the one it has known longest (L1); so it is given
        one address at a time, and has forgotten everything else about the peer.
        """
        identity = ID.from_base58(peer)
        for number, address in enumerate(addresses, start=1):
            self._network.unblock_peer(identity)
            self._host.get_peerstore().clear_addrs(identity)
            try:
                with trio.fail_after(DIAL_TIMEOUT_S):
                    await self._host.connect(PeerInfo(identity, [_multiaddr(address)]))
            except BROKEN:
                if number == len(addresses):
                    raise
            else:
                return

    async def drop(self, peer: PeerId) -> None:
        """Close every connection to `peer`, whether or not it listens."""
        identity = ID.from_base58(peer)
        for connection in self._network.get_connections(identity):
            await close_socket(connection.muxed_conn.secured_conn)
        with trio.move_on_after(CLOSE_TIMEOUT_S) as scope, suppress(Exception):
            scope.shield = True
            await self._network.close_peer(identity)

    @asynccontextmanager
    async def running(self, listen: tuple[str, ...]) -> AsyncIterator[None]:
        """Listen on `listen` until left; leaves no socket behind."""
        addresses = [_multiaddr(address) for address in listen]
        for address in addresses:
            _require_free(address)
        async with self._host.run(addresses):
            try:
                _require_listening(addresses, self._network.listeners)
                yield
            finally:
                for connection in self._network.get_connections():
                    await close_socket(connection.muxed_conn.secured_conn)
                await close_socket(self._host)

    def _guard(self) -> None:
        """Keep one bad stream or connection from ending the process (R2, R3)."""
        handle = self._host._swarm_stream_handler  # noqa: SLF001 - a pinned library
        open_streams: Counter[str] = Counter()

        async def contained(stream: Any) -> None:
            peer = str(stream.muxed_conn.peer_id)
            open_streams[peer] += 1
            try:
                if open_streams[peer] > STREAMS_PER_PEER:
                    raise TransportError(f"more than {STREAMS_PER_PEER} streams")
                await handle(stream)
            except Exception as error:
                logger.info("stream ended peer=%s: %r", peer, error)
                with suppress(Exception):
                    await stream.reset()
            finally:
                open_streams[peer] -= 1

        self._network.set_stream_handler(contained)
        self._network._do_handle_inbound_connection = (  # noqa: SLF001
            Gate(self._network).admit
        )


def _quieten() -> None:
    """What the library finds worth a line of five, this adapter tells in one.

    Its loggers do not propagate, and one without handlers prints; `LIBP2P_DEBUG` still
    gives it handlers of its own.
    """
    for name in ("", "libp2p"):
        if not logging.getLogger(name).handlers:
            logging.getLogger(name).addHandler(logging.NullHandler())


async def _dial_nobody() -> None:
    """In place of the library's own dialling of whoever it has an address of."""
    await trio.lowlevel.checkpoint()


def _identify_nobody(_peer: ID, *, reason: str) -> None:
    logger.debug("identify not spoken, asked for because of %s", reason)


def _multiaddr(text: str) -> Multiaddr:
    try:
        return Multiaddr(text)
    except (MultiaddrError, ValueError) as error:
        raise TransportError(
            f"{text!r} is not an address: {error}",
            hint="write it as /ip4/192.0.2.1/tcp/4001",
        ) from error


def _require_listening(addresses: list[Multiaddr], listeners: Any) -> None:
    """The library starts with whatever it could bind, and says nothing of the rest."""
    for address in addresses:
        if str(address) not in listeners:
            raise TransportError(
                f"cannot listen on {address}",
                hint="another process took the port at this moment; start again",
            )


def _require_free(address: Multiaddr) -> None:
    """Bind once without SO_REUSEPORT, with which libp2p would share a taken port."""
    protocols = [protocol.name for protocol in address.protocols()]
    if protocols[:2] not in (["ip4", "tcp"], ["ip6", "tcp"]):
        raise TransportError(
            f"cannot listen on {address}: only /ip4 or /ip6 with /tcp",
            hint="write it as /ip4/0.0.0.0/tcp/4001",
        )
    family = socket.AF_INET if protocols[0] == "ip4" else socket.AF_INET6
    port = int(address.value_for_protocol("tcp") or 0)
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.value_for_protocol(protocols[0]), port))
        except OSError as error:
            raise TransportError(
                f"cannot listen on {address}: {error.strerror}",
                hint="another process holds the port, or the address is not ours",
            ) from error
