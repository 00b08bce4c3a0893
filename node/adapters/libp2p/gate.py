"""Who gets as far as a connection: bounded before it is known who knocks, and after.

A stranger can open sockets and say nothing, or announce a message of a terabyte; none of
that may cost a member its place or the process its memory.  Before the Noise handshake
connections are counted by address; after it, by peer.
"""

import logging
from collections import Counter
from contextlib import suppress
from typing import Any

import trio
from libp2p.exceptions import ParseError
from libp2p.io.abc import Reader
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.protocol_muxer import multiselect_communicator
from libp2p.utils.varint import MessageTooLarge, read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr

logger = logging.getLogger(__name__)

AT_THE_GATE = 64
AT_THE_GATE_PER_ADDRESS = 32
"""Connections without a name yet.  An honest handshake takes a few round trips, so these
are many; 128 places of the host's 192 stay for those who have one."""
CONNECTIONS_PER_PEER = 2
"""Two nodes that dial each other at the same moment have two; a peer that comes back
before we noticed that it was gone takes the place of its oldest."""
LINE_LIMIT_BYTES = 1024
"""Longest line of protocol negotiation; go-multistream's own limit."""
CLOSE_TIMEOUT_S = 1.2


class Gate:
    """Upgrades inbound connections, and holds a place only while one lives (R2)."""

    def __init__(self, network: Any) -> None:
        self._network = network
        self._knocking: Counter[str] = Counter()

    async def admit(self, raw: Any, address: Multiaddr, _failure: Any) -> None:
        """In place of the library's handler of one accepted socket; never raises."""
        try:
            muxed = await self._upgrade(raw, address)
            await self._drop_oldest(muxed.peer_id)
            await muxed.event_closed.wait()
        except Exception as error:
            logger.info("inbound connection refused: %s", str(error) or repr(error))
        finally:
            await close_socket(raw)

    async def _upgrade(self, raw: Any, address: Multiaddr) -> Any:
        remote = raw.get_remote_address()
        source = str(remote[0]) if remote else "unknown"
        knocking = self._knocking
        if knocking.total() >= AT_THE_GATE:
            raise ConnectionRefusedError(f"{AT_THE_GATE} connections have no name yet")
        if knocking[source] >= AT_THE_GATE_PER_ADDRESS:
            raise ConnectionRefusedError(
                f"{AT_THE_GATE_PER_ADDRESS} connections of {source} have no name yet"
            )
        knocking[source] += 1
        try:
            return await self._network.upgrade_inbound_raw_conn(
                RawConnection(raw, initiator=False), address
            )
        finally:
            knocking[source] -= 1
            if not knocking[source]:
                del knocking[source]

    async def _drop_oldest(self, peer: ID) -> None:
        """Close the sockets of more connections than one peer needs."""
        alive = [c for c in self._network.get_connections(peer) if not c.is_closed]
        for connection in alive[:-CONNECTIONS_PER_PEER]:
            logger.info("connection replaced peer=%s", peer)
            await close_socket(connection.muxed_conn.secured_conn)


async def close_socket(connection: Any) -> None:
    """Without a farewell, which could wait for a peer that reads no more; never raises."""
    with trio.move_on_after(CLOSE_TIMEOUT_S) as scope, suppress(Exception):
        scope.shield = True
        await connection.close()


async def _read_line(reader: Reader) -> bytes:
    """As the library's `read_delim`, for lines that a protocol name fits in."""
    try:
        line = await read_varint_prefixed_bytes_limited(reader, LINE_LIMIT_BYTES)
    except MessageTooLarge as error:
        raise ParseError(str(error)) from error
    if not line.endswith(b"\n"):
        raise ParseError("line has no end")
    return line[:-1]


def install() -> None:
    """Bound what anyone may send during negotiation, before and after the handshake."""
    multiselect_communicator.read_delim = _read_line
