"""Runs from the proposal to the last state, with crashes in between."""

import json
import random
from contextlib import AsyncExitStack

import pytest
import trio

from node.compute import state as state_file
from node.errors import AccessError, ComputeError, NodeError, RoundError
from protocol.errors import MalformedMessageError, ProtocolError

ALL = ["clinic-0", "clinic-1", "clinic-2"]


async def test_three_clinics_end_every_round_with_the_same_state(world):
    async with AsyncExitStack() as stack:
        for site in world.sites:
            await stack.enter_async_context(site.up())
        run = await world.propose(rounds=2)
        await world.until_finished(run)
        rows = [site.runs.rounds(run) for site in world.sites]
        for number in range(2):
            roots = {row[number]["state_root"] for row in rows}
            assert len(roots) == 1
            assert {row[number]["attempts"] for row in rows} == {1}
        initial = world.sites[0].runs.record(run).course.proposal.initial.hex()
        assert rows[0][1]["state_root"] not in {initial, rows[0][0]["state_root"]}
        with trio.fail_after(5):
            while len(world.events("RoundAnchored")) < 6:
                await trio.sleep(0.01)
    assert world.refused == []


async def test_a_finished_round_leaves_no_shard_update_or_saying_behind(world):
    async with AsyncExitStack() as stack:
        for site in world.sites:
            await stack.enter_async_context(site.up())
        run = await world.propose(rounds=1)
        await world.until_finished(run)
        await trio.sleep(0.2)
    for site in world.sites:
        left = [p for p in (site.folder / "blobs").rglob("*") if p.is_file()]
        assert left == []
        assert list((site.folder / "work").iterdir()) == []
        assert await site.store.scan("round-said") == []


@pytest.mark.parametrize("seed", [0, 1, pytest.param(2, marks=pytest.mark.slow)])
async def test_a_node_killed_at_any_moment_comes_back_to_the_same_states(world, seed):
    draw = random.Random(seed)
    async with AsyncExitStack() as stack:
        for site in world.sites[1:]:
            await stack.enter_async_context(site.up())
        first = world.sites[0]
        async with first.up():
            run = await world.propose(rounds=3)
            await trio.sleep(draw.uniform(0.0, 0.8))
        for _ in range(3):
            async with first.up():
                await trio.sleep(draw.uniform(0.1, 0.6))
        async with first.up():
            await world.until_finished(run)
            rounds = [site.runs.rounds(run) for site in world.sites]
    for number in range(3):
        assert len({row[number]["state_root"] for row in rounds}) == 1


async def test_who_missed_the_end_of_a_round_is_shown_it_and_fetches_the_state(world):
    """The others hold the claims; the late one has neither claims nor state."""
    async with AsyncExitStack() as stack:
        for site in world.sites[1:]:
            await stack.enter_async_context(site.up())
        late = world.sites[0]
        async with late.up():
            run = await world.propose(rounds=1)
            await world.until_finished(run, world.sites[1:])
        # As if the machine had stopped before the round was final, and with a worse disk.
        # Its own claim is what it cannot hear again: nobody is told his own words.
        for key, _ in await late.store.scan("run-rounds"):
            await late.store.delete("run-rounds", key)
        for path in (late.folder / "states").iterdir():
            path.unlink()
        async with late.up():
            await world.until_finished(run, [late])
            roots = {s.runs.row(run)["state_root"] for s in world.sites}
            assert len(roots) == 1
            (row,) = late.runs.rounds(run)
            root = bytes.fromhex(row["state_root"])
            size = late.runs.record(run).trainer._size
            assert state_file.read(late.folder / "states", root, size).any()


async def test_a_state_is_not_given_to_a_stranger_to_the_run(world):
    async with AsyncExitStack() as stack:
        for site in world.sites:
            await stack.enter_async_context(site.up())
        run = await world.propose(rounds=1)
        await world.until_finished(run)
        runs, root = world.sites[0].runs, world.sites[0].runs.final_state(run)
        peer = world.sites[1].key.peer_id
        assert runs.may_read_state(run, root, peer)
        assert not runs.may_read_state(run, bytes(32), peer)
        assert not runs.may_read_state(bytes(32), root, peer)
        assert not runs.may_read_state(run, root, "12D3KooWStranger")


async def test_nothing_trains_before_the_last_consent(world):
    async with AsyncExitStack() as stack:
        for site in world.sites:
            await stack.enter_async_context(site.up())
        names = [site.name for site in world.sites]
        row = await world.sites[0].runs.propose(world.plan, 1, names, 0)
        run = bytes.fromhex(row["run"])
        await trio.sleep(0.3)
        shown = world.sites[0].runs.row(run)
        assert (shown["phase"], shown["round"]) == ("proposed", 0)
        assert shown["consents"] == [world.sites[0].name]
        with pytest.raises(RoundError, match=r"consented .* already"):
            await world.sites[0].runs.join(run, 0)


@pytest.mark.parametrize(
    ("plan", "rounds", "names", "error", "words"),
    [
        ("{}", 1, ALL, MalformedMessageError, "missing required field"),
        ("not json", 1, ALL, MalformedMessageError, "model file"),
        (None, 0, ALL, MalformedMessageError, "0 rounds, limit is"),
        (None, 1, ALL[:2], MalformedMessageError, "2 members, a run has 3 to"),
        (None, 1, ["nobody"], AccessError, "no member is called 'nobody'"),
        ({"width": 15}, 1, ALL, ComputeError, "width 15, heads 2"),
    ],
)
async def test_a_proposal_that_cannot_be_is_refused(
    world, plan, rounds, names, error, words
):
    text = world.plan
    if isinstance(plan, dict):
        model = json.loads(text)
        text = json.dumps({**model, "spec": {**model["spec"], **plan}})
    elif plan is not None:
        text = plan
    async with world.sites[0].up() as site:
        caught = None
        try:
            await site.runs.propose(text, rounds, names, 0)
        except (NodeError, ProtocolError) as found:
            caught = found
        assert isinstance(caught, error)
        assert words in str(caught)
        assert site.runs.rows() == []


async def test_a_dead_worker_holds_the_round_up_and_says_why(world):
    world.worker = "/nowhere/worker.sock"
    async with AsyncExitStack() as stack:
        for site in world.sites:
            await stack.enter_async_context(site.up())
        run = await world.propose(rounds=1)
        with trio.fail_after(10):
            while not world.sites[0].runs.row(run)["reason"]:
                await trio.sleep(0.02)
        assert "no worker answers" in world.sites[0].runs.row(run)["reason"]
