"""Members that join a run under way, and members that leave it."""

from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from node.errors import RoundError


@asynccontextmanager
async def running(world, rounds, first=4):
    """All sites up, a run of the first few under way; gives its id."""
    async with AsyncExitStack() as stack:
        for site in world.sites:
            await stack.enter_async_context(site.up())
        yield await propose(world, rounds, first)


async def propose(world, rounds, first):
    names = [site.name for site in world.sites[:first]]
    row = await world.sites[0].runs.propose(world.plan, rounds, names, 0)
    run = bytes.fromhex(row["run"])
    for site in world.sites:
        await until(lambda site=site: run in site.runs._known)
    for site in world.sites[1:first]:
        await site.runs.join(run, 0)
    return run


async def until(found, seconds=60):
    with trio.fail_after(seconds):
        while not found():
            await trio.sleep(0.02)


def row(site, run):
    return site.runs.row(run)


def asks(site, run):
    return [each["member"] for each in row(site, run)["seats"] if each["wish"] == "in"]


async def everybody_at(world, run, members, done):
    """Until all of `members` have the same ones in the run and have done so many rounds."""
    names = sorted(site.name for site in members)
    for site in members:
        await until(lambda site=site: sorted(row(site, run)["members"]) == names)
        await until(lambda site=site: row(site, run)["round"] >= done)


@pytest.fixture
def count():
    return 5


@pytest.mark.slow
async def test_a_member_joins_a_run_under_way_and_trains_to_its_end(world):
    async with running(world, 14) as run:
        late, old = world.sites[4], world.sites[:4]
        await until(lambda: row(old[0], run)["round"] >= 1)
        with pytest.raises(RoundError, match="has not asked for a seat"):
            await old[0].runs.seat(run, late.name, "in")
        await late.runs.join(run, 0)
        for site in old[:3]:
            await until(lambda site=site: asks(site, run) == [late.name])
            assert row(site, run)["epoch"] == 0
            await site.runs.seat(run, late.name, "in")
        await world.until_finished(run, seconds=120)
        await everybody_at(world, run, world.sites, 14)
        assert {row(site, run)["epoch"] for site in world.sites} == {1}
        assert len({row(site, run)["state_root"] for site in world.sites}) == 1
        sums = old[0].runs.rounds(run)
        assert late.name not in sums[0]["survivors"]
        assert any(late.name in each["survivors"] for each in sums)
