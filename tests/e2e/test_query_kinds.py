"""Every kind of question through `rexis`, to four institutions that are daemons of their own.

Real records: 569 tumours (Wolberg 1995).  Each answer is compared with what all rows in one place
say, within the noise that the answer states of itself; and each is read as a person does (`--log-cli-level=info` shows it).
Survival has a file of its own, `test_query_survival.py`.
"""

import csv
import io
import json
import logging
import math
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest
from live.federation import prepared
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score

from node.cli import main as cli
from protocol.queries import gradient
from protocol.queries.models import Feature, Linear

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]

FOUND = load_breast_cancer(as_frame=True).frame
COLUMNS = ("mean radius", "mean texture", "mean smoothness", "mean concavity")
RANGES = {
    name: tuple(round(float(FOUND[name].quantile(q)), 4) for q in (0.01, 0.99))
    for name in COLUMNS
}
KINDS = ("count", "histogram", "quantiles", "correlation", "evaluation", "training")
PATIENTS = 48
"""Of each institution; three tumours are given to one, so that a unit is several rows."""
RHO = 2
WIDTH = (30 - 6) / 48

log = logging.getLogger(__name__)


def records():
    """The rows of each institution."""
    rows = [
        {name: row[name] for name in COLUMNS}
        | {"kind": "benign" if row["target"] else "malignant"}
        for row in FOUND.to_dict("records")
    ]
    return [
        [{"patient": f"p{at // 3:03}", **row} for at, row in enumerate(rows[site::4])]
        for site in range(4)
    ]


ROWS = [row for part in records() for row in part]


class Clinics:
    """`rexis` at four institutions and at the researcher's."""

    def __init__(self, live):
        self.live, self.lab = live, live.names[-1]

    def run(self, name, *words):
        """Status, stdout, stderr; in this process, which has the imports already."""
        home = str(self.live.place.sites[name].home.path)
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            status = cli.main(["--home", home, *map(str, words)])
        return status, out.getvalue(), err.getvalue()

    def does(self, name, *words):
        status, out, err = self.run(name, *words, "--json")
        assert status == 0, err
        return json.loads(out)

    def asks(self, kind, *words, rho=RHO):
        datasets = self.live.datasets.values()
        return self.does(self.lab, "query", kind, *datasets, *words, "--rho", rho)

    def reads(self, kind, *words, rho=RHO):
        """What a person sees."""
        datasets = self.live.datasets.values()
        said = self.run(self.lab, "query", kind, *datasets, *words, "--rho", rho)
        assert said[0] == 0, said[2]
        log.info("rexis query %s %s\n%s", kind, " ".join(map(str, words)), said[1])
        return said[1]

    def left(self):
        """Privacy left at each institution."""
        return [
            self.does(name, "query", "list")["policies"][0]["rho_left"]
            for name in self.live.datasets
        ]


@pytest.fixture(scope="module")
def clinics(tmp_path_factory):
    with prepared(tmp_path_factory.mktemp("k"), 5) as live:
        for name in live.names:
            home = str(live.place.sites[name].home.path)
            live.programs.start(
                *(name, "node.app", "--home", home), env=live.place.environment()
            )
        for name in live.names:
            live.answers(name)
        live.connected()
        made = Clinics(live)
        for name, rows in zip(live.names, records(), strict=False):
            path = live.place.folder / f"{name}.csv"
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
            path.chmod(0o600)
            shown = made.does(
                *(name, "dataset", "publish", path, "--unit-by", "patient"),
                *("--title", f"Tumours {name}", "--licence", "CC0-1.0"),
                *("--duo", "DUO:0000042", "--source", "Wolberg 1995"),
            )
            assert shown["units"] == PATIENTS
            live.datasets[name] = shown["dataset"]
            kinds = [part for kind in KINDS for part in ("--kind", kind)]
            allowed = ("query", "allow", shown["dataset"], *kinds, "--epsilon", 200)
            made.does(name, *allowed)
        yield made


def near(value, exact, noise_sd, besides=0.0):
    """Within four times the noise that is stated, and what the bins may hide."""
    return abs(value - exact) <= 4 * noise_sd + besides


def test_rows_are_counted(clinics):
    answer = clinics.asks("count")
    assert (answer["masked"], answer["dropped"]) == (True, [])
    assert answer["noise_sd"] == pytest.approx(math.sqrt(4 / (2 * RHO)))
    assert near(answer["result"]["count"], len(ROWS), answer["noise_sd"])
    malignant = clinics.asks("count", "--where", "kind=malignant")
    exact = sum(row["kind"] == "malignant" for row in ROWS)
    assert near(malignant["result"]["count"], exact, malignant["noise_sd"])
    # It is a test that can fail: the two are not each other's.
    assert not near(malignant["result"]["count"], len(ROWS), malignant["noise_sd"])
    said = clinics.reads("count", "--where", "kind=unheard")
    assert "fewer than 10" in said
    assert "4 datasets, masked: only their sum was read" in said


