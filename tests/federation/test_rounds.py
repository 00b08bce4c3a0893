"""Runs from the proposal to the last state, with crashes in between."""

import json
import random
from contextlib import AsyncExitStack

import nacl.exceptions
import pytest
import trio

from node.compute import scoring
from node.compute import state as state_file
from node.errors import (
    AccessError,
    ComputeError,
    NodeError,
    NoSpaceError,
    RoundError,
)
from node.ports.transport import Announcement
from node.services.hands import Hands
from node.services.record_box import RecordBox
from node.services.states import States
from protocol.errors import MalformedMessageError, ProtocolError
from protocol.runs import CONSENT_TOPIC, Consent, seal_consent

ALL = ["clinic-0", "clinic-1", "clinic-2", "clinic-3"]


def states(world, run, sites=None):
    """Round to the set of states that the sites say it ended with."""
    found = {}
    for site in sites or world.sites:
        for row in site.runs.rounds(run):
            found.setdefault(row["round"], set()).add(row["state_root"])
    return found


async def test_four_clinics_end_every_round_with_the_same_state(world):
    async with AsyncExitStack() as stack:
        for site in world.sites:
            await stack.enter_async_context(site.up())
        run = await world.propose(rounds=2)
        await world.until_finished(run)
        first, second = states(world, run)[0], states(world, run)[1]
        initial = world.sites[0].runs.record(run).course.proposal.initial.hex()
        assert len(first) == len(second) == 1
        assert len(first | second | {initial}) == 3
        for site in world.sites:
            for row in site.runs.rounds(run):
                assert row["accepted"]
                assert len(row["survivors"]) >= 3
                assert row["loss_last"] is not None
        with trio.fail_after(5):
            while len(world.events("RoundAnchored")) < 8:
                await trio.sleep(0.01)
    assert world.refused == []


async def test_what_a_power_cut_has_taken_is_fetched_again(world, monkeypatch):
    apply, taken, failed = Hands._apply, set(), []

    async def after_a_cut(self, effect):
        me = self._tools.signer.public_key
        if me not in taken:
            taken.add(me)
            for blob in effect.sums:
                # One's own sum is on disk; what was fetched is in the system's memory only.
                if blob not in own[me]:
                    self._tools.blobs.delete(blob)
        try:
            return await apply(self, effect)
        except NodeError as error:
            failed.append(error)
            raise

    sums, own = Hands._sum, {}

    async def noted(self, effect):
        event = await sums(self, effect)
        own.setdefault(self._tools.signer.public_key, set()).add(event.sum)
        return event

    monkeypatch.setattr(Hands, "_sum", noted)
    monkeypatch.setattr(Hands, "_apply", after_a_cut)
    async with AsyncExitStack() as stack:
        for site in world.sites:
            await stack.enter_async_context(site.up())
        run = await world.propose(rounds=1)
        await world.until_finished(run)
    assert len(taken) == 4
    assert failed == []
    assert len(states(world, run)[0]) == 1


class Slow:
    """Datasets that are read slowly, so that a start takes as long as on a busy machine."""

    def __init__(self, datasets):
        self._datasets = datasets

    async def own_rows(self, dataset):
        await trio.sleep(0.5)
        return await self._datasets.own_rows(dataset)

    def __getattr__(self, name):
        return getattr(self._datasets, name)


async def test_a_run_that_is_told_to_start_twice_starts_once(world, monkeypatch):
    """As two consents that arrive together tell it; two machines would contradict each other."""
    async with AsyncExitStack() as stack:
        for site in world.sites:
            await stack.enter_async_context(site.up())
        for site in world.sites:
            monkeypatch.setattr(site.runs, "_datasets", Slow(site.runs._datasets))
        run = await world.propose(rounds=1)
        for site in world.sites:
            with trio.fail_after(10):
                while not site.runs.record(run).course.complete:
                    await trio.lowlevel.checkpoint()
            site.runs._start.send_nowait(run)
        await world.until_finished(run)
        for site in world.sites:
            (row,) = site.runs.rounds(run)
            assert len(row["survivors"]) == 4
            events = await site.store.events(limit=1000)
            assert not [e for e in events if e.kind == "round.evidence"]


