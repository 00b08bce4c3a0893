"""A member poisons a round; the others reject it, and find out whose update it was."""

import json
from contextlib import AsyncExitStack

import msgspec
import numpy as np
import pytest
import trio

from node.rpc.results import training as results
from node.services.hands import Hands
from protocol.aggregate.sketch import ENTRIES_AT_LEAST
from protocol.rounds import events as ev

FACTOR = -20_000.0
"""The poisoner's update, over what it trained."""


@pytest.fixture
async def world(world):
    """With a model whose updates are long enough to be sketched."""
    plan = json.loads(world.plan)
    # On a busy machine four clinics in one process are slow: nobody is to be left out for it.
    slow = {"upload_floor_ms": 20_000, "fresh_ms": 10_000, "grace_ms": 60_000}
    world.plan = json.dumps(
        {
            **plan,
            "spec": {**plan["spec"], "inner": 32},
            "sum": {**plan["sum"], **slow},
        }
    )
    return world


@pytest.fixture
def poisoned(world, monkeypatch):
    """The last site uploads something else than it trained."""
    poisoner, train = world.sites[-1], Hands.train

    async def other(self, effect):
        event = await train(self, effect)
        if event is None or self._tools.signer is not poisoner.key:
            return event
        blobs = self._tools.blobs
        honest = np.frombuffer(
            blobs.read(event.update, 0, blobs.size(event.update)), "<f4"
        )
        blobs.delete(event.update)
        return ev.Trained(event.round, blobs.put((FACTOR * honest).tobytes()))

    monkeypatch.setattr(Hands, "train", other)
    return poisoner


async def rows_of(world, rounds):
    """Per site, its rounds and what it keeps as events, when the run is over."""
    async with AsyncExitStack() as stack:
        for site in world.sites:
            await stack.enter_async_context(site.up())
        run = await world.propose(rounds=rounds)
        await world.until_finished(run, seconds=200)
        kept = [await site.store.events(limit=1000) for site in world.sites]
        rows = [site.runs.rounds(run) for site in world.sites]
        shown = [site.runs.row(run) for site in world.sites]
        await trio.sleep(0.5)  # what is deleted takes its time
        assert site.runs.record(run).trainer._epoch.policy.length >= ENTRIES_AT_LEAST
    for site in world.sites:
        assert [p for p in (site.folder / "blobs").rglob("*") if p.is_file()] == []
        assert await site.store.scan("round-shared") == []
    return rows, shown, kept


@pytest.mark.slow
async def test_a_poisoned_round_is_rejected_and_its_sketch_names_the_poisoner(
    world, poisoned
):
    rows, shown, kept = await rows_of(world, rounds=2)
    for (first, second), row, events in zip(rows, shown, kept, strict=True):
        assert not first["accepted"]
        sketch = first["sketch"]
        assert sketch["outliers"] == [poisoned.name]
        assert sketch["false"] == sketch["silent"] == []
        lengths = {name: each["whole"] for name, each in sketch["lengths"].items()}
        assert lengths.pop(poisoned.name) > 100
        assert len(lengths) == 3
        assert max(lengths.values()) < 2
        # The same base is rejected again, and not looked into a second time.
        assert not second["accepted"]
        assert second["sketch"] is None
        assert row["sketch"] == sketch
        msgspec.convert(row, results.RunRow)
        msgspec.convert(first, results.RoundRow)
        (told,) = [e for e in events if e.kind == "round.sketch"]
        assert told.data["outliers"] == [poisoned.name]
        assert not [e for e in events if e.kind == "round.evidence"]


@pytest.mark.slow
async def test_a_poisoner_that_lies_in_its_sketches_is_named_by_them(
    world, poisoned, monkeypatch
):
    """It moves its length to another member; the key of their mask shows which of them lies."""
    from node.services import hands

    drawn = hands.drawn

    async def other(effect, compute, common):
        event = await drawn(effect, compute, common)
        path = poisoned.blobs.path(event.blob)
        if common["blobs"] != str(poisoned.folder / "blobs"):
            return event
        words = np.fromfile(path, "<u4").reshape(4, -1)
        words[1] += 12345
        poisoned.blobs.delete(event.blob)
        blob = poisoned.blobs.put(words.tobytes(), lasting=False)
        return ev.Drawn(event.context, blob)

    monkeypatch.setattr(hands, "drawn", other)
    rows, shown, kept = await rows_of(world, rounds=1)
    reason = "its sketches are not those of what it masked"
    honest = zip(rows[:-1], shown[:-1], kept[:-1], strict=True)
    for (first,), row, events in honest:
        assert first["accused"] == {poisoned.name: reason}
        assert row["accused"] == {poisoned.name: f"round 0: {reason}"}
        assert first["sketch"]["false"] == [poisoned.name]
        assert first["sketch"]["outliers"] == [poisoned.name]
        (accused,) = [e for e in events if e.kind == "round.evidence"]
        assert accused.data["member"] == poisoned.name


@pytest.mark.slow
async def test_an_accepted_round_is_never_sketched(world, monkeypatch):
    asked = []
    work = Hands.work

    async def noted(self, effect):
        asked.append(type(effect))
        return await work(self, effect)

    monkeypatch.setattr(Hands, "work", noted)
    rows, shown, _ = await rows_of(world, rounds=1)
    assert {row["accepted"] for (row,) in rows} == {True}
    assert {row["sketch"] for (row,) in rows} == {None}
    assert {row["sketch"] for row in shown} == {None}
    assert ev.Apply in asked
    assert not {ev.Draw, ev.Weigh} & set(asked)


@pytest.mark.slow
async def test_the_others_dismiss_one_that_poisons_every_round_and_go_on(
    world, poisoned
):
    """No round is accepted with it, and to leave it out tells its update: they agree to that."""
    stay = world.sites[:-1]

    async def until(found):
        with trio.fail_after(200):
            while not found():
                await trio.sleep(0.05)

    def rows(key):
        return [site.runs.row(run)[key] for site in stay]

    async with AsyncExitStack() as stack:
        for site in world.sites:
            await stack.enter_async_context(site.up())
        run = await world.propose(rounds=30)
        await until(lambda: min(rows("round")) >= 1)
        for site in stay:
            assert not any(each["accepted"] for each in site.runs.rounds(run))
            await site.runs.seat(run, poisoned.name, "expose")
        await until(lambda: rows("epoch") == [1, 1, 1])
        for site in stay:
            led = next(each for each in site.runs.rounds(run) if each["accepted"])
            assert sorted(led["survivors"]) == sorted(one.name for one in stay)
            told = site.runs.row(run)
            assert sorted(told["members"]) == sorted(led["survivors"])
            assert told["seats"] == []
        await until(lambda: poisoned.runs.row(run)["mine"] is False)
        reason = poisoned.runs.row(run)["reason"]
        assert reason == "this node has left the run; the others go on"
