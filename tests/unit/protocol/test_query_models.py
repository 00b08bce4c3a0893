"""Scoring models and fitting weights as queries: reach, rounds, and what is read of a sum."""

import math
import random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from protocol.errors import MalformedMessageError, VerificationError
from protocol.queries import fitting, gradient, result, scores, sketch
from protocol.queries.answer import suppressed
from protocol.queries.models import Feature, Fit, Linear, RunState
from protocol.queries.spec import GRID, MICRO, ROW, Named, Query, cells, reach2
from protocol.wire import decode, encode

ZEROS = bytes(32)
MODEL = Linear(
    (Feature("x", -1.0, 1.0), Feature("y", 0.0, 50.0)), "e", "1", (0.0, 0.0, 0.0)
)
FIT = Fit(20, 0, 0.5, 2.0, 0.01)
replace = msgspec.structs.replace


def question(kind, **changes):
    return Query(kind, (Named(1, ZEROS),), (), MICRO, ZEROS, ZEROS, **changes)


TRAINING = question("training", model=MODEL, fit=FIT)
SCORES = {"low": -4.0, "high": 4.0, "bins": 8}
EVALUATION = question("evaluation", model=MODEL, **SCORES)
OF_RUN = question("evaluation", model=RunState(b"r" * 32, b"s" * 32), **SCORES)


@pytest.mark.parametrize("query", [TRAINING, EVALUATION, OF_RUN])
def test_a_question_about_a_model_survives_the_wire(query):
    query.check()
    assert decode(encode(query), Query) == query


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (replace(TRAINING, model=None), "training with model"),
        (replace(TRAINING, fit=None), "training, None"),
        (replace(EVALUATION, fit=FIT), "evaluation, Fit"),
        (replace(OF_RUN, kind="training", fit=FIT), "not from a run's state"),
        (question("count", model=MODEL), "count with model"),
        (question("count", every=True), "count with model"),
        (replace(EVALUATION, every=True), "only a run's state"),
        (replace(EVALUATION, low=-3.0), "log-odds around 0"),
        (replace(EVALUATION, bins=7), "log-odds around 0"),
        (replace(TRAINING, bins=1), "1 bins"),
        (replace(TRAINING, fit=replace(FIT, number=20)), "round 20 of 20"),
        (replace(TRAINING, fit=replace(FIT, rounds=101)), "101 rounds"),
        (replace(TRAINING, fit=replace(FIT, clip=0.0)), "a clip of 0.0"),
        (replace(TRAINING, fit=replace(FIT, clip=math.nan)), "a clip of nan"),
        (replace(TRAINING, fit=replace(FIT, rate=1e9)), "a rate of"),
        (replace(TRAINING, fit=replace(FIT, ridge=-1.0)), "a ridge of -1.0"),
        (
            replace(TRAINING, model=replace(MODEL, weights=(0.0, 0.0, 1.0))),
            "begins with weights of 0",
        ),
        (
            replace(EVALUATION, model=replace(MODEL, weights=(1.0,))),
            "1 weights, needs 3",
        ),
        (
            replace(EVALUATION, model=replace(MODEL, weights=(0.0, 0.0, math.inf))),
            "needs 3 finite ones",
        ),
        (
            replace(EVALUATION, model=replace(MODEL, features=(Feature("x", 1, 1),))),
            "x between 1",
        ),
        (
            replace(EVALUATION, model=replace(MODEL, label="x")),
            "names a column twice",
        ),
        (replace(OF_RUN, model=RunState(b"", ZEROS)), "32 bytes each"),
    ],
)
def test_a_question_nobody_can_answer_says_why(query, reason):
    with pytest.raises(MalformedMessageError, match=reason):
        query.check()


def test_all_rounds_of_a_training_are_one_charge_and_share_its_privacy():
    third = fitting.question(TRAINING, 3, (0.1, -0.2, 0.3))
    third.check()
    assert third.id() != TRAINING.id()
    assert third.charged() == TRAINING.charged() == TRAINING.id()
    other = replace(TRAINING, nonce=b"\1" * 32)
    assert fitting.question(other, 3, (0.1, -0.2, 0.3)).charged() != third.charged()
    # Twenty sums, each of a twentieth of rho: the variance is twenty times that of one.
    alone = replace(TRAINING, fit=replace(FIT, rounds=1))
    assert third.sigma2 == 20 * alone.sigma2
    assert alone.sigma2 == (GRID**2 + ROW**2) / 2


# --- reach --------------------------------------------------------------------

cell = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True).map(str),
    st.sampled_from(["", "NA", "1e308", "-1e308", "0", "1", "25"]),
)
row = st.fixed_dictionaries({"x": cell, "y": cell, "e": st.sampled_from("01 ")})
weight = st.floats(-1e6, 1e6)


def moved(query, rows, one):
    """What one row more does to the vector, squared."""
    columns = ["x", "y", "e"]
    before = sketch.vector(query, rows, columns)
    step = sketch.vector(query, [*rows, one], columns) - before
    return int((step.astype(object) ** 2).sum())