@pytest.mark.slow
async def test_a_finished_run_leaves_no_shard_update_or_secret_behind(world):
    async with AsyncExitStack() as stack:
        for site in world.sites:
            await stack.enter_async_context(site.up())
        run = await world.propose(rounds=2)
        await world.until_finished(run)
        await trio.sleep(0.3)
    for site in world.sites:
        left = [p for p in (site.folder / "blobs").rglob("*") if p.is_file()]
        assert left == []
        assert await site.store.scan("round-shared") == []
        assert await site.store.scan("round-recipes") == []
        # The newest state, its scales, and the run's first state.
        assert len(list((site.folder / "states").iterdir())) == 3


@pytest.mark.slow
async def test_records_of_a_round_are_sealed_at_rest(world):
    async with AsyncExitStack() as stack:
        for site in world.sites:
            await stack.enter_async_context(site.up())
        run = await world.propose(rounds=1)
        await world.until_finished(run)
        site, other = world.sites[:2]
        # What a finished round leaves is being deleted meanwhile: what was read first stays.
        opened = await _box(site, run).read()
        assert opened
        for _, sealed in await site.store.scan("round-records"):
            assert not any(plain in sealed for plain in opened.values())
        with pytest.raises(nacl.exceptions.CryptoError):
            box = _box(site, run)
            box._box = _box(other, run)._box
            await box.read()


def _box(site, run):
    tools = site.runs._tools
    return RecordBox(tools.store, tools.signer, run)


@pytest.mark.slow
async def test_records_that_cannot_be_read_end_one_nodes_part_and_not_its_daemon(world):
    async with AsyncExitStack() as stack:
        for site in world.sites[1:]:
            await stack.enter_async_context(site.up())
        first = world.sites[0]
        async with first.up():
            run = await world.propose(rounds=40)
            with trio.fail_after(30):
                while not first.runs.rounds(run):
                    await trio.sleep(0.01)
        # As another version of the program would have written it.
        await _box(first, run).put({"head": b"\x92\xa4head\x01"})
        async with first.up():
            with trio.fail_after(20):
                while "cannot be read" not in (first.runs.row(run)["reason"] or ""):
                    await trio.sleep(0.05)
            assert "HeadRecord" in first.runs.row(run)["reason"]
            other = await world.propose(rounds=1)
            await world.until_finished(other)


@pytest.mark.slow
async def test_a_round_ends_while_one_of_four_is_dead_and_it_catches_up(world):
    async with AsyncExitStack() as stack:
        for site in world.sites[1:]:
            await stack.enter_async_context(site.up())
        dead = world.sites[0]
        async with dead.up():
            run = await world.propose(rounds=3)
            await trio.sleep(0.1)
        await world.until_finished(run, world.sites[1:])
        for row in world.sites[1].runs.rounds(run)[1:]:
            assert dead.name not in row["survivors"]
        async with dead.up():
            await world.until_finished(run, [dead])
            assert len({s.runs.row(run)["state_root"] for s in world.sites}) == 1
            path = state_file.path_of(
                dead.folder / "states", dead.runs.final_state(run)
            )
            with trio.fail_after(20):
                while not path.exists():
                    await trio.sleep(0.05)
            size = path.stat().st_size // 4
            root = dead.runs.final_state(run)
            assert state_file.read(dead.folder / "states", root, size).any()
    assert all(len(roots) == 1 for roots in states(world, run).values())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
async def test_a_node_killed_at_any_moment_comes_back_to_the_same_states(world, seed):
    draw = random.Random(seed)
    async with AsyncExitStack() as stack:
        for site in world.sites[1:]:
            await stack.enter_async_context(site.up())
        first = world.sites[0]
        run = await world.through_kills(first, 3, draw)
        async with first.up():
            await world.until_finished(run)
            found = states(world, run)
    assert sorted(found) == [0, 1, 2]
    assert all(len(roots) == 1 for roots in found.values())


@pytest.mark.slow
async def test_a_kill_after_the_last_verdict_loses_neither_its_row_nor_its_anchor(
    world, monkeypatch
):
    told = trio.Event()

    async def killed_here(*_):
        told.set()
        await trio.sleep_forever()

    async with AsyncExitStack() as stack:
        for site in world.sites[1:]:
            await stack.enter_async_context(site.up())
        first = world.sites[0]
        async with first.up():
            monkeypatch.setattr(first.runs, "_finish", killed_here)
            run = await world.propose(rounds=1)
            await world.until_finished(run, world.sites[1:])
            with trio.fail_after(60):
                await told.wait()
            assert first.runs.rounds(run) == []
        async with first.up():
            await world.until_finished(run)
            (row,) = first.runs.rounds(run)
            assert len(row["survivors"]) >= 3
            with trio.fail_after(10):
                while len(world.events("RoundAnchored")) < 4:
                    await trio.sleep(0.01)
        # Killed once more: what is on record is told once.
        async with first.up():
            with trio.fail_after(10):
                while not first.runs.record(run).trainer:
                    await trio.sleep(0.01)
            await trio.sleep(0.3)
            assert len(first.runs.rounds(run)) == 1
    assert all(len(roots) == 1 for roots in states(world, run).values())


