"""A question about the state a run came to: whose rows are tried, and which state it is."""

from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest

from node.errors import AccessError, ComputeError
from node.query import runner
from node.query.child import evaluate
from node.query.code import code_digest
from node.services.query_models import Models
from protocol.queries import result
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
    return Models(site.runs, tools.states, tools.federation, key or site.key.public_key)


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
            words = evaluate(query, site.datasets.data, None, given)
            found = result.read(query, words.view("<i8"), 1, 0)
            # Of the held-out rows, and as the member's own look at the state said.
            assert found["count"] == row["held_out"]
            area, loss = found["auc"], found["loss"]
            assert area["low"] - 1e-9 <= row["auc"] <= area["high"] + 1e-9
            assert loss["low"] - 1e-6 <= row["loss"] <= loss["high"] + 1e-6
            whole = evaluate(asked(model, True), site.datasets.data, None, given)
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
    exact = evaluate(query, table, None, given).view("<i8")
    assert exact.tolist().count(1) == 2
    assert exact.sum() == 2
    # A model file of another kind is refused with a word, not with a trace of the rows.
    bent = msgspec.structs.replace(
        given, spec={"kind": "stock", "text": "t", "classes": ["a", "b"]}
    )
    with pytest.raises(ComputeError, match="stock model"):
        await runner.run(query, table, bent)


def test_a_state_is_named_by_run_and_root():
    model = RunState(b"r" * 32, b"s" * 32)
    assert asked(model).id() != asked(RunState(b"r" * 32, b"t" * 32)).id()
