"""Runs that are paused, resumed and ended by their members."""

import json
from contextlib import AsyncExitStack

import pytest
import trio

from node.compute.state import path_of
from node.errors import RoundError
from node.services.states import States
from protocol.errors import MalformedMessageError


async def up(world, stack):
    for site in world.sites:
        await stack.enter_async_context(site.up())


async def until(found):
    with trio.fail_after(60):
        while not found():
            await trio.sleep(0.02)


def phases(world, run):
    return {site.runs.row(run)["phase"] for site in world.sites}


def done(world, run):
    return {site.runs.row(run)["round"] for site in world.sites}


@pytest.mark.slow
async def test_a_run_stands_still_while_too_few_go_on_and_then_finishes(world):
    async with AsyncExitStack() as stack:
        await up(world, stack)
        run = await world.propose(rounds=4)
        one, other = world.sites[:2]
        await one.runs.steer(run, "pause")
        await other.runs.steer(run, "pause")
        await until(lambda: phases(world, run) == {"paused"})
        assert world.sites[3].runs.row(run)["reason"] == "paused by " + ", ".join(
            s.name for s in sorted((one, other), key=lambda s: s.key.public_key)
        )
        # The round under way may end; none is opened after it.
        await until(lambda: len(done(world, run)) == 1)
        await trio.sleep(1.0)
        (before,) = done(world, run)
        await trio.sleep(2.0)
        assert done(world, run) == {before}
        assert before < 4
        await one.runs.steer(run, "go")
        await until(lambda: phases(world, run) == {"training"})
        await other.runs.steer(run, "go")
        await world.until_finished(run)
        assert len({s.runs.row(run)["state_root"] for s in world.sites}) == 1


@pytest.mark.slow
async def test_one_member_of_four_holds_itself_and_stops_nobody_else(world):
    async with AsyncExitStack() as stack:
        await up(world, stack)
        run = await world.propose(rounds=2)
        held = world.sites[0]
        await held.runs.steer(run, "pause")
        assert held.runs.row(run)["stances"] == {held.name: "pause"}
        await world.until_finished(run)
        last = world.sites[1].runs.rounds(run)[-1]
        assert held.name not in last["survivors"]


@pytest.mark.slow
async def test_an_ended_run_stays_ended_through_a_restart_and_its_state_is_final(world):
    async with AsyncExitStack() as stack:
        for site in world.sites[1:]:
            await stack.enter_async_context(site.up())
        first = world.sites[0]
        async with first.up():
            run = await world.propose(rounds=50)
            await until(lambda: min(done(world, run)) >= 1)
            with pytest.raises(RoundError, match="rounds of 50"):
                first.runs.final_state(run)
            for site in world.sites[:2]:
                await site.runs.steer(run, "end")
            await until(lambda: phases(world, run) == {"ended"})
        async with first.up():
            # What it had heard and not yet kept, the others tell it again.
            await until(lambda: first.runs.row(run)["phase"] == "ended")
            with pytest.raises(RoundError, match="ended already"):
                await first.runs.steer(run, "go")
            await until(lambda: len(done(world, run)) == 1)
            assert len({s.runs.final_state(run) for s in world.sites}) == 1
            folders = [site.folder / "states" for site in world.sites]
            await until(lambda: not any([*each.glob("*.part")] for each in folders))


@pytest.mark.slow
async def test_a_round_that_was_under_way_at_the_end_keeps_no_room(world, monkeypatch):
    first, dropped = world.sites[0], []
    drop = States.drop_spares

    def noted(states):
        if states.folder == first.folder / "states":
            dropped.append(first.runs.row(run)["round"])
        drop(states)

    async with AsyncExitStack() as stack:
        await up(world, stack)
        run = await world.propose(rounds=50)
        await until(lambda: min(done(world, run)) >= 1)
        monkeypatch.setattr(States, "drop_spares", noted)
        # As the word of the members does; here the rounds go on, and each is one under way.
        await first.runs.record(run).trainer.end()
        told = dropped[0]
        await until(lambda: min(done(world, run)) >= told + 2)
    assert {told + 1, told + 2} <= set(dropped)


async def test_a_stance_that_changes_nothing_or_is_not_ours_to_take_is_refused(world):
    async with AsyncExitStack() as stack:
        await up(world, stack)
        names = [site.name for site in world.sites[:3]]
        row = await world.sites[0].runs.propose(world.plan, 1, names, 0)
        run = bytes.fromhex(row["run"])
        runs, stranger = world.sites[0].runs, world.sites[3].runs
        await until(lambda: run in stranger._known)
        with pytest.raises(RoundError, match="does not name this node"):
            await stranger.steer(run, "pause")
        with pytest.raises(RoundError, match="is going on already"):
            await runs.steer(run, "go")
        await runs.steer(run, "end")
        # Of three all are needed.
        assert runs.row(run)["phase"] == "ended"
        with pytest.raises(RoundError, match="is ended already"):
            await runs.steer(run, "pause")
        second = world.sites[1].runs
        await until(lambda: run in second._known)
        await until(lambda: second.row(run)["phase"] == "ended")
        with pytest.raises(RoundError, match="is ended"):
            await second.join(run, 0)


async def test_a_run_whose_ring_is_too_small_is_neither_proposed_nor_joined(
    world, monkeypatch
):
    """Once all had consented it would stand in its first round for good."""
    plan = json.loads(world.plan)
    plan["sum"] |= {"ring_bits": 16, "input_bits": 16}
    names = [site.name for site in world.sites]
    async with AsyncExitStack() as stack:
        await up(world, stack)
        runs, other = world.sites[0].runs, world.sites[1].runs
        with pytest.raises(MalformedMessageError, match="use input_bits of 2 to 14"):
            await runs.propose(json.dumps(plan), 1, names, 0)
        assert runs.rows() == []
        with monkeypatch.context() as patch:  # by a program that does not look
            patch.setattr("node.services.runs.require_room", lambda *_: None)
            row = await runs.propose(json.dumps(plan), 1, names, 0)
        run = bytes.fromhex(row["run"])
        await until(lambda: run in other._known)
        with pytest.raises(MalformedMessageError, match="use input_bits of 2 to 14"):
            await other.join(run, 0)


@pytest.mark.slow
async def test_a_run_keeps_what_another_of_the_same_model_stands_at(world):
    """Both begin with the same scales, in one file: who ends a round first deletes them not."""
    async with AsyncExitStack() as stack:
        await up(world, stack)
        world.plan = json.dumps({**json.loads(world.plan), "title": "waits"})
        waits = await world.propose(rounds=1)
        for site in world.sites[:2]:
            await site.runs.steer(waits, "pause")
        await until(lambda: phases(world, waits) == {"paused"})
        assert done(world, waits) == {0}
        world.plan = json.dumps({**json.loads(world.plan), "title": "goes on"})
        run = await world.propose(rounds=1)
        await world.until_finished(run)
        for site in world.sites:
            here, there = site.runs.record(waits), site.runs.record(run)
            assert here.scales != there.scales
            for root in (here.state, here.scales):
                assert path_of(site.folder / "states", root).exists()
        for site in world.sites[:2]:
            await site.runs.steer(waits, "go")
        await world.until_finished(waits)