async def _left(site):
    """What a round leaves at a member, in files and in its store."""
    files = [p for p in (site.folder / "blobs").rglob("*") if p.is_file()]
    kept = [await site.store.scan(n) for n in ("round-shared", "round-recipes")]
    return [*files, *kept[0], *kept[1]]


class Killed:
    """Ends one member's part in the deletion of what its last round leaves."""

    def __init__(self, site, monkeypatch):
        self.here = trio.Event()
        self._site, self._patch = site, monkeypatch

    def among_files(self):
        """One file is gone, the others are not."""
        usual = self._site.blobs.delete

        def delete(blob):
            usual(blob)
            trio.from_thread.run_sync(self.here.set)
            trio.from_thread.run(trio.sleep_forever)

        self._patch.setattr(self._site.blobs, "delete", delete)

    def after_records(self):
        usual, site = RecordBox.delete, self._site

        async def delete(box, *given):
            await usual(box, *given)
            if box._store is site.store:
                self.here.set()
                await trio.sleep_forever()

        self._patch.setattr(RecordBox, "delete", delete)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["among_files", "after_records"])
async def test_a_kill_while_a_round_is_deleted_leaves_nothing_behind(
    world, monkeypatch, where
):
    first, *others = world.sites
    async with AsyncExitStack() as stack:
        for site in others:
            await stack.enter_async_context(site.up())
        with monkeypatch.context() as patched:
            killed = Killed(first, patched)
            getattr(killed, where)()
            async with first.up():
                run = await world.propose(rounds=1)
                with trio.fail_after(60):
                    await killed.here.wait()
        async with first.up():
            await world.until_finished(run)
            with trio.fail_after(20):
                while await _left(first):
                    await trio.sleep(0.02)


@pytest.mark.slow
async def test_a_recipe_goes_with_its_round_and_not_before(world, monkeypatch):
    """One that no record names, as a kill leaves it, goes when the node starts again."""
    first, *others = world.sites
    usual, hung = Hands._mask, []

    async def mask(self, effect):
        if self._tools.store is first.store and first.runs.record(run).done:
            hung[-1].set()
            await trio.sleep_forever()
        return await usual(self, effect)

    async def recipes():
        return {key[32:] for key, _ in await first.store.scan("round-recipes")}

    async with AsyncExitStack() as stack:
        for site in others:
            await stack.enter_async_context(site.up())
        with monkeypatch.context() as patched:
            patched.setattr(Hands, "_mask", mask)
            hung.append(trio.Event())
            async with first.up():
                run = await world.propose(rounds=3)
                with trio.fail_after(60):
                    await hung[-1].wait()
                (named,) = await recipes()
                stray = await _box(first, run).put_recipe(b"nobody masks by this")
                assert await recipes() == {named, stray}
            hung.append(trio.Event())
            async with first.up():
                with trio.fail_after(60):
                    await hung[-1].wait()
                # What was rounded once is never rounded anew under one context.
                assert await recipes() == {named}
                stray = await _box(first, run).put_recipe(b"nor by this")
        async with first.up():
            await world.until_finished(run)
            with trio.fail_after(20):
                while await _left(first):
                    await trio.sleep(0.02)


@pytest.mark.slow
async def test_who_could_not_train_in_a_round_tries_no_more_once_it_is_over(
    world, monkeypatch
):
    """Its base is deleted everywhere by then: it would be called damaged, and asked for, for good."""
    train, fetch, tries, asked = Hands._train, States.fetch, [], []

    async def lame(self, effect):
        if effect.round == 0 and self._tools.signer.public_key == first.key.public_key:
            tries.append(effect)
            raise ComputeError("the worker is away")
        return await train(self, effect)

    async def noted(states, run, root, *how):
        asked.append(root)
        await fetch(states, run, root, *how)

    monkeypatch.setattr("node.driver.RETRY_LIMIT_S", 0.1)
    monkeypatch.setattr(Hands, "_train", lame)
    monkeypatch.setattr(States, "fetch", noted)
    first = world.sites[0]
    async with AsyncExitStack() as stack:
        for site in world.sites:
            await stack.enter_async_context(site.up())
        run = await world.propose(rounds=2)
        await world.until_finished(run)
        assert first.name not in first.runs.rounds(run)[0]["survivors"]
        before = len(tries)
        assert before > 0
        await trio.sleep(1)
        assert len(tries) == before
        assert first.runs.record(run).course.proposal.initial not in asked