@given(st.lists(row, max_size=4), row, st.tuples(weight, weight, weight))
@settings(max_examples=150)
def test_one_row_moves_a_score_or_a_gradient_no_further_than_its_reach(rows, one, w):
    model = replace(MODEL, weights=w)
    for query in (
        replace(EVALUATION, model=model),
        replace(TRAINING, model=model, fit=replace(FIT, number=1)),
        replace(TRAINING, model=model, fit=replace(FIT, number=1, clip=1e-9)),
        replace(TRAINING, model=model, fit=replace(FIT, number=1, clip=100.0)),
    ):
        assert moved(query, rows, one) <= reach2(query)


def test_a_row_far_off_uses_its_reach_up_and_no_more():
    far = {"x": "1", "y": "50", "e": "0"}
    model = replace(MODEL, weights=(9.0, 9.0, 9.0))
    query = replace(TRAINING, model=model, fit=replace(FIT, number=1))
    assert 0.999 * reach2(query) < moved(query, [], far) <= reach2(query)
    # The exact guard alone holds what rounding of floats could not.
    rows, yes = gradient.inputs(model, [far])
    steps = gradient.vector(model, query.fit, rows, yes)[1:]
    assert int((steps**2).sum()) <= GRID**2


def test_a_row_without_a_number_or_a_label_takes_no_part():
    rows = [
        {"x": "0", "y": "1", "e": "1"},
        {"x": "NA", "y": "1", "e": "1"},
        {"x": "0", "y": "inf", "e": "1"},
        {"x": "0", "y": "1", "e": ""},
    ]
    assert sketch.vector(TRAINING, rows, ["x", "y", "e"])[0] == ROW
    assert sketch.vector(EVALUATION, rows, ["x", "y", "e"]).sum() == 1
    with pytest.raises(MalformedMessageError, match="no column 'y'"):
        sketch.vector(TRAINING, rows, ["x", "e"])


# --- scores -------------------------------------------------------------------


@pytest.fixture(name="scored")
def two_thousand():
    draw = np.random.default_rng(3)
    yes = draw.random(2000) < 0.3
    return draw.normal(np.where(yes, 1.0, -1.2), 1.3), yes


FINE = replace(EVALUATION, bins=64)


def test_scores_are_those_of_the_rows_within_their_bins(scored):
    log_odds, yes = scored
    found = scores.read(FINE, sketch.scored(FINE, log_odds, yes), 0.0, 10)
    assert (found["count"], found["yes"]) == (2000, int(yes.sum()))
    # Of the bins themselves scikit-learn says the same; of the rows, within what is stated.
    places = np.clip(np.floor(log_odds * 8), -32, 31)
    assert found["auc"]["value"] == pytest.approx(roc_auc_score(yes, places), abs=1e-12)
    exact = roc_auc_score(yes, log_odds)
    assert found["auc"]["low"] <= exact <= found["auc"]["high"]
    assert found["auc"]["high"] - found["auc"]["low"] < 0.04
    assert found["accuracy"]["value"] == accuracy_score(yes, log_odds >= 0)
    cut = np.clip(log_odds, -4, 4)
    chance = 1 / (1 + np.exp(-cut))
    assert found["loss"]["low"] <= log_loss(yes, chance) <= found["loss"]["high"]
    assert found["loss"]["value"] == pytest.approx(log_loss(yes, chance), abs=2e-3)
    middle = found["calibration"][32]
    inside = (log_odds >= 0) & (log_odds < 0.125)
    assert middle["count"] == inside.sum()
    assert middle["share"] == pytest.approx(yes[inside].mean())
    assert middle["from"] == 0.5
    assert msgspec.json.encode(found)  # plain numbers: the daemon's answer is JSON


def test_few_rows_of_one_answer_say_nothing_and_a_bin_of_few_is_not_shown(scored):
    log_odds, yes = scored
    vector = sketch.scored(FINE, log_odds, yes)
    assert scores.read(FINE, vector, 0.0, int(yes.sum()) + 1) == {
        "count": None,
        "yes": None,
    }
    counts = [one["count"] for one in scores.read(FINE, vector, 0, 10)["calibration"]]
    assert None in counts
    assert all(count is None or count >= 10 for count in counts)


def test_the_stated_noise_of_a_score_is_what_noise_does_to_it(scored):
    log_odds, yes = scored
    exact, sd = sketch.scored(EVALUATION, log_odds, yes), 5.0
    stated = scores.read(EVALUATION, exact, sd, 0)
    noise = np.random.default_rng(4).normal(0, sd, (600, exact.size))
    drawn = [scores.read(EVALUATION, exact + one, sd, 0) for one in noise]
    for name in ("auc", "accuracy", "loss"):
        values = [one[name]["value"] for one in drawn]
        assert np.std(values) == pytest.approx(stated[name]["noise_sd"], rel=0.12), name


