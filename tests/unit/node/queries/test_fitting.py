"""Weights fitted to the tables of four institutions, and tried on them: real records."""

import math
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from query_world import World, csv_of, question
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score

from node.errors import AccessError, ComputeError, TransportError
from node.query import runner
from node.query.ledger import Ledger
from node.rpc.methods import METHODS
from node.rpc.results import queries as results
from node.services.queries_admin import QueriesAdmin
from node.verifier.lineage import query_report
from protocol.errors import VerificationError
from protocol.queries import fitting, gradient
from protocol.queries.answer import seal_query
from protocol.queries.fitting import Rounds, open_rounds
from protocol.queries.models import Feature, Fit, Linear
from protocol.queries.recovery import Asked
from protocol.queries.spec import MICRO, Named
from protocol.wire import encode

FOUND = load_breast_cancer(as_frame=True).frame
NAMES = ("mean radius", "mean texture", "mean smoothness", "mean concavity")
FEATURES = tuple(
    Feature(name, *(float(q) for q in FOUND[name].quantile([0.01, 0.99])))
    for name in NAMES
)
WEIGHTS = (0.0,) * 5
MODEL = Linear(FEATURES, "target", "1", WEIGHTS)
FIT = Fit(rounds=12, number=0, clip=1.0, rate=1.2, ridge=0.001)


def cut(parts):
    """569 tumours, dealt out as to hospitals."""
    rows = [
        {name: row[name] for name in (*NAMES, "target")}
        | {"target": int(row["target"])}
        for row in FOUND.to_dict("records")
    ]
    return [rows[site::parts] for site in range(parts)]


@pytest.fixture
async def clinics(nursery, tmp_path):
    made = World(4, tmp_path)
    await made.start(nursery, [csv_of(part) for part in cut(4)])
    return made


def pooled(rows):
    """The same steps over all rows in one place, and no noise."""
    weights = WEIGHTS
    for _ in range(FIT.rounds):
        model = Linear(FEATURES, "target", "1", weights)
        inputs, yes = gradient.inputs(model, rows)
        total = gradient.vector(model, FIT, inputs, yes)
        unit = FIT.clip / (1 << 14) / len(rows)
        weights = tuple(
            w - FIT.rate * (unit * int(g) + FIT.ridge * w)
            for w, g in zip(weights, total[1:], strict=True)
        )
    return weights


def scored(weights, rows):
    """Area under the curve of these weights over rows, by scikit-learn."""
    model = Linear(FEATURES, "target", "1", weights)
    inputs, yes = gradient.inputs(model, rows)
    return roc_auc_score(yes, gradient.log_odds(model, inputs))


def silent(monkeypatch):
    monkeypatch.setattr(
        "protocol.queries.noise.discrete_gaussian", lambda sigma2, below: 0
    )


def weights_of(answer):
    return tuple(answer["result"]["model"]["weights"])


ROWS = [{k: str(v) for k, v in row.items()} for part in cut(4) for row in part]