@pytest.mark.slow
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


async def test_a_consent_of_one_that_is_not_named_keeps_no_run_from_starting(world):
    """It is announced before the proposal, and asks for a seat in what has not begun."""
    async with AsyncExitStack() as stack:
        for site in world.sites:
            await stack.enter_async_context(site.up())
        first, second, third, stranger = world.sites
        names = [site.name for site in world.sites[:3]]
        row = await first.runs.propose(world.plan, 1, names, 0)
        run = bytes.fromhex(row["run"])
        (proposal,), _, _ = await first.runs.signed()
        late = stranger.runs
        with trio.fail_after(10):
            while run not in second.runs._known or run not in third.runs._known:
                await trio.sleep(0.01)
        await second.runs.join(run, 0)
        consents = (await first.runs.signed())[1] + (await second.runs.signed())[1]
        asks = seal_consent(
            stranger.key.sign,
            stranger.key.public_key,
            Consent(run, 0, 5, stranger.key.seal_key),
        )
        # A node that hears of it in the worst order.
        late._known.pop(run, None)
        for sealed in (asks, *dict.fromkeys(consents)):
            said = Announcement(stranger.key.peer_id, CONSENT_TOPIC, sealed)
            await late.heard_consent(said)
        await late.take_proposal(proposal)
        course = late.record(run).course
        assert set(course.consents) == {
            site.key.public_key for site in (first, second, stranger)
        }
        assert set(course.used) == {first.key.public_key, second.key.public_key}
        assert not course.complete


async def test_a_consent_that_the_disk_had_no_room_for_counts_when_it_has(
    world, monkeypatch
):
    async with AsyncExitStack() as stack:
        for site in world.sites[:2]:
            await stack.enter_async_context(site.up())
        first, second = world.sites[:2]
        names = [site.name for site in world.sites[:3]]
        row = await first.runs.propose(world.plan, 1, names, 0)
        run = bytes.fromhex(row["run"])
        with trio.fail_after(10):
            while run not in second.runs._known:
                await trio.sleep(0.01)
        third = world.sites[2].key
        sealed = seal_consent(
            third.sign, third.public_key, Consent(run, 0, 5, third.seal_key)
        )
        said = Announcement(third.peer_id, CONSENT_TOPIC, sealed)

        async def full(*_):
            raise NoSpaceError("no space left on disk")

        with monkeypatch.context() as patch:
            patch.setattr(second.store, "put", full)
            with pytest.raises(NoSpaceError):
                await second.runs.heard_consent(said)
        # Nobody is counted whom a restart would forget.
        assert third.public_key not in second.runs.record(run).course.consents
        await second.runs.heard_consent(said)
        assert third.public_key in second.runs.record(run).course.consents


@pytest.mark.slow
async def test_a_run_that_waits_for_a_member_after_a_rejection_says_for_whom(
    world, monkeypatch
):
    monkeypatch.setattr(scoring, "acceptable", lambda *_: False)
    # All four are in the first sum, however slow the machine: whoever is there ends a wait early.
    plan = json.loads(world.plan)
    waits = dict.fromkeys(("patience_ms", "upload_floor_ms", "upload_cap_ms"), 30_000)
    world.plan = json.dumps({**plan, "sum": {**plan["sum"], **waits}})
    gone, *others = world.sites
    async with AsyncExitStack() as stack:
        for site in others:
            await stack.enter_async_context(site.up())
        async with gone.up():
            run = await world.propose(rounds=3)
            with trio.fail_after(60):
                while not all(site.runs.row(run)["round"] for site in world.sites):
                    await trio.sleep(0.02)
        (first, *_) = others[0].runs.rounds(run)
        assert (len(first["survivors"]), first["accepted"]) == (4, False)
        with trio.fail_after(60):
            while "waits for clinic-0:" not in (
                others[0].runs.row(run)["reason"] or ""
            ):
                await trio.sleep(0.02)
        assert others[0].runs.row(run)["away"] == [gone.name]
        async with gone.up():
            await world.until_finished(run)
        assert others[0].runs.row(run)["reason"] is None


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