def test_a_histogram_has_no_small_cells(clinics):
    levels = [
        part for one in ("malignant", "benign", "unheard") for part in ("--level", one)
    ]
    answer = clinics.asks("histogram", "--column", "kind", *levels)
    found = {one["level"]: one["count"] for one in answer["result"]["bins"]}
    assert found.pop("unheard") is None
    for level, count in found.items():
        exact = sum(row["kind"] == level for row in ROWS)
        assert near(count, exact, answer["noise_sd"])
    ranged = ("--column", "mean radius", "--low", 6, "--high", 30, "--bins", 6)
    answer = clinics.asks("histogram", *ranged)
    exact, _ = np.histogram(FOUND["mean radius"], bins=6, range=(6, 30))
    shown = [one["count"] for one in answer["result"]["bins"]]
    assert shown[-1] is None  # three tumours
    for one, count in zip(shown, exact, strict=True):
        # Eleven lie in the fifth, where noise decides whether it is shown.
        if one is None:
            assert count < answer["floor"] + 4 * answer["noise_sd"]
        else:
            assert one >= answer["floor"]
            assert near(one, count, answer["noise_sd"])
    said = clinics.reads("histogram", *ranged)
    assert "26.0 to 30.0: suppressed" in said
    assert "10.0 to 14.0: 2" in said


def test_quantiles_are_those_of_all_rows(clinics):
    ranged = ("--column", "mean radius", "--low", 6, "--high", 30, "--bins", 48)
    answer = clinics.asks("quantiles", *ranged)
    rows = answer["result"]["count"]
    assert near(rows, len(ROWS), math.sqrt(48) * answer["noise_sd"])
    for one in answer["result"]["quantiles"]:
        exact = np.quantile(FOUND["mean radius"], one["probability"])
        assert 0 < one["noise_sd"] < 0.5
        assert near(one["value"], exact, one["noise_sd"], besides=WIDTH)
    assert [one["probability"] for one in answer["result"]["quantiles"]] == [
        *(0.25, 0.5, 0.75)
    ]
    assert "at 0.5" in clinics.reads("quantiles", *ranged)


def test_correlations_are_those_of_all_rows(clinics):
    asked = ("--column", "mean radius", "--column", "mean texture")
    ranged = (*asked, "--low", 5, "--high", 35)
    answer = clinics.asks("correlation", *ranged, rho=4)
    exact = np.corrcoef(FOUND["mean radius"], FOUND["mean texture"])[0, 1]
    found, noise = answer["result"]["matrix"], answer["result"]["noise_sd"]
    assert found[0][1] == found[1][0]
    assert 0 < noise[0][1] < 0.3
    # Values lie on a grid of 256 parts: of either's spread, a hundredth.
    assert near(found[0][1], exact, noise[0][1], besides=0.01)
    said = clinics.reads("correlation", *ranged)
    assert "±" in said
    assert "in each sum" not in said  # in units that nobody knows


def test_a_model_is_trained_and_tried_and_checked_by_others(clinics, tmp_path):
    model, rounds = tmp_path / "weights.json", tmp_path / "rounds"
    features = [
        part
        for name, (low, high) in RANGES.items()
        for part in ("--feature", f"{name}={low}:{high}")
    ]
    words = (*features, "--label", "kind=malignant", "--rounds", 10)
    before = clinics.left()
    answer = clinics.asks(
        *("train", *words, "--model-to", model, "--to", rounds), rho=4
    )
    assert answer["result"]["steady"]
    spent = [a - b for a, b in zip(before, clinics.left(), strict=True)]
    assert spent == pytest.approx([4] * 4)  # once, for all ten rounds
    weights = answer["result"]["model"]["weights"]
    assert json.loads(model.read_text())["weights"] == weights
    ours = Linear(
        tuple(Feature(name, *ends) for name, ends in RANGES.items()),
        *("kind", "malignant", tuple(weights)),
    )
    inputs, yes = gradient.inputs(
        ours, [{k: str(v) for k, v in r.items()} for r in ROWS]
    )
    area = roc_auc_score(yes, gradient.log_odds(ours, inputs))
    assert area > 0.93
    tried = clinics.asks("evaluate", "--model", model)["result"]["auc"]
    assert tried["low"] - 4 * tried["noise_sd"] <= area
    assert area <= tried["high"] + 4 * tried["noise_sd"]
    said = clinics.reads("evaluate", "--model", model)
    assert "AUC" in said
    done = subprocess.run(
        [sys.executable, "-m", "node.verifier.cli", "query", str(rounds), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["result"]["model"]["weights"] == weights
    assert clinics.reads("train", *words, rho=1)


def test_a_unit_that_is_withdrawn_is_counted_no_more(clinics):
    name, *_ = clinics.live.datasets
    dataset, before = clinics.live.datasets[name], records()[0]
    left = sum(row["patient"] >= "p040" for row in before)
    clinics.does(name, "dataset", "withdraw", dataset, "--units", "0-39", "--yes")
    answer = clinics.asks("count")
    exact = len(ROWS) - len(before) + left
    assert near(answer["result"]["count"], exact, answer["noise_sd"])
    assert not near(answer["result"]["count"], len(ROWS), answer["noise_sd"])


def test_a_budget_that_is_gone_refuses_and_nothing_is_spent(clinics):
    before = clinics.left()
    datasets = clinics.live.datasets.values()
    much = ("query", "count", *datasets, "--rho", max(before) + 1)
    status, out, err = clinics.run(clinics.lab, *much)
    assert (status, out) == (1, "")
    assert "4 of 4 did not answer" in err
    assert "was asked" in err
    assert clinics.left() == before
