"""A worker on another member's node: a session's bytes as requests and answers.

What a key holder and a worker say to each other is theirs (keyed rows and weights, as on a
local socket); here it is a stream of bytes each way, cut into pieces that are numbered by
their place.  Asking again for the same place gets the same bytes, and giving them again
changes nothing, so a broken connection costs a repetition and not the session.
"""

from protocol.errors import MalformedMessageError
from protocol.wire import Message

HOSTING_PROTOCOL = "/rexis/hosting/1"
SESSION_BYTES = 16
PIECE_LIMIT_BYTES = 4 << 20
"""Large enough that a round trip of 50 ms leaves 80 MB/s, small enough to hold one a session."""
HOSTING_LIMIT_BYTES = PIECE_LIMIT_BYTES + (1 << 10)
"""A piece and what is around it."""
REASON_LIMIT = 400
PLACE_LIMIT = 1 << 50


class Give(Message, frozen=True, tag="host-give"):
    """Bytes for the worker; place 0 begins a session."""

    session: bytes
    place: int
    data: bytes


class Take(Message, frozen=True, tag="host-take"):
    """Ask for what the worker said from `place` on; the host waits a little for it."""

    session: bytes
    place: int


class Leave(Message, frozen=True, tag="host-leave"):
    """The session is over and its trunk may be forgotten."""

    session: bytes


class Piece(Message, frozen=True, tag="host-piece"):
    """The answer to each of them; `data` is empty but for `Take`."""

    data: bytes = b""
    over: str = ""
    """Why the session is at its end; empty while it goes on."""


Ask = Give | Take | Leave


def check(ask: Ask) -> None:
    """Lengths and limits; `MalformedMessageError` names what is wrong."""
    if len(ask.session) != SESSION_BYTES:
        raise MalformedMessageError(
            f"session has {len(ask.session)} bytes, needs {SESSION_BYTES}"
        )
    if not isinstance(ask, Leave) and not 0 <= ask.place <= PLACE_LIMIT:
        raise MalformedMessageError(f"place is {ask.place}, limit is {PLACE_LIMIT}")
    if isinstance(ask, Give) and not 1 <= len(ask.data) <= PIECE_LIMIT_BYTES:
        raise MalformedMessageError(
            f"a piece has {len(ask.data)} bytes, limit is {PIECE_LIMIT_BYTES}"
        )
