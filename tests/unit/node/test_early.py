"""What is said of a run before its proposal is here."""

import pytest

from node.errors import AccessError
from node.services.early import KEPT_EACH, Early
from protocol.errors import GossipIgnore, GossipReject

RUN, OTHER = bytes(32), bytes([1]) * 32


def _taker(refused=(), why=None):
    taken = []

    async def take(sealed):
        if sealed in refused:
            raise why
        taken.append(sealed)

    return taken, take


async def test_what_was_said_early_is_given_once_and_to_its_run_alone():
    early = Early()
    early.keep("a", RUN, b"one")
    early.keep("b", RUN, b"two")
    early.keep("a", OTHER, b"three")
    taken, take = _taker()
    await early.give(RUN, take)
    assert taken == [b"one", b"two"]
    await early.give(RUN, take)
    assert taken == [b"one", b"two"]
    await early.give(OTHER, take)
    assert taken[2:] == [b"three"]
    assert early._kept == {}


@pytest.mark.parametrize(
    "why", [GossipReject("a second, different consent"), AccessError("is not a member")]
)
async def test_a_statement_that_is_refused_keeps_no_other_from_being_heard(why):
    early = Early()
    early.keep("stranger to the run", RUN, b"not its to say")
    early.keep("member", RUN, b"consent")
    taken, take = _taker((b"not its to say",), why)
    await early.give(RUN, take)
    assert taken == [b"consent"]


async def test_a_member_that_speaks_of_runs_nobody_proposed_fills_its_own_room_only():
    early = Early()
    for number in range(KEPT_EACH):
        early.keep("flooder", number.to_bytes(32, "big"), b"x")
    with pytest.raises(GossipIgnore, match=f"limit is {KEPT_EACH}"):
        early.keep("flooder", RUN, b"x")
    early.keep("member", OTHER, b"consent")
    taken, take = _taker()
    await early.give(OTHER, take)
    assert taken == [b"consent"]
