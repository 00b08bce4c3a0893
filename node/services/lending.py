"""The host's side of a worker that other members use (`protocol.hosting`).

A session of a member is a connection of ours to our own worker, and bytes carried between.
We read none of them: the worker is the one that must bear what a stranger sends, and it has
its own limits.  Membership is asked at every piece.  A session that nobody has asked about
for ten minutes is closed, since its key holder may have died without a word.
"""

from collections import Counter

import structlog
import trio

from node.errors import AccessError, ComputeError
from node.ports.transport import Transport
from node.services.federation import Federation
from protocol.hosting import (
    HOSTING_LIMIT_BYTES,
    HOSTING_PROTOCOL,
    PIECE_LIMIT_BYTES,
    REASON_LIMIT,
    Ask,
    Give,
    Leave,
    Piece,
    Take,
    check,
)
from protocol.types import PeerId
from protocol.wire import decode, encode

SESSIONS_PER_PEER = 2
"""One at work, and one that its key holder has given up without our knowing."""
TAKE_WAIT_S = 15.0
"""How long an answer is waited for before the key holder must ask again."""
IDLE_LIMIT_S = 600.0
_SWEEP_EVERY_S = 30.0

log = structlog.get_logger()


class Lender:
    """Serves members who train on our worker."""

    def __init__(
        self,
        *,
        transport: Transport,
        federation: Federation,
        worker_socket: str,
        lends: bool,
    ) -> None:
        self._federation = federation
        self._socket = worker_socket
        self._lends = lends
        self._sessions: dict[tuple[PeerId, bytes], _Session] = {}
        transport.serve(HOSTING_PROTOCOL, self._serve, limit_bytes=HOSTING_LIMIT_BYTES)

    async def run(self) -> None:
        """Close what was forgotten, until cancelled; then close everything."""
        try:
            while True:
                await trio.sleep(_SWEEP_EVERY_S)
                now = trio.current_time()
                for place, session in list(self._sessions.items()):
                    if now - session.asked_at > IDLE_LIMIT_S:
                        log.info("forgotten session closed", peer=place[0])
                        await self._end(place)
        finally:
            with trio.CancelScope(shield=True):
                for place in list(self._sessions):
                    await self._end(place)

    async def _serve(self, peer: PeerId, payload: bytes) -> bytes:
        member = self._federation.peer(peer)
        if not self._lends:
            raise AccessError(
                "this node lends its worker to nobody",
                hint="its operator sets worker.lend",
            )
        ask: Ask = decode(payload, Ask, limit_bytes=HOSTING_LIMIT_BYTES)  # type: ignore[arg-type] # a union is no class
        check(ask)
        place = (peer, ask.session)
        if isinstance(ask, Leave):
            await self._end(place)
            return encode(Piece())
        session = self._sessions.get(place)
        if session is None:
            if isinstance(ask, Take) or ask.place:
                return encode(Piece(over="no such session here; its worker is gone"))
            session = await self._begin(place)
            log.info("session begun", member=member.name)
        session.asked_at = trio.current_time()
        try:
            if isinstance(ask, Take):
                return encode(Piece(await session.take(ask.place)))
            await session.give(ask)
        except ComputeError as error:
            await self._end(place)
            return encode(Piece(over=str(error)[:REASON_LIMIT]))
        return encode(Piece())

    async def _begin(self, place: tuple[PeerId, bytes]) -> "_Session":
        held = Counter(peer for peer, _ in self._sessions)[place[0]]
        if held >= SESSIONS_PER_PEER:
            raise AccessError(
                f"{held} sessions of this member are open, limit is {SESSIONS_PER_PEER}",
                hint="end one; forgotten ones are closed after ten minutes",
            )
        # In the table before the first await, or the limit would not hold.
        session = self._sessions[place] = _Session(self._socket)
        return session

    async def _end(self, place: tuple[PeerId, bytes]) -> None:
        session = self._sessions.pop(place, None)
        if session is not None:
            await session.aclose()


class _Session:
    """One connection to our worker, and where both streams stand."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._stream: trio.SocketStream | None = None
        self._given = 0
        self._taken = 0
        self._last = b""
        self._giving = trio.Lock()
        self._taking = trio.Lock()
        self._begun = trio.Event()
        self._over = False
        self.asked_at = trio.current_time()

    async def give(self, ask: Give) -> None:
        async with self._giving:
            if self._stream is None:
                self._stream = await _connected(self._socket)
                if self._over:  # meanwhile: nobody would close this connection later
                    await self.aclose()
                    raise ComputeError("the session was ended")
                self._begun.set()
            if ask.place + len(ask.data) <= self._given:
                return  # a repetition: the first answer was lost
            if ask.place != self._given:
                raise ComputeError(f"a piece for {ask.place} after {self._given}")
            # Counted before it is sent: half a piece given twice would be worse than a
            # session that ends.
            self._given += len(ask.data)
            try:
                await self._stream.send_all(ask.data)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ComputeError("the worker went away") from error

    async def take(self, place: int) -> bytes:
        async with self._taking:
            if place == self._taken - len(self._last) and self._last:
                return self._last
            if place != self._taken:
                raise ComputeError(
                    f"asked from {place}, the stream is at {self._taken}"
                )
            with trio.move_on_after(TAKE_WAIT_S):
                await self._begun.wait()
                self._last = await self._received()
                self._taken += len(self._last)
                return self._last
            return b""

    async def _received(self) -> bytes:
        if self._stream is None:
            raise ComputeError("the session has not begun")
        try:
            data = bytes(await self._stream.receive_some(PIECE_LIMIT_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ComputeError("the worker went away") from error
        if not data:
            raise ComputeError("the worker went away")
        return data

    async def aclose(self) -> None:
        self._over = True
        if self._stream is not None:
            await trio.aclose_forcefully(self._stream)


async def _connected(path: str) -> trio.SocketStream:
    try:
        return await trio.open_unix_socket(path)
    except (OSError, RuntimeError) as error:
        raise ComputeError("the host's worker does not answer") from error
