"""Runs whose sums carry noise, and that stop at their budget."""

import json
from contextlib import AsyncExitStack

import msgspec
import pytest
import trio

from node.rpc.results import training as results
from protocol.errors import MalformedMessageError

PRIVACY = {"clip": 0.01, "multiplier": 4.0, "epsilon": 3.5, "delta": 1e-5}


def noised(world, **changed):
    return json.dumps({**json.loads(world.plan), "privacy": {**PRIVACY, **changed}})


@pytest.mark.slow
async def test_a_run_stops_at_its_budget_and_says_so(world):
    world.plan = noised(world)
    async with AsyncExitStack() as stack:
        for site in world.sites:
            await stack.enter_async_context(site.up())
        run = await world.propose(rounds=5)
        before = world.sites[0].runs.row(run)
        assert before["phase"] != "finished"
        assert (before["rounds"], before["privacy"]["rounds"]) == (5, 2)
        await world.until_finished(run)
        rows = [site.runs.row(run) for site in world.sites]
        assert len({row["state_root"] for row in rows}) == 1
        for row in rows:
            # Two sums cost 3.19, a third would make it 4.01.
            assert (row["round"], row["rounds"]) == (2, 5)
            assert row["reason"].startswith("the privacy budget is used up: 2 of 5")
            msgspec.convert(row, results.RunRow)
            spent = row["privacy"]
            assert spent["membership"] < spent["spent"] <= spent["budget"]
            assert set(spent["members"]) == {site.name for site in world.sites}
            assert max(spent["members"].values()) == spent["spent"]


@pytest.mark.slow
async def test_without_noise_there_is_no_epsilon_and_no_stop(world):
    async with AsyncExitStack() as stack:
        for site in world.sites:
            await stack.enter_async_context(site.up())
        run = await world.propose(rounds=1)
        row = world.sites[0].runs.row(run)
        assert row["privacy"] is None
        await world.until_finished(run)
        assert world.sites[0].runs.row(run)["reason"] is None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"epsilon": 0.5}, "one round costs an epsilon of 2.17, the budget is 0.5"),
        ({"multiplier": 0}, "privacy.multiplier is 0"),
        ({"delta": 1}, "privacy.delta is 1"),
        ({"clip": -1}, "privacy.clip is -1"),
        ({"colour": 1}, "unknown field `colour`"),
    ],
)
async def test_a_budget_that_cannot_be_is_refused(world, changed, words):
    async with world.sites[0].up() as site:
        names = [each.name for each in world.sites]
        caught = None
        try:
            await site.runs.propose(noised(world, **changed), 5, names, 0)
        except MalformedMessageError as error:
            caught = error
        assert words in str(caught)
        assert site.runs.rows() == []


@pytest.mark.slow
async def test_noise_too_fine_for_the_grid_stops_the_run_and_says_so(world):
    """Nothing but the first rounding could tell: the grid is the sums' own."""
    world.plan = noised(world, clip=1e-7)
    async with AsyncExitStack() as stack:
        for site in world.sites:
            await stack.enter_async_context(site.up())
        run = await world.propose(rounds=1)
        site = world.sites[2]
        with trio.fail_after(60):
            while not site.runs.row(run)["reason"]:
                await trio.sleep(0.05)
        said = site.runs.row(run)["reason"]
        assert said.startswith("masking fails: noise of ")
        assert "is finer than a grid of 0.000244; use more input bits" in said
