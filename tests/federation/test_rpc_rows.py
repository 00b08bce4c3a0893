"""What the services say of a run is what docs/rpc.md says they do, at every moment of it."""

from contextlib import AsyncExitStack

import msgspec
import pytest
import trio

from node.rpc import results


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
