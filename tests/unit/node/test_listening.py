"""Announcements: what is bad is dropped, what the disk has no room for is tried again."""

import pytest

from node.errors import NoSpaceError, StorageError
from node.ports.transport import Announcement
from node.services import listening
from protocol.errors import GossipIgnore, GossipReject
from protocol.types import PeerId

SAID = Announcement(PeerId("12D3"), "consents", b"x")


def failing(*errors):
    """A handler that raises these in turn and then takes what it is given."""
    left, taken = list(errors), []

    async def handle(said):
        if left:
            raise left.pop(0)
        taken.append(said)

    return handle, taken


async def test_what_a_full_disk_kept_out_is_taken_once_there_is_room(autojump_clock):
    handle, taken = failing(NoSpaceError("full"), NoSpaceError("full"))
    await listening.hear(handle, SAID)
    assert taken == [SAID]
    assert autojump_clock.current_time() >= 2 * listening.ROOM_EVERY_S


@pytest.mark.parametrize(
    "error", [GossipIgnore("old"), GossipReject("bad"), StorageError("not here")]
)
async def test_what_is_bad_is_dropped(error):
    handle, taken = failing(error)
    await listening.hear(handle, SAID)
    assert taken == []
