"""Runs over stock architectures: keyed trunk at a worker, masked sums, the same state for all."""

import dataclasses
import shutil
from contextlib import AsyncExitStack

import numpy as np
import pytest
import trio
from stock_texts import (
    LETTERS,
    LLAMA,
    diagnoses,
    package,
    plan,
    with_base,
)

from node.compute import state as state_file
from node.errors import ComputeError, RoundError
from node.model.base import base_digest
from node.services.sessions import Sessions
from protocol.runs import Consent, parse_plan, seal_consent
from protocol.types import digest


async def finished(world, rounds, seconds=60):
    """A run of all sites to its end; its id."""
    async with AsyncExitStack() as stack:
        for site in world.sites:
            await stack.enter_async_context(site.up())
        run = await world.propose(rounds)
        await world.until_finished(run, seconds=seconds)
    assert world.refused == []
    return run


@pytest.mark.parametrize(
    ("learns", "rounds"),
    [("adapters", 1), pytest.param("all", 2, marks=pytest.mark.slow)],
)
async def test_members_end_every_round_with_the_same_bytes(world, learns, rounds):
    world.plan = plan(world, learns=learns, rank=2)
    diagnoses(world.sites, 30)
    run = await finished(world, rounds)
    for number in range(rounds):
        rows = [site.runs.rounds(run)[number] for site in world.sites]
        assert len({row["state_root"] for row in rows}) == 1
        assert all(row["accepted"] and row["held_out"] > 0 for row in rows)
    for site in world.sites:
        keys = await Sessions(site.store, site.key).rows()
        assert len({key["print"] for key in keys}) == len(keys) >= rounds
        assert {key["life"] for key in keys} == {"destroyed"}
        assert {key["host"] for key in keys} == {site.name}
    initial = world.sites[0].runs.record(run).course.proposal.initial
    assert rows[0]["state_root"] != initial.hex()
    found = {
        state_file.path_of(site.folder / "states", site.runs.final_state(run))
        .read_bytes()
        for site in world.sites
    }  # fmt: skip
    assert len(found) == 1
    assert np.frombuffer(found.pop(), "<f4").any()


@pytest.mark.slow
async def test_minilm_learns_chapters_of_diagnoses_from_four_sites(world):
    world.plan = with_base(world, base_digest(package()))
    diagnoses(world.sites, 60)
    run = await finished(world, 3, seconds=200)
    for site in world.sites:
        # A round whose sum made some member's own records worse has no score, and no effect.
        aucs = [row["auc"] for row in site.runs.rounds(run) if row["accepted"]]
        assert aucs
        assert aucs[-1] > 0.9  # chance is one half
    assert len({site.runs.final_state(run) for site in world.sites}) == 1


@pytest.mark.slow
async def test_a_site_with_another_base_does_not_take_part(world, tmp_path):
    world.plan = with_base(world, base_digest(package()))
    diagnoses(world.sites, 30)
    other = world.sites[1].folder / "models/minilm"
    other.unlink()
    shutil.copytree(package(), other)
    with (other / "tokenizer.json").open("ab") as file:
        file.write(b"\n")
    async with AsyncExitStack() as stack:
        for site in world.sites:
            await stack.enter_async_context(site.up())
        with pytest.raises(ComputeError, match="the run needs"):
            await world.propose(1)
        other.rename(other.with_name("kept"))
        (run,) = world.sites[1].runs._known
        with pytest.raises(ComputeError, match="this node has no base"):
            await world.sites[1].runs.join(run, 0)


async def test_a_public_base_is_not_trained_at_another_members_worker(world):
    world.plan = with_base(world, "0" * 64)
    diagnoses(world.sites, 10)
    async with world.sites[0].up() as site:
        tools = site.runs._tools
        site.runs._tools = dataclasses.replace(tools, worker_host="clinic-1")
        with pytest.raises(RoundError, match=r"public checkpoint 'minilm'.*clinic-1"):
            await site.runs._consent_to(None, parse_plan(world.plan.encode()), 0)
        # On its own worker the rule lets it go on, to the next refusal.
        site.runs._tools = tools
        with pytest.raises(ComputeError, match="the run needs 0000"):
            await site.runs._consent_to(None, parse_plan(world.plan.encode()), 0)


@pytest.mark.slow
async def test_a_worker_that_became_anothers_after_consent_does_not_train(world):
    """The rule is about where it trains, and that may change while a run waits."""
    world.plan = with_base(world, base_digest(package()))
    diagnoses(world.sites, 10)
    async with world.sites[0].up() as site:
        names = [other.name for other in world.sites]
        row = await site.runs.propose(world.plan, 1, names, 0)
    run = bytes.fromhex(row["run"])
    for other in world.sites[1:]:
        consent = Consent(run, 0, 10, other.key.seal_key)
        sealed = seal_consent(other.key.sign, other.key.public_key, consent)
        await site.store.put("run-consents", run + digest(sealed), sealed)
    site.worker_host = "clinic-1"
    async with site.up():
        with trio.fail_after(20):
            while not site.runs.record(run).reason:
                await trio.sleep(0.02)
        record = site.runs.record(run)
        assert "public checkpoint 'minilm'" in record.reason
        assert record.trainer is None
    site.worker_host = ""
    async with site.up():
        with trio.fail_after(20):
            while site.runs.record(run).trainer is None:
                await trio.sleep(0.02)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"config": {**LLAMA, "model_type": "mamba"}}, "no keys are known for mamba"),
        ({"config": {**LLAMA, "hidden_act": "glu"}}, "hidden_act = 'glu'"),
        ({"text": "history"}, "no column 'history'"),
        ({"classes": ["neoplasm", "other"]}, "is not one of .'neoplasm', 'other'"),
        ({"tokens": 63}, "a model of 64 positions takes 62"),
        ({"letters": LETTERS + "0123456789"}, "letters need 42"),
    ],
)
async def test_what_cannot_be_trained_is_refused_when_it_is_proposed(
    world, changes, said
):
    world.plan = plan(world, **changes)
    diagnoses(world.sites, 10)
    async with world.sites[0].up():
        with pytest.raises(ComputeError, match=said):
            await world.propose(1)
