"""What members say of a run before its proposal is here: announcements come in any order.

Each is announced once, so what is dropped here is lost to this node.  Room is therefore each
member's own: one that speaks of runs nobody has proposed takes none from the others, and one
statement that turns out to be nobody's to make keeps none of the others from being heard.
"""

from collections.abc import Awaitable, Callable

import structlog

from node.errors import AccessError
from protocol.errors import GossipIgnore, ProtocolError
from protocol.types import PeerId

KEPT_EACH = 64
"""Statements per member.  Consents and stances have a few hundred bytes: 64 members that all
fill theirs take a megabyte."""

log = structlog.get_logger()


class Early:
    """Sealed statements on runs that are not known yet, by who announced them."""

    def __init__(self) -> None:
        self._kept: dict[PeerId, list[tuple[bytes, bytes]]] = {}

    def keep(self, origin: PeerId, run: bytes, sealed: bytes) -> None:
        """Until `run` is known; raises `GossipIgnore` where the member's room is full."""
        mine = self._kept.setdefault(origin, [])
        if len(mine) >= KEPT_EACH:
            raise GossipIgnore(
                f"{len(mine)} statements on runs that are not known, limit is {KEPT_EACH}"
            )
        mine.append((run, sealed))

    async def give(self, run: bytes, take: Callable[[bytes], Awaitable[None]]) -> None:
        """Hand on what was said of a run that has become known, in the order it came."""
        said = [
            (origin, sealed)
            for origin, kept in self._kept.items()
            for about, sealed in kept
            if about == run
        ]
        for origin in {origin for origin, _ in said}:
            left = [each for each in self._kept[origin] if each[0] != run]
            self._kept[origin] = left
            if not left:
                del self._kept[origin]
        for origin, sealed in said:
            try:
                await take(sealed)
            except (AccessError, ProtocolError) as error:
                log.warning("early statement refused", peer=origin, reason=str(error))