def test_the_stated_sampling_error_of_an_area_is_that_of_other_samples():
    draw = np.random.default_rng(6)
    areas, stated = [], []
    for _ in range(300):
        yes = np.arange(200) < 80
        log_odds = draw.normal(np.where(yes, 0.6, -0.6), 1.0)
        found = scores.read(FINE, sketch.scored(FINE, log_odds, yes), 0.0, 0)["auc"]
        areas.append(found["value"])
        stated.append(found["sampling_sd"])
    assert np.std(areas) == pytest.approx(np.mean(stated), rel=0.15)


def test_an_answer_alone_of_few_rows_is_nothing_and_of_many_stays_as_it_is():
    few = np.array([40, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0], np.int64)
    assert not suppressed(EVALUATION, few.view(np.uint64), 10).any()
    assert suppressed(EVALUATION, few.view(np.uint64), 9).any()
    sums = np.array([10 * ROW - 1, 5, 5, 5], np.int64).view(np.uint64)
    assert not suppressed(TRAINING, sums, 10).any()
    assert suppressed(TRAINING, sums, 9) is sums
    several = replace(TRAINING, datasets=(Named(1, ZEROS), Named(2, ZEROS)))
    assert suppressed(several, sums, 10) is sums


# --- training -----------------------------------------------------------------


def some_rows(count=400):
    draw = random.Random(5)
    rows = []
    for _ in range(count):
        x, y = draw.uniform(-1, 1), draw.uniform(0, 50)
        answer = draw.random() < 1 / (1 + math.exp(-(3 * x + (y - 25) / 12)))
        rows.append({"x": str(x), "y": str(y), "e": str(int(answer))})
    return rows


def fitted(first, rows, noise=None):
    """All rounds over these rows, and the course they took."""
    sums = []
    course = fitting.followed(first, sums)
    for number in range(first.fit.rounds):
        query = fitting.question(first, number, course.weights)
        total = sketch.vector(query, rows, ["x", "y", "e"])
        if noise is not None:
            sd = math.sqrt(query.sigma2)
            total = total + np.rint(noise.normal(0, sd, total.size)).astype(np.int64)
        sums.append((query, total, 1))
        course = fitting.followed(first, sums)
    return course, sums


def test_without_noise_it_is_the_logistic_regression_of_the_textbook():
    from sklearn.linear_model import LogisticRegression

    rows = some_rows()
    ridge = 0.01
    fit = Fit(100, 0, 2.0, 2.0, ridge)
    course, _ = fitted(replace(TRAINING, fit=fit), rows)
    inputs, yes = gradient.inputs(MODEL, rows)
    # The intercept among the features, so that the ridge is on it there too.
    pooled = LogisticRegression(
        C=1 / (ridge * len(rows)), fit_intercept=False, tol=1e-10
    ).fit(inputs, yes)
    assert course.weights == pytest.approx(pooled.coef_[0], abs=0.03)
    assert course.rows == 400


def test_the_stated_noise_of_the_weights_bounds_what_noise_does_to_them():
    first, rows = replace(TRAINING, spend=MICRO // 4), some_rows()
    assert FIT.rate <= fitting.steady_rate(MODEL, FIT.ridge)
    exact, _ = fitted(first, rows)
    draw = np.random.default_rng(7)
    far = []
    for _ in range(40):
        course, _ = fitted(first, rows, draw)
        far.append(np.subtract(course.weights, exact.weights))
    assert np.sqrt(np.mean(np.square(far))) <= 1.05 * math.sqrt(exact.variance)
    assert np.sqrt(np.mean(np.square(far))) >= 0.1 * math.sqrt(exact.variance)


def test_a_round_that_began_elsewhere_is_noticed():
    _, sums = fitted(TRAINING, some_rows(50))
    fitting.followed(TRAINING, sums)
    query, total, answers = sums[4]
    bent = list(sums)
    bent[4] = (query, total + 1, answers)
    with pytest.raises(VerificationError, match="round 5 of the training"):
        fitting.followed(TRAINING, bent)
    with pytest.raises(VerificationError, match="round 3 of the training"):
        fitting.followed(TRAINING, sums[:3] + sums[4:])
    other = replace(TRAINING, spend=2 * MICRO)
    with pytest.raises(VerificationError, match="round 0 of the training"):
        fitting.followed(other, sums)


def test_a_model_of_few_rows_is_not_shown():
    course, _ = fitted(TRAINING, some_rows(9))
    assert fitting.model(TRAINING, course, 10)["model"] is None
    shown = fitting.model(TRAINING, course, 9)
    assert shown["model"]["weights"] == list(course.weights)
    assert shown["steady"]


def test_a_round_alone_reads_as_its_count():
    total = np.zeros(cells(TRAINING), np.int64)
    total[0] = 12 * ROW
    assert result.read(TRAINING, total, 1, 10) == {"count": 12}
    assert result.read(EVALUATION, np.zeros(16, np.int64), 1, 10)["count"] is None