@pytest.mark.slow
async def test_four_clinics_fit_and_try_weights_and_both_are_the_pooled_ones_within_noise(
    clinics, tmp_path
):
    world = clinics
    await world.allow(["training", "evaluation"], epsilon=14.0)
    path = tmp_path / "rounds"
    answer = await world.lab.queries.train(world.datasets, MICRO, MODEL, FIT, path=path)
    results.QueriesAsk(**answer)
    assert answer["masked"]
    found, exact = weights_of(answer), pooled(ROWS)
    stated = answer["result"]["weight_noise_sd"]
    assert 0 < math.dist(found, exact) <= 3 * stated * math.sqrt(len(exact))
    assert answer["result"]["steady"]
    assert abs(answer["result"]["count"] - 569) < 60
    assert scored(exact, ROWS) > 0.94
    # One charge for all twelve rounds, as much as was said, at each of them.
    for site in world.sites:
        (row,) = await site.queries.rows()
        assert row["questions"] == 1
        assert row["rho"] - row["rho_left"] == pytest.approx(1.0)
        assert site.ran == FIT.rounds
    # Whoever has the file finds the same weights, and a lie about one round.
    owners = {
        dataset: site.key.public_key
        for site, dataset in zip(world.sites, world.datasets, strict=True)
    }
    manifests = {
        one["dataset"]: bytes.fromhex(one["manifest"]) for one in answer["answers"]
    }
    bundles = open_rounds(path.read_bytes())
    first = bundles[0].opened()[0]
    course = fitting.followed(first, fitting.totals(bundles, owners, manifests))
    assert course.weights == found
    with pytest.raises(VerificationError, match="round 3"):
        fitting.followed(
            first, fitting.totals(bundles[:3] + bundles[4:], owners, manifests)
        )
    report = query_report(path.read_bytes(), None)
    assert report["result"] == answer["result"]
    assert report["query"] == answer["query"]
    with pytest.raises(VerificationError, match="rounds of the training"):
        query_report(encode(Rounds(bundles[:-1])), None)
    # And tried where they were fitted.
    tried = await world.lab.queries.evaluate(
        world.datasets, MICRO // 2, Linear(FEATURES, "target", "1", found)
    )
    results.QueriesAsk(**tried)
    area = tried["result"]["auc"]
    honest = scored(found, ROWS)
    assert area["low"] - 4 * area["noise_sd"] <= honest
    assert honest <= area["high"] + 4 * area["noise_sd"]
    assert area["noise_sd"] < 0.03


