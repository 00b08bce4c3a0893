"""What is withdrawn while a run is under way is in no round after: what trainers are given shows it.

One site has its records in the market of a real node, encrypted unit by unit; the steward destroys
units between two rounds.
"""

import csv
import io
from contextlib import AsyncExitStack

import pytest
import trio
from stock_texts import diagnoses, plan

from node.adapters.memory_chain import MemoryChain
from node.adapters.memory_transport import MemoryNetwork, MemoryTransport
from node.services.market import Market

TEXTS = ("Panel", "CC0-1.0", ["DUO:0000042"], "drawn")


def names(data):
    """The records' own names: the first column."""
    return [row[0] for row in csv.reader(io.StringIO(data.decode()))][1:]


def market_of(site):
    """The node's dataset service over the site's own store, blobs and key."""
    network = MemoryNetwork()
    return Market(
        store=site.store,
        blobs=site.blobs,
        signer=site.key,
        chain=MemoryChain(site.world.ledger, site.account),
        transport=MemoryTransport(
            network=network,
            peer=site.key.peer_id,
            allowed=lambda _: True,
            blobs=site.blobs,
            may_fetch=lambda *_: False,
        ),
        now=lambda: 1_700_000_000,
        open_key=lambda: site.key.seal_secret,
    )


async def listed(site, column):
    """The site's table as its dataset 0, a unit for each record; their names."""
    path = site.folder / "panel.csv"
    path.write_bytes(site.datasets.data)
    found = names(site.datasets.data)
    site.datasets = market_of(site)
    shown = await site.datasets.publish([path], *TEXTS, unit_by=column)
    assert (shown["dataset"], shown["units"]) == (0, len(found))
    return found


class Watched:
    """What trainers and scorers of one site were given, in order, by the records' names.

    `act` is done once, between two rounds: when the first step after the first result reads its
    records, and before it does.  What is given from `coming` on was read later.
    """

    def __init__(self, site, mine, monkeypatch, act):
        self.given, self.coming = [], None
        call, rows, mine = site.world.compute.call, site.datasets.own_rows, set(mine)

        async def noted(method, params, **more):
            if method in {"train.local", "round.apply"} and params["records"]:
                found = names(params["records"])
                if mine & set(found):
                    self.given.append((method, frozenset(found)))
            return await call(method, params, **more)

        async def read(dataset):
            if self.coming is None and "round.apply" in dict(self.given):
                self.coming = len(self.given)
                await act()
            return await rows(dataset)

        monkeypatch.setattr(site.world.compute, "call", noted)
        monkeypatch.setattr(site.datasets, "own_rows", read)

    def trained(self):
        return [found for method, found in self.given if method == "train.local"]

    def later(self):
        assert self.coming, "the run was over before anything was done"
        return self.given[self.coming :]


@pytest.mark.parametrize(
    "stock", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["table", "stock"]
)
async def test_coming_rounds_train_and_try_without_a_withdrawn_unit(
    world, monkeypatch, stock
):
    if stock:
        world.plan = plan(world, learns="adapters", rank=2)
        diagnoses(world.sites, 30)
    site, rounds = world.sites[1], 3
    mine = await listed(site, "code" if stock else "id")
    watched = Watched(
        site, mine, monkeypatch, lambda: site.datasets.withdraw(0, [0, 1, 2])
    )
    async with AsyncExitStack() as stack:
        for one in world.sites:
            await stack.enter_async_context(one.up())
        run = await world.propose(rounds)
        await world.until_finished(run, seconds=120)
    first, after = watched.trained()[0], watched.later()
    gone = set(mine) - set(names(await site.datasets.own_rows(0)))
    assert len(gone) == 3
    assert first == set(mine)
    assert {method for method, _ in after} == {"train.local", "round.apply"}
    assert {found for _, found in after} == {frozenset(set(mine) - gone)}
    rows = [one.runs.rounds(run) for one in world.sites]
    assert len(rows[0]) == rounds
    assert len({tuple(row["state_root"] for row in each) for each in rows}) == 1


async def test_new_keys_in_the_middle_of_a_run_are_nothing_to_it(world, monkeypatch):
    site, rounds, shown = world.sites[1], 3, []
    mine = await listed(site, "id")
    old = site.datasets._shelf.own(0)[2]

    async def rekey():
        shown.append(await site.datasets.rekey(0))

    watched = Watched(site, mine, monkeypatch, rekey)
    async with AsyncExitStack() as stack:
        for one in world.sites:
            await stack.enter_async_context(one.up())
        run = await world.propose(rounds)
        await world.until_finished(run, seconds=120)
    assert [one["keys"] for one in shown] == [2]
    assert {method for method, _ in watched.later()} == {"train.local", "round.apply"}
    assert {found for _, found in watched.given} == {frozenset(mine)}
    assert not any(site.blobs.has(entry.chunks) for entry in old.entries)
    rows = [one.runs.rounds(run) for one in world.sites]
    assert len({tuple(row["state_root"] for row in each) for each in rows}) == 1


async def test_a_run_goes_on_without_a_dataset_that_is_withdrawn_whole(
    world, monkeypatch
):
    site, rounds, said = world.sites[1], 3, set()
    mine = await listed(site, "id")
    watched = Watched(site, mine, monkeypatch, lambda: site.datasets.withdraw(0))
    async with AsyncExitStack() as stack:
        for one in world.sites:
            await stack.enter_async_context(one.up())
        run = await world.propose(rounds)
        with trio.fail_after(120):
            while site.runs.row(run)["phase"] != "finished":
                said.add(site.runs.row(run)["reason"])
                await trio.sleep(0.01)
        await world.until_finished(run, seconds=120)
    assert watched.later() == []
    assert "dataset 0 is withdrawn: its keys are destroyed" in said
    rows = [one.runs.rounds(run) for one in world.sites]
    assert len({tuple(row["state_root"] for row in each) for each in rows}) == 1
    survivors = [site.name in row["survivors"] for row in rows[0]]
    # Of the round under way its update may have been made already.
    assert (survivors[0], survivors[-1]) == (True, False)
    # It still knows what the others made of it, and has tried it on nothing.
    assert [row["held_out"] > 0 for row in rows[1]][-1] is False
