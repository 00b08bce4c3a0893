"""A local socket behind which another member's worker answers (`protocol.hosting`).

The compute child speaks to it as to a worker of ours; the daemon carries the bytes to the
member that `worker.host` names and back.  What travels is what a worker is given anyway:
keyed weights and keyed rows.  A connection that breaks is waited for and the piece is sent
again; when the host's worker has died, the local connection ends and the child hears it.
"""

import os
import secrets
import socket
from pathlib import Path
from typing import Any

import structlog
import trio

from node.errors import AccessError, ComputeError, NodeError, TransportError
from node.ports.transport import Transport
from node.services.federation import Federation
from protocol.errors import ProtocolError
from protocol.hosting import (
    HOSTING_LIMIT_BYTES,
    HOSTING_PROTOCOL,
    PIECE_LIMIT_BYTES,
    SESSION_BYTES,
    Ask,
    Give,
    Leave,
    Piece,
    Take,
)
from protocol.members import Member
from protocol.wire import decode, encode

REQUEST_TIMEOUT_S = 60.0
"""A piece of 4 MiB at half a megabit a second; a worker's thinking is waited for in turns."""
PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Between tries after a broken connection: half a minute in all."""
LEAVE_TIMEOUT_S = 2.0

log = structlog.get_logger()


class Borrower:
    """Serves our own compute child."""

    def __init__(
        self, *, transport: Transport, federation: Federation, host: str, path: Path
    ) -> None:
        self._transport = transport
        self._federation = federation
        self._host = host
        self._path = path

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled."""
        self._path.unlink(missing_ok=True)
        bound = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # The home is its owner's alone, so nobody can connect between bind and chmod.
        await bound.bind(os.fspath(self._path))
        self._path.chmod(0o600)
        bound.listen(4)
        try:
            await trio.serve_listeners(
                self._carry, [trio.SocketListener(bound)], task_status=task_status
            )
        finally:
            self._path.unlink(missing_ok=True)

    async def _carry(self, stream: trio.SocketStream) -> None:
        """One session, both ways, until either side ends it."""
        session = secrets.token_bytes(SESSION_BYTES)
        try:
            member = self._federation.named(self._host)
            async with stream, trio.open_nursery() as nursery:
                place = 0
                while data := bytes(await stream.receive_some(PIECE_LIMIT_BYTES)):
                    await self._ask(member, Give(session, place, data))
                    if place == 0:  # there is nothing to take from before this
                        nursery.start_soon(self._down, member, session, stream)
                    place += len(data)
                nursery.cancel_scope.cancel()
        except* (NodeError, ProtocolError) as group:
            for error in group.exceptions:
                log.warning("remote worker lost", host=self._host, reason=str(error))
        except* trio.BrokenResourceError:
            pass  # the child went away; the host is told below
        finally:
            with trio.move_on_after(LEAVE_TIMEOUT_S) as scope:
                scope.shield = True
                await self._left(session)

    async def _down(
        self, member: Member, session: bytes, stream: trio.SocketStream
    ) -> None:
        place = 0
        while True:
            data = await self._ask(member, Take(session, place))
            place += len(data)
            if data:
                await stream.send_all(data)

    async def _left(self, session: bytes) -> None:
        try:
            await self._once(self._federation.named(self._host), Leave(session))
        except (NodeError, ProtocolError) as error:
            log.info("host not told", host=self._host, reason=str(error))

    async def _ask(self, member: Member, ask: Ask) -> bytes:
        """The worker's bytes, over as many connections as it takes."""
        for pause in PAUSES_S:
            try:
                return await self._once(member, ask)
            except AccessError:
                raise  # the host understood, and said no
            except TransportError as error:
                log.info("trying again", host=self._host, reason=str(error))
                await trio.sleep(pause)
        return await self._once(member, ask)

    async def _once(self, member: Member, ask: Ask) -> bytes:
        data = await self._transport.request(
            member.peer_id,
            HOSTING_PROTOCOL,
            encode(ask),
            timeout_s=REQUEST_TIMEOUT_S,
            limit_bytes=HOSTING_LIMIT_BYTES,
        )
        piece = decode(data, Piece, limit_bytes=HOSTING_LIMIT_BYTES)
        if piece.over:
            raise ComputeError(f"{self._host}: {piece.over}")
        return piece.data
