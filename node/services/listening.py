"""One announcement after the other; a bad one costs nobody but its sender.

Each is announced once.  What a full disk keeps from being written is therefore not refused but
tried again: those behind it wait, and so does the network, which holds a few of each sender's.
"""

from collections.abc import Awaitable, Callable

import structlog
import trio

from node.errors import NodeError, NoSpaceError
from node.ports.transport import Announcement
from protocol.errors import GossipIgnore, ProtocolError

Handler = Callable[[Announcement], Awaitable[None]]
"""May be called again with what it could not write."""

ROOM_EVERY_S = 5.0
"""How often it is seen whether the disk has room again."""

log = structlog.get_logger()


async def hear(handler: Handler, said: Announcement) -> None:
    """Handle one announcement to its end; raises nothing that is the sender's or the disk's doing."""
    about = {"topic": said.topic, "peer": said.origin}
    while True:
        try:
            await handler(said)
        except GossipIgnore:
            pass
        except NoSpaceError as error:
            log.warning("no room for an announcement", **about, reason=str(error))
            await trio.sleep(ROOM_EVERY_S)
            continue
        except (NodeError, ProtocolError) as error:
            log.warning("announcement refused", **about, reason=str(error))
        return
