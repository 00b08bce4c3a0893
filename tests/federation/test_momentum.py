"""Runs whose outer step has momentum: velocities are as exact, and as hard to lose, as states."""

import json
import random
from contextlib import AsyncExitStack

import numpy as np
import pytest
import trio

from ee.spec import size
from node.compute import scoring, state
from node.services.states import States
from protocol.aggregate.coordinates import count
from protocol.aggregate.ring import blocks


@pytest.fixture
def moving(world):
    outer = {"rate": 0.7, "momentum": 0.9}
    world.plan = json.dumps({**json.loads(world.plan), "outer": outer})
    return world


def velocities(site, run, length, travel):
    """What a member has on disk after the newest round it knows; `travel` of them are summed."""
    root = site.runs.record(run).scales
    data = state.path_of(site.folder / "states", root).read_bytes()
    assert state.root_of(data) == root
    assert len(data) == 4 * length + blocks(travel)
    return np.frombuffer(data, "<f4", length)


async def until_equal(world, run, length, one_in=1):
    """Every member has the newest state and its velocities; one that was away fetches them."""
    records = [site.runs.record(run) for site in world.sites]
    assert len({(record.state, record.scales) for record in records}) == 1
    files = [
        state.path_of(site.folder / "states", root)
        for site in world.sites
        for root in (records[0].state, records[0].scales)
    ]
    with trio.fail_after(20):
        while not all(file.exists() for file in files):
            await trio.sleep(0.05)
    travel = count(length, one_in)
    found = [velocities(site, run, length, travel) for site in world.sites]
    assert found[0].any()
    assert all(np.array_equal(one, found[0]) for one in found[1:])
    for site in world.sites:
        # As many entries as the model has, as without momentum: nothing else is trained.
        assert state.read(site.folder / "states", records[0].state, length).any()


@pytest.fixture
def fetched(monkeypatch):
    """(folder's owner, root, size) of everything that a member asked the others for."""
    asked, usual = [], States.fetch

    async def fetch(states, run, root, length_bytes, holders):
        asked.append((states.folder.parent.name, root, length_bytes))
        await usual(states, run, root, length_bytes, holders)

    monkeypatch.setattr(States, "fetch", fetch)
    return asked


@pytest.mark.slow
async def test_a_member_that_was_away_fetches_the_velocities_and_goes_on_with_them(
    moving, spec, fetched
):
    late, *others = moving.sites
    async with AsyncExitStack() as stack:
        for site in others:
            await stack.enter_async_context(site.up())
        async with late.up():
            run = await moving.propose(rounds=10)
            await trio.sleep(0.1)
        with trio.fail_after(60):
            while others[0].runs.row(run)["round"] < 2:
                await trio.sleep(0.01)
        assert fetched == []
        async with late.up():
            await moving.until_finished(run)
            await until_equal(moving, run, size(spec))
    rows = others[0].runs.rounds(run)
    assert late.name not in rows[1]["survivors"]
    assert late.name in rows[-1]["survivors"]
    assert {name for name, _, _ in fetched} == {late.name}
    length = size(spec)
    sizes = {4 * length, 4 * length + blocks(length)}
    assert {length_bytes for _, _, length_bytes in fetched} == sizes


@pytest.mark.slow
@pytest.mark.parametrize("one_in", [1, 4])
async def test_a_node_killed_at_any_moment_comes_back_to_the_same_velocities(
    moving, spec, one_in
):
    if one_in > 1:
        thin = {"one_in": one_in}
        moving.plan = json.dumps({**json.loads(moving.plan), "thin": thin})
    draw = random.Random(7)
    async with AsyncExitStack() as stack:
        for site in moving.sites[1:]:
            await stack.enter_async_context(site.up())
        first = moving.sites[0]
        run = await moving.through_kills(first, 4, draw)
        async with first.up():
            await moving.until_finished(run)
            await until_equal(moving, run, size(spec), one_in)


@pytest.mark.slow
async def test_a_rejected_round_leaves_the_velocities_as_they_were(
    moving, spec, monkeypatch
):
    monkeypatch.setattr(scoring, "acceptable", lambda *_: False)
    async with AsyncExitStack() as stack:
        for site in moving.sites:
            await stack.enter_async_context(site.up())
        run = await moving.propose(rounds=2)
        await moving.until_finished(run)
        assert [r["accepted"] for r in moving.sites[0].runs.rounds(run)] == [False] * 2
        for site in moving.sites:
            assert not velocities(site, run, size(spec), size(spec)).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "named"),
    [("train.local", "root"), ("round.mask", "scales"), ("round.apply", "base")],
)
async def test_what_a_disk_damages_comes_from_the_others_although_its_base_stays(
    moving, spec, fetched, monkeypatch, method, named
):
    """All rounds are rejected, so that no later state takes the place of the damaged one."""
    victim, usual, done = moving.sites[2], moving.compute.call, []

    async def call(asked, params, **more):
        mine = params.get("folder") == str(victim.folder / "states")
        if mine and asked == method and not done:
            path = state.path_of(victim.folder / "states", params[named])
            held = path.read_bytes()
            path.write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
            done.append(params[named])
        return await usual(asked, params, **more)

    monkeypatch.setattr(moving.compute, "call", call)
    monkeypatch.setattr(scoring, "acceptable", lambda *_: False)
    async with AsyncExitStack() as stack:
        for site in moving.sites:
            await stack.enter_async_context(site.up())
        run = await moving.propose(rounds=3)
        await moving.until_finished(run)
        rows = moving.sites[0].runs.rounds(run)
        assert [row["accepted"] for row in rows] == [False] * 3
        assert victim.name in rows[-1]["survivors"]
    assert [(name, root) for name, root, _ in fetched] == [(victim.name, *done)]


@pytest.mark.slow
@pytest.mark.parametrize("lost", [False, True])
async def test_a_member_whose_disk_lost_the_velocities_is_told_and_fetches_them(
    moving, spec, fetched, monkeypatch, lost
):
    """The check of this very thing: were they no part of what is certified, it would go on."""
    length, victim = size(spec), moving.sites[2]
    usual, done = moving.compute.call, []

    async def call(method, params, **more):
        mine = params.get("folder") == str(victim.folder / "states")
        if lost and mine and method == "round.apply" and not done:
            path = state.path_of(victim.folder / "states", params["scales"])
            held = path.read_bytes()
            if np.frombuffer(held, "<f4", length).any():
                path.write_bytes(bytes(4 * length) + held[4 * length :])
                done.append(params["scales"])
        return await usual(method, params, **more)

    monkeypatch.setattr(moving.compute, "call", call)
    async with AsyncExitStack() as stack:
        for site in moving.sites:
            await stack.enter_async_context(site.up())
        run = await moving.propose(rounds=5)
        await moving.until_finished(run)
        await until_equal(moving, run, length)
    assert len(done) == lost
    assert {name for name, _, _ in fetched} == ({victim.name} if lost else set())
