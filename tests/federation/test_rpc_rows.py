"""What the services say of a run is what docs/rpc.md says they do, at every moment of it."""

from contextlib import AsyncExitStack

import msgspec
import pytest
import trio

from node.errors import ComputeError
from node.rpc.results import training as results
from node.services.hands import Hands


@pytest.mark.slow
async def test_rows_of_a_run_fit_the_schema_from_its_proposal_to_its_end(world):
    seen = []
    async with AsyncExitStack() as stack:
        for site in world.sites:
            await stack.enter_async_context(site.up())
        run = await world.propose(rounds=1)
        runs = world.sites[1].runs
        with trio.fail_after(200):
            while not seen or seen[-1]["phase"] != "finished":
                seen.append(msgspec.json.decode(msgspec.json.encode(runs.row(run))))
                msgspec.convert(seen[-1], results.RunRow)
                await trio.sleep(0.005)
        rounds = runs.rounds(run)
    for row in rounds:
        msgspec.convert(row, results.RoundRow)
    assert len(rounds) == 1
    assert {"training", "finished"} <= {row["phase"] for row in seen}
    assert any(row["progress"] for row in seen)


async def test_before_its_first_step_a_member_is_shown_to_get_ready(world):
    shown = []
    async with AsyncExitStack() as stack:
        for site in world.sites:
            await stack.enter_async_context(site.up())
        site = world.sites[1]
        read = site.datasets.own_rows

        async def looks(dataset):
            # To consent it reads them as well, when there is no run to speak of yet.
            shown.extend(row["progress"] for row in site.runs.rows() if row["stage"])
            return await read(dataset)

        site.datasets.own_rows = looks
        await world.propose(rounds=1)
        with trio.fail_after(60):
            while not shown:
                await trio.sleep(0.02)
    assert [each and each["what"] for each in shown] == ["getting ready to train"]


@pytest.mark.slow
async def test_work_that_fails_is_told_until_it_is_done(world, monkeypatch):
    apply, told, site = Hands._apply, [], world.sites[1]

    async def fails_once(self, effect):
        if self._tools.signer.public_key == site.key.public_key:
            told.append(site.runs.rows()[0]["reason"])
            if len(told) == 1:
                raise ComputeError("the child died")
        return await apply(self, effect)

    monkeypatch.setattr(Hands, "_apply", fails_once)
    async with AsyncExitStack() as stack:
        for each in world.sites:
            await stack.enter_async_context(each.up())
        run = await world.propose(rounds=2)
        await world.until_finished(run, seconds=200)
    assert told == [None, "stepping fails: the child died", None]
