"""A question about the state a run came to: whose rows are tried, and which state it is."""

import csv
import json
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import numpy as np
import pytest
from stock_texts import TASK, diagnoses, package, plan, with_base

from node.compute.kinds import model_of
from node.errors import AccessError, ComputeError
from node.model.base import base_digest
from node.query import runner, scoring
from node.query.child import evaluate
from node.query.code import code_digest
from node.query.scoring import Given
from node.services.query_models import Models
from protocol.queries import result, sketch
from protocol.queries.models import RunState
from protocol.queries.spec import MICRO, Named, Query

ZEROS = bytes(32)


def asked(model, every=False):
    return Query(
        "evaluation",
        (Named(0, ZEROS),),
        (),
        MICRO,
        code_digest(),
        ZEROS,
        low=-8.0,
        high=8.0,
        bins=512,
        model=model,
        every=every,
    )


def models_of(site, key=None):
    tools = site.runs._tools
    return Models(
        *(site.runs, tools.states, tools.federation, key or site.key.public_key),
        compute=tools.compute,
        models=tools.folders.models,
    )


@pytest.fixture
def no_noise(monkeypatch):
    monkeypatch.setattr(
        "protocol.queries.noise.discrete_gaussian", lambda sigma2, below: 0
    )


@asynccontextmanager
async def a_run_of(world):
    """All sites up, and a run of theirs that has had its one round."""
    async with AsyncExitStack() as stack:
        for site in world.sites:
            await stack.enter_async_context(site.up())
        run = await world.propose(rounds=1)
        await world.until_finished(run)
        yield run


async def test_a_runs_state_scores_as_the_run_itself_says_and_no_other_state_is_tried(
    world, no_noise
):
    async with a_run_of(world) as run:
        for site in world.sites:
            models = models_of(site)
            model = models.newest(run)
            (row,) = site.runs.rounds(run)
            assert model.state.hex() == row["state_root"]
            query = asked(model)
            assert models.columns(query) == ("age", "sex", "id", "y")
            given = await models.given(query)
            tried = scoring.model_of(given)
            words = evaluate(query, site.datasets.data, None, tried)
            found = result.read(query, words.view("<i8"), 1, 0)
            # Of the held-out rows, and as the member's own look at the state said.
            assert found["count"] == row["held_out"]
            area, loss = found["auc"], found["loss"]
            assert area["low"] - 1e-9 <= row["auc"] <= area["high"] + 1e-9
            assert loss["low"] - 1e-6 <= row["loss"] <= loss["high"] + 1e-6
            whole = evaluate(asked(model, True), site.datasets.data, None, tried)
            assert whole.view("<i8").sum() == 40
        # Shut in, it says the same.
        shut = await runner.run(query, site.datasets.data, given)
        assert abs(int(shut.view("<i8").sum()) - row["held_out"]) < 200
        # Another root is not tried, whoever names it, nor is another run's.
        other = msgspec.structs.replace(model, state=b"x" * 32)
        gone = r"stands at state .*, not at 78787878"
        with pytest.raises(AccessError, match=gone):
            models.columns(asked(other))
        with pytest.raises(AccessError, match=gone):
            await models.given(asked(other))
        with pytest.raises(AccessError, match="not in run"):
            await models_of(site, b"k" * 32).given(query)
        with pytest.raises(AccessError, match="not in run"):
            models_of(site, b"k" * 32).newest(run)
        # A file that has gone comes back from the others; a damaged one is never tried.
        path = site.folder / "states" / f"{model.state.hex()}.state"
        path.unlink()
        assert await models.given(query) == given
        path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
        with pytest.raises(ComputeError, match="is damaged"):
            await models.given(query)


async def test_a_row_the_model_cannot_read_takes_no_part_and_is_not_told_of(
    world, no_noise
):
    async with a_run_of(world) as run:
        models = models_of(world.sites[0])
        query = asked(models.newest(run), every=True)
        given = await models.given(query)
    table = b"id,age,sex,y\n1,40,F,1\n2,secret,F,1\n3,40,secret,1\n4,,M,0\n5,40,M,\n"
    tried = scoring.model_of(given)
    exact = evaluate(query, table, None, tried).view("<i8")
    assert exact.tolist().count(1) == 2
    assert exact.sum() == 2
    # What is no model is refused with a word, before the process has a row.
    bent = msgspec.structs.replace(
        given, spec={"kind": "stock", "text": "t", "classes": ["a", "b"]}
    )
    with pytest.raises(ComputeError, match="needs a config or a checkpoint"):
        await runner.run(query, table, bent)


def test_a_state_is_named_by_run_and_root():
    model = RunState(b"r" * 32, b"s" * 32)
    assert asked(model).id() != asked(RunState(b"r" * 32, b"t" * 32)).id()


