"""Grants are read, ended, revoked, withdrawn; nothing else opens a unit."""

import stat

import pytest
import trio
from table_world import Clock, chunk, rows_of, unit_rows

from node.errors import (
    AccessError,
    ChainError,
)
from node.market import body
from node.market.grants import FRESH_S
from protocol.manifest import DataQuery
from protocol.members import MemberSet
from protocol.wire import encode


async def test_a_grantee_reads_exactly_what_was_granted(world):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", [0, 2], 30)
    got = await world.researcher.market.fetch(
        dataset, world.mn.signer.peer_id, world.out()
    )
    assert got["units"] == [0, 2]
    assert rows_of(world.out()) == await unit_rows(world, dataset, [0, 2])
    assert stat.S_IMODE(world.out().stat().st_mode) == 0o600
    # Not one body more has left the owner.
    # Two units: of each a list of chunks and a chunk.
    assert len(world.researcher.blobs.data) == 4
    assert (
        "keys_released",
        {"dataset": 1, "grantee": "researcher", "units": [0, 2]},
    ) in (world.mn.store.log)


async def test_one_unit_more_than_granted_is_refused_whole(world):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", [0, 2], 30)
    with pytest.raises(AccessError, match=r"units 1 .*not granted") as caught:
        await world.researcher.market.fetch(dataset, None, world.out(), units=[0, 1])
    assert "0,2" in caught.value.hint()
    assert not world.out().exists()
    assert not world.researcher.blobs.data


async def test_a_grantee_may_pull_only_bodies_it_was_granted(world):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", [0, 2], 30)
    pieces = [chunk(world, dataset, unit) for unit in range(4)]
    may = world.mn.market.may_fetch
    allowed = [may(world.researcher.signer.peer_id, one) for one in pieces]
    assert allowed == [True, False, True, False]
    for other in (world.stranger, world.ky):
        assert not any(may(other.signer.peer_id, one) for one in pieces)
    assert not may(world.researcher.signer.peer_id, bytes(32))
    assert not may("not-a-peer", pieces[0])


async def test_a_stranger_is_refused_and_the_refusal_is_on_record(world):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", None, 30)
    with pytest.raises(AccessError, match=r"no grant .* stranger") as caught:
        await world.stranger.market.fetch(dataset, None, world.out())
    assert caught.value.hint()
    assert not world.out().exists()
    assert world.mn.store.log[-1][0] == "keys_refused"
    # A peer that goes on asking does not fill the log, and is heard of again later.
    count = len(world.mn.store.log)
    for wait, more in ((0, 0), (59, 0), (1, 1)):
        world.clock.time += wait
        with pytest.raises(AccessError):
            await world.stranger.market.fetch(dataset, None, world.out())
        assert len(world.mn.store.log) == count + more


async def test_a_peer_that_is_no_member_gets_no_key(world):
    dataset = await world.listed()
    world.ledger.set = MemberSet.of(
        [m for m in world.ledger.set.members if m.name != "stranger"]
    )
    answer, _ = world.mn.transport.served["/rexis/data/2"]
    with pytest.raises(AccessError, match="not a member"):
        await answer(world.stranger.signer.peer_id, encode(DataQuery(dataset, 0)))


async def test_a_revoked_grant_gives_neither_key_nor_body(world):
    dataset = await world.listed()
    given = await world.mn.market.give(dataset, "researcher", [0], 30)
    piece = chunk(world, dataset)
    assert world.mn.market.may_fetch(world.researcher.signer.peer_id, piece)
    ended = await world.mn.market.revoke(given["grant"])
    assert ended["revoked"]
    assert not ended["active"]
    assert not world.mn.market.may_fetch(world.researcher.signer.peer_id, piece)
    with pytest.raises(AccessError, match="no grant"):
        await world.researcher.market.fetch(dataset, None, world.out())
    with pytest.raises(AccessError, match="not allowed"):
        await world.researcher.transport.fetch(
            world.mn.signer.peer_id, body, limit_bytes=1 << 20, timeout_s=1
        )


async def test_a_refused_revocation_leaves_the_grant_in_force(world):
    dataset = await world.listed()
    given = await world.mn.market.give(dataset, "researcher", [0], 30)
    piece = chunk(world, dataset)

    async def refuse(grant):
        raise ChainError("reverted")

    world.mn.chain.revoke = refuse
    with pytest.raises(ChainError):
        await world.mn.market.revoke(given["grant"])
    assert world.mn.market.may_fetch(world.researcher.signer.peer_id, piece)


