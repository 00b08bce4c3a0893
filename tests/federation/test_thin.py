"""Runs over thin links: fewer bytes, the same exactness, and what is kept survives a kill."""

import json
from contextlib import AsyncExitStack
from statistics import median

import numpy as np
import pytest
import trio

from ee.spec import size
from node.compute import state
from node.services.thin import KEPT
from protocol.aggregate.coordinates import Chosen, count, seed

ONE_IN = 4


def thinned(world):
    return json.dumps({**json.loads(world.plan), "thin": {"one_in": ONE_IN}})


@pytest.mark.slow
async def test_members_sum_the_same_few_entries_and_keep_the_others(world, spec):
    world.plan = thinned(world)
    length = size(spec)
    async with AsyncExitStack() as stack:
        for site in world.sites[1:]:
            await stack.enter_async_context(site.up())
        first = world.sites[0]
        async with first.up():
            run = await world.propose(rounds=4)
            with trio.fail_after(60):
                while first.runs.row(run)["round"] < 2:
                    await trio.sleep(0.01)
            (kept,) = await first.store.scan(KEPT)
            left = state.read(first.folder / "states", kept[1], length)
            # Of the newest round that counted this member, nothing that travelled is kept.
            rounds = [Chosen(seed(run, n), length, ONE_IN).places() for n in range(4)]
            assert any(not left[places].any() for places in rounds)
            assert left.any()
        # Killed; what it kept is taken up again.
        async with first.up():
            await world.until_finished(run)
            assert len({s.runs.row(run)["state_root"] for s in world.sites}) == 1
            rows = [row for s in world.sites for row in s.runs.rounds(run)]
            # Three parts of one slice, the sums of three: one and a half times what travels,
            # and carries besides.
            received = median(row["bytes_received"] for row in rows)
            assert 1.4 < received / (4 * count(length, ONE_IN)) < 2
        assert [await site.store.scan(KEPT) for site in world.sites] == [[]] * 4
    assert not state.path_of(first.folder / "states", kept[1]).exists()


@pytest.mark.slow
async def test_a_round_changes_the_chosen_entries_and_no_others(world, spec):
    world.plan = thinned(world)
    length = size(spec)
    async with AsyncExitStack() as stack:
        for site in world.sites:
            await stack.enter_async_context(site.up())
        run = await world.propose(rounds=1)
        await world.until_finished(run)
        site = world.sites[0]
        folder = site.folder / "states"
        record = site.runs.record(run)
        changed = state.read(folder, record.state, length) != state.read(
            folder, record.initial, length
        )
        places = Chosen(seed(run, 0), length, ONE_IN).places()
        assert set(np.flatnonzero(changed)) <= set(places)
        assert changed.sum() > 0.9 * len(places)
