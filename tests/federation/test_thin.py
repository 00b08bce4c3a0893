"""Runs over thin links: fewer bytes, the same exactness, and what is kept survives a kill."""

import json
from contextlib import AsyncExitStack, suppress
from statistics import median

import numpy as np
import pytest
import trio

from ee.spec import size
from node.compute import state
from node.errors import ComputeError
from node.services.hands import Hands
from node.services.record_box import RecordBox
from node.services.thin import KEPT
from protocol.aggregate.coordinates import Chosen, count, seed
from protocol.envelope import Envelope
from protocol.rounds import messages
from protocol.rounds.messages import DOMAIN, Said
from protocol.types import DIGEST_BYTES, Digest
from protocol.wire import decode

ONE_IN = 4


def thinned(world):
    return json.dumps({**json.loads(world.plan), "thin": {"one_in": ONE_IN}})


async def rest(site, length):
    """Root and entries of what a member keeps; from one to the next there is a moment's none."""
    with trio.fail_after(10):
        while True:
            ((_, row),) = await site.store.scan(KEPT)
            root = row[:DIGEST_BYTES]
            with suppress(ComputeError):
                return root, state.read(site.folder / "states", root, length)
            await trio.sleep(0.01)


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
            root, left = await rest(first, length)
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
    assert not state.path_of(first.folder / "states", root).exists()


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


class Upload:
    """Hangs a member's machine at what it uploads in round 1; its parts can still be pulled."""

    def __init__(self, site):
        self.said = trio.Event()
        self._me = site.key.public_key
        self._usual = Hands.publish

    def method(self):
        async def publish(hands, effect):
            sent = await self._usual(hands, effect)
            own = decode(effect.envelope, Envelope)
            if own.sender == self._me and own.domain == DOMAIN:
                said = decode(own.payload, Said)
                if said.round == 1 and isinstance(said.body, messages.Upload):
                    self.said.set()
                    await trio.sleep_forever()
            return sent

        return publish


@pytest.mark.slow
@pytest.mark.parametrize("done", [2, 3])
async def test_a_survivor_that_was_away_keeps_what_its_round_left(
    world, spec, monkeypatch, done
):
    """It knows what it uploaded and hears the verdict of its round, or of a later one only."""
    world.plan = thinned(world)
    length = size(spec)
    first, others = world.sites[0], world.sites[1:]
    hung = Upload(first)
    kept = []
    async with AsyncExitStack() as stack:
        for site in others:
            await stack.enter_async_context(site.up())
        with monkeypatch.context() as patched:
            patched.setattr(Hands, "publish", hung.method())
            async with first.up():
                run = await world.propose(rounds=6)
                with trio.fail_after(60):
                    await hung.said.wait()
                    while others[0].runs.row(run)["round"] < done:
                        await trio.sleep(0.01)
                box = RecordBox(first.store, first.key, run)
                update = first.blobs.path(Digest(await box.get("1/trained")))
                left = np.fromfile(update, "<f4")
                assert await box.get("head") is not None
        assert first.name in others[0].runs.rounds(run)[1]["survivors"]
        left[Chosen(seed(run, 1), length, ONE_IN).places()] = 0
        usual = first.store.put

        async def noted(namespace, key, value):
            if namespace == KEPT:
                kept.append(value)
            await usual(namespace, key, value)

        monkeypatch.setattr(first.store, "put", noted)
        async with first.up():
            await world.until_finished(run)
    assert kept[0] == state.state_root(left) + (1).to_bytes(8, "big")
    assert not list((first.folder / "states").glob(f"{kept[0][:32].hex()}*"))


@pytest.mark.slow
async def test_a_run_that_members_end_keeps_nothing_back(world):
    world.plan = thinned(world)
    first, *others = world.sites
    async with AsyncExitStack() as stack:
        for site in others:
            await stack.enter_async_context(site.up())
        async with first.up():
            run = await world.propose(rounds=50)
            with trio.fail_after(60):
                while len([s for s in world.sites if await s.store.scan(KEPT)]) < 4:
                    await trio.sleep(0.01)
        # Away when the others end it; it hears of that when it is back.
        for site in others[:2]:
            await site.runs.steer(run, "end")
        with trio.fail_after(30):
            while any([await site.store.scan(KEPT) for site in others]):
                await trio.sleep(0.01)
        assert await first.store.scan(KEPT) != []
        async with first.up():
            with trio.fail_after(30):
                while await first.store.scan(KEPT) or first.runs.row(run)["phase"] != (
                    "ended"
                ):
                    await trio.sleep(0.01)
            await trio.sleep(1.0)  # the round under way may end, and leaves nothing
            assert [await site.store.scan(KEPT) for site in world.sites] == [[]] * 4
    for site in world.sites:
        # The newest state, its scales, and the run's first state and scales: no rest.
        files = list((site.folder / "states").glob("*.state"))
        record = site.runs.record(run)
        named = {record.state, record.scales, record.initial}
        rests = [f for f in files if f.stem not in {root.hex() for root in named}]
        assert [f.stat().st_size for f in rests if f.stat().st_size > 64] == []