async def test_a_grant_ends_with_its_day_for_keys_and_bodies(world):
    dataset = await world.listed()
    given = await world.mn.market.give(dataset, "researcher", [0], 1)
    piece = chunk(world, dataset)
    world.clock.time = given["until"] - 1
    await world.mn.market.refresh()
    assert world.mn.market.may_fetch(world.researcher.signer.peer_id, piece)
    world.clock.time = given["until"]
    assert not world.mn.market.may_fetch(world.researcher.signer.peer_id, piece)
    with pytest.raises(AccessError, match="no grant"):
        await world.researcher.market.fetch(dataset, None, world.out())
    (shown,) = await world.mn.market.grants(dataset)
    assert not shown["active"]


async def test_a_node_that_does_not_see_its_chain_lets_nobody_pull(world):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", [0], 30)
    piece = chunk(world, dataset)
    peer = world.researcher.signer.peer_id
    world.clock.time += FRESH_S
    assert world.mn.market.may_fetch(peer, piece)
    world.clock.time += 1
    assert not world.mn.market.may_fetch(peer, piece)
    world.ledger.down = True
    answer, _ = world.mn.transport.served["/rexis/data/2"]
    with pytest.raises(ChainError):
        await answer(peer, encode(DataQuery(dataset, 0)))


@pytest.mark.slow
async def test_watching_sees_a_revocation_by_others_and_survives_the_chain(
    world, autojump_clock
):
    dataset = await world.listed()
    given = await world.mn.market.give(dataset, "researcher", [0], 30)
    piece = chunk(world, dataset)
    peer = world.researcher.signer.peer_id
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.mn.market.watch)
        world.ledger.down = True
        await trio.sleep(25)
        world.ledger.down = False
        await world.mn.chain.revoke(given["grant"])
        assert world.mn.market.may_fetch(peer, piece)
        await trio.sleep(11)
        assert not world.mn.market.may_fetch(peer, piece)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("late", ["host", "chain"])
async def test_the_later_of_both_clocks_ends_a_grant(world, late):
    dataset = await world.listed()
    given = await world.mn.market.give(dataset, "researcher", [0], 1)
    piece = chunk(world, dataset)
    ahead = Clock()
    ahead.time = given["until"]
    if late == "chain":
        world.ledger.clock = ahead
    else:
        world.mn.market._now = world.mn.market._releases._now = ahead
    await world.mn.market.refresh()
    assert not world.mn.market.may_fetch(world.researcher.signer.peer_id, piece)
    answer, _ = world.mn.transport.served["/rexis/data/2"]
    with pytest.raises(AccessError, match="no grant"):
        await answer(world.researcher.signer.peer_id, encode(DataQuery(dataset, 0)))


async def test_fewer_units_than_granted_may_be_asked_and_no_more_come(world):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", [0, 2, 3], 30)
    got = await world.researcher.market.fetch(dataset, None, world.out(), units=[2])
    assert got["units"] == [2]
    assert len(world.researcher.blobs.data) == 2


async def test_two_grants_add_up_and_revoking_one_leaves_the_other(world):
    dataset = await world.listed()
    first = await world.mn.market.give(dataset, "researcher", [0, 1], 30)
    await world.mn.market.give(dataset, "researcher", [1, 2], 30)
    fetch = world.researcher.market.fetch
    assert (await fetch(dataset, None, world.out()))["units"] == [0, 1, 2]
    await world.mn.market.revoke(first["grant"])
    assert (await fetch(dataset, None, world.out()))["units"] == [1, 2]


async def test_a_revocation_acts_here_before_the_chain_has_answered(world):
    dataset = await world.listed()
    given = await world.mn.market.give(dataset, "researcher", [0], 30)
    piece = chunk(world, dataset)
    peer = world.researcher.signer.peer_id
    seen = []

    async def slow(grant):
        await world.mn.market.refresh()
        seen.append(world.mn.market.may_fetch(peer, piece))

    world.mn.chain.revoke = slow
    await world.mn.market.revoke(given["grant"])
    assert seen == [False]