@pytest.mark.slow
async def test_without_noise_the_weights_and_the_scores_are_the_pooled_ones_exactly(
    clinics, monkeypatch
):
    silent(monkeypatch)
    world = clinics
    await world.allow(["training", "evaluation"], epsilon=14.0)
    answer = await world.lab.queries.train(world.datasets, MICRO, MODEL, FIT)
    assert weights_of(answer) == pooled(ROWS)
    model = Linear(FEATURES, "target", "1", weights_of(answer))
    tried = await world.lab.queries.evaluate(
        world.datasets, MICRO, model, reach=6.0, bins=512
    )
    inputs, yes = gradient.inputs(model, ROWS)
    odds = gradient.log_odds(model, inputs)
    places = np.clip(np.floor((odds + 6) * 512 / 12), 0, 511)
    found = tried["result"]
    assert (found["count"], found["yes"]) == (569, int(yes.sum()))
    assert found["auc"]["value"] == pytest.approx(roc_auc_score(yes, places), abs=1e-12)
    assert found["accuracy"]["value"] == float(((odds >= 0) == yes).mean())
    # And it is a test that can fail: one clinic less is another model.
    assert weights_of(answer) != pooled(ROWS[: 569 * 3 // 4])


@pytest.mark.slow
async def test_a_training_cut_in_the_middle_goes_on_and_nobody_pays_twice(
    clinics, monkeypatch
):
    silent(monkeypatch)
    world, site = clinics, clinics.sites[1]
    await world.allow(["training"], epsilon=9.0)

    async def dies(*_):
        raise ComputeError("killed")

    for one in world.sites[:2]:
        good, calls = one.queries._run, []

        async def after_five(query, table, *, run=good, seen=calls):
            seen.append(query.fit.number)
            return await (run if query.fit.number < 5 else dies)(query, table)

        one.queries._run = after_five
    with pytest.raises(TransportError, match="killed") as caught:
        await world.lab.queries.train(world.datasets, MICRO, MODEL, FIT)
    name = caught.value.hint().split("resume ")[1].split("`")[0]
    # Everybody begins anew, the researcher too, over what is on its disk.
    for one in (*world.sites, world.lab):
        one.start()
    before = [one.ran for one in world.sites]
    assert before == [5, 5, 6, 6]
    (row,) = await world.lab.queries.open()
    assert (row["kind"], row["running"]) == ("training", False)
    assert row["query"].startswith(name)
    assert f"resume {name}`" in row["hint"]
    answer = await world.lab.queries.resume(name)
    assert answer["query"].startswith(name)
    assert weights_of(answer) == pooled(ROWS)
    # Each of the twelve rounds once at each.
    assert [one.ran for one in world.sites] == [12] * 4
    (row,) = await site.queries.rows()
    assert row["questions"] == 1
    kinds = [event.kind for event in await site.store.events(0, 100)]
    assert kinds.count("query_charged") == 1
    assert await world.lab.queries.open() == []
    with pytest.raises(AccessError, match="0 unfinished questions"):
        await world.lab.queries.resume(name)


@pytest.mark.slow
async def test_a_training_cut_between_two_rounds_is_shown_and_two_do_not_go_on_with_it(
    clinics, monkeypatch
):
    silent(monkeypatch)
    world = clinics
    await world.allow(["training"], epsilon=9.0)
    asking, refused = world.lab.queries._asking, []
    bundle = asking.bundle

    async def dies_before_the_third(query, owners, manifests):
        if query.fit.number == 2:
            raise ComputeError("killed")
        return await bundle(query, owners, manifests)

    asking.bundle = dies_before_the_third
    with pytest.raises(ComputeError):
        await world.lab.queries.train(world.datasets, MICRO, MODEL, FIT)
    world.lab.start()
    (row,) = await world.lab.queries.open()
    assert (row["kind"], row["awaits"], row["running"]) == (
        *("training", "answers"),
        False,
    )
    asking = world.lab.queries._asking
    bundle = asking.bundle

    async def asked_for_by_two(query, owners, manifests):
        if query.fit.number == 2:
            assert (await world.lab.queries.open())[0]["running"]
            with pytest.raises(AccessError, match="is being asked now") as caught:
                await world.lab.queries.resume(row["query"])
            refused.append(caught)
        return await bundle(query, owners, manifests)

    asking.bundle = asked_for_by_two
    answer = await world.lab.queries.resume(row["query"])
    assert len(refused) == 1
    assert weights_of(answer) == pooled(ROWS)
    assert [one.ran for one in world.sites] == [12] * 4
    assert await world.lab.queries.open() == []


@pytest.mark.slow
async def test_a_budget_is_reserved_before_the_first_round_or_nothing_is_asked(clinics):
    world = clinics
    await world.allow(["evaluation"], epsilon=9.0)
    with pytest.raises(AccessError, match="answers no training"):
        await world.lab.queries.train(world.datasets, MICRO, MODEL, FIT)
    await world.allow(["training"], epsilon=1.0)
    with pytest.raises(AccessError, match=r"4 of 4 did not answer.*left"):
        await world.lab.queries.train(world.datasets, MICRO, MODEL, FIT)
    assert await world.lab.queries.open() == []  # nothing was begun, or paid
    spend = MICRO // 50
    await world.lab.queries.train(world.datasets, spend, MODEL, FIT)
    (row,) = await world.sites[0].queries.rows()
    assert 0 < row["epsilon_spent"] <= 1.0
    before = [site.ran for site in world.sites]
    with pytest.raises(AccessError, match=r"4 of 4 did not answer.*left"):
        await world.lab.queries.train(world.datasets, spend, MODEL, FIT)
    with pytest.raises(AccessError, match="answers no evaluation"):
        await world.lab.queries.evaluate(world.datasets, 1000, MODEL)
    assert [site.ran for site in world.sites] == before == [FIT.rounds] * 4
    with pytest.raises(AccessError, match="no column 'mean luck'"):
        await world.lab.queries.evaluate(
            world.datasets,
            1000,
            Linear((Feature("mean luck", 0.0, 1.0),), "target", "1", (0.0, 1.0)),
        )


@pytest.mark.slow
async def test_a_second_answer_to_a_round_from_other_weights_is_refused(clinics):
    """It would be noise of one round for the price of none."""
    world, site, dataset = clinics, clinics.sites[0], clinics.datasets[0]
    await world.allow(["training"], epsilon=9.0)
    token = next(t for t in await site.chain.datasets() if t.dataset == dataset)
    first = question(
        MICRO,
        kind="training",
        datasets=(Named(dataset, token.record),),
        model=MODEL,
        fit=FIT,
    )
    key, lab = world.lab.key, world.lab.member()

    async def ask(query):
        sealed = seal_query(key.sign, key.public_key, query)
        return await site.queries._answer(query, lab, Asked(sealed))

    answer = await ask(first)
    assert await ask(first) == answer
    third = fitting.question(first, 3, (0.1, 0.2, 0.3, 0.4, 0.5))
    kept = await ask(third)
    other = fitting.question(first, 3, (0.1, 0.2, 0.3, 0.4, 0.6))
    for _ in range(2):
        with pytest.raises(AccessError, match=r"round 3 .* from other weights"):
            await ask(other)
        site.start()
    assert await ask(third) == kept
    assert (await site.queries.rows())[0]["questions"] == 1
    # Its charge is for all rounds: a budget gone elsewhere does not stop it.
    await Ledger(site.store).allow(dataset, ["training"], (0.001, 1e-6), 10)
    await ask(fitting.question(first, 4, (0.1, 0.2, 0.3, 0.4, 0.6)))
    second = question(
        MICRO, 1, kind="training", datasets=first.datasets, model=MODEL, fit=FIT
    )
    with pytest.raises(AccessError, match="left"):
        await ask(second)
    # A steward who stops it stops the next round, and what is paid stays paid.
    await site.queries.stop(dataset)
    with pytest.raises(AccessError, match="answers no training"):
        await ask(fitting.question(first, 5, (0.1, 0.2, 0.3, 0.4, 0.6)))
    assert await ask(third) == kept


@pytest.mark.slow
async def test_what_an_operator_types_is_trained_and_tried(clinics):
    """The parameters of docs/rpc.md, and the model of one answer in the next question."""
    world, two = clinics, clinics.datasets[:2]
    await world.allow(["training", "evaluation"], epsilon=14.0)
    methods = QueriesAdmin(SimpleNamespace(queries=world.lab.queries)).methods()

    async def call(name, **given):
        method = METHODS[f"queries.{name}"]
        row = await methods[method.name](msgspec.convert(given, method.params))
        return msgspec.convert(row, method.result).result

    named = [
        {"column": one.column, "low": one.low, "high": one.high} for one in FEATURES
    ]
    said = {"features": named, "label": "target", "yes": "1", "rounds": 5}
    trained = await call("train", datasets=two, rho=1.0, **said)
    assert trained["steady"]
    assert [one["column"] for one in trained["model"]["features"]] == list(NAMES)
    tried = await call("evaluate", datasets=two, rho=0.5, model=trained["model"])
    assert abs(tried["count"] - 285) < 100
    assert 0.8 < tried["auc"]["value"] <= 1
    with pytest.raises(AccessError, match="one of the two"):
        await call("evaluate", datasets=two, rho=0.5)
    with pytest.raises(AccessError, match="is in no runs"):
        await call("evaluate", datasets=two, rho=0.5, run="00" * 32)


async def test_a_round_and_an_evaluation_run_in_their_child():
    table = csv_of(cut(4)[0])
    first = question(MICRO, kind="training", model=MODEL, fit=FIT)
    words = (await runner.run(first, table)).view(np.int64)
    sd = math.sqrt(first.sigma2)
    inputs, yes = gradient.inputs(MODEL, ROWS[: len(cut(4)[0])])
    exact = gradient.vector(MODEL, FIT, inputs, yes)
    assert (np.abs(words - exact) < 6 * sd).all()
    asked = question(MICRO, kind="evaluation", model=MODEL, low=-4.0, high=4.0, bins=2)
    words = (await runner.run(asked, table)).view(np.int64)
    assert words[0] == words[2] == 0 or abs(int(words[0])) < 10
    assert abs(int(words.sum()) - len(cut(4)[0])) < 20