async def test_a_stock_models_state_scores_as_the_run_itself_says_shut_in_or_not(
    world, no_noise
):
    """Published diagnoses of two chapters, and a small Llama that told them apart."""
    world.plan = plan(world, learns="adapters", rank=2)
    diagnoses(world.sites, 30)
    async with a_run_of(world) as run:
        for site in world.sites:
            models = models_of(site)
            (row,) = site.runs.rounds(run)
            query = asked(models.newest(run, "injury"))
            assert models.columns(query) == ("diagnosis", "code", "chapter")
            await models.ready(query)
            given = await models.given(query)
            words = evaluate(query, site.datasets.data, None, scoring.model_of(given))
            found = result.read(query, words.view("<i8"), 1, 0)
            assert found["count"] == row["held_out"] > 0
            assert (
                found["auc"]["low"] - 1e-9 <= row["auc"] <= found["auc"]["high"] + 1e-9
            )
            loss = found["loss"]
            assert loss["low"] - 1e-6 <= row["loss"] <= loss["high"] + 1e-6
        # The other class turns the histograms round: what was yes is no, and at the mirrored odds.
        other = asked(models.newest(run, "neoplasm"))
        turned = evaluate(other, site.datasets.data, None, scoring.model_of(given))
        assert turned.view("<i8").sum() == words.view("<i8").sum()
        assert turned.tolist() == words[::-1].tolist()
        # A class that there is not, or none, is refused before anybody pays.
        for wrong in ("", "birth"):
            with pytest.raises(ComputeError, match=r"no class .*neoplasm, injury"):
                models.columns(asked(models.newest(run, wrong)))
        # Shut in, it says the same: with little noise, cell by cell.
        loud = msgspec.structs.replace(query, spend=100 * MICRO)
        shut = await runner.run(loud, site.datasets.data, given)
        assert np.abs(shut.view("<i8") - words.view("<i8")).max() <= 1
        # A row with another class, or without one, takes no part and is not told of.
        lines = site.datasets.data.splitlines()
        odd = b"\n".join([*lines, b"X1,secret,birth", b"X2,secret,"]) + b"\n"
        again = evaluate(query, odd, None, scoring.model_of(given))
        assert again.tolist() == words.tolist()


async def test_a_texts_score_does_not_depend_on_the_rows_beside_it(tmp_path, world):
    """To the last bit: one row more may move one cell by one, and no other row's."""
    spec = json.loads(plan(world, learns="adapters", rank=2))["spec"]
    model = model_of({"spec": spec, "models": str(tmp_path)})
    state = np.random.default_rng(1).standard_normal(model.size).astype("<f4")
    tried = scoring.model_of(Given(spec, TASK, state.tobytes()))
    query = asked(RunState(b"r" * 32, b"s" * 32, "injury"), every=True)
    texts = ["wound", "malignant neoplasm of the thyroid", "burn", "tumour of skin"]
    rows = [{"code": text, "diagnosis": text, "chapter": "injury"} for text in texts]
    together = tried.scores(query, rows)[0].tolist()
    assert together == [float(tried.scores(query, [row])[0][0]) for row in rows]
    # In a batch they do: that is why they are not scored in one.
    batch = model.scorer(state)(texts).astype(float)
    assert (batch[:, 1] - batch[:, 0]).tolist() != together


@pytest.mark.slow
async def test_a_public_checkpoint_and_its_tokenizer_are_read_before_the_doors_close(
    world, tmp_path
):
    """MiniLM under adapters, shut in: cell by cell what it says outside."""
    world.plan = with_base(world, base_digest(package()))
    spec = json.loads(world.plan)["spec"]
    diagnoses(world.sites[:1], 40)
    folder = world.sites[0].folder / "models"
    stock = model_of({"spec": spec, "models": str(folder)})
    state = 0.05 * np.random.default_rng(1).standard_normal(stock.size)
    given = Given(spec, TASK, state.astype("<f4").tobytes(), str(folder))
    query = asked(RunState(b"r" * 32, b"s" * 32, "injury"), every=True)
    query = msgspec.structs.replace(query, spend=100 * MICRO)
    data, tried = world.sites[0].datasets.data, scoring.model_of(given)
    wanted = sketch.scored(
        query, *tried.scores(query, list(csv.DictReader(lines(data))))
    )
    assert wanted.sum() == 40
    assert (wanted > 0).sum() > 10
    shut = await runner.run(query, data, given)
    assert np.abs(shut.view("<i8") - wanted).max() <= 1
    # A folder with another base is none, and says so before there is a row.
    bent = msgspec.structs.replace(given, models=str(tmp_path / "none"))
    with pytest.raises(ComputeError, match="no base at"):
        await runner.run(query, data, bent)


def lines(data):
    return data.decode().splitlines()
