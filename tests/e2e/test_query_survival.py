"""A survival curve over institutions with their own files, each a daemon of its own.

Every question, answer, vote and share goes over libp2p, and every vector is counted in a sandbox.
Once it is over all 18 institutions of the trial.  Then over five, and processes are killed: an
institution between its charge and its answer, the researcher once the question is begun.
"""

import json
import math
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest
from live.federation import LONG_S, TESTS, prepared
from lung_curves import BINNED_AT_MOST, kaplan_meier, lung
from query_world import csv_of

from node.errors import NodeError

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]

INSTITUTIONS, ALL, RHO = 5, 18, 0.5
LISTED = {
    "licence": "CC0-1.0",
    "duo": ["DUO:0000042"],
    "source": "NCCTG, Loprinzi 1994",
}
ASKED = {
    "kind": "survival",
    "columns": ["days", "status"],
    "event": "2",
    "high": 720.0,
    "bins": 12,
    "rho": RHO,
}


def start(live, name, ends_at=""):
    """The daemon; with `ends_at` it is killed at its first record of that name."""
    home = str(live.place.sites[name].home.path)
    if not ends_at:
        live.programs.start(
            name, "node.app", "--home", home, env=live.place.environment()
        )
        return
    path = os.pathsep.join([str(TESTS / "e2e"), os.environ.get("PYTHONPATH", "")])
    more = {"PYTHONPATH": path, "REXIS_LIVE_ENDS_AT": ends_at}
    live.programs.start(
        *(name, "live.ending", "--home", home),
        env={**live.place.environment(), **more},
    )


def again(live, name, ends_at=""):
    """Ended, if it still runs, started, and connected to the others."""
    live.programs.kill(name)
    start(live, name, ends_at)
    live.answers(name)
    live.connected()


@contextmanager
def answering(folder, institutions):
    """So many with a table each, who answer, and the last, who asks; the rows of each."""
    with prepared(folder, institutions + 1) as live:
        for name in live.names:
            start(live, name)
        for name in live.names:
            live.answers(name)
        live.connected()
        parts = lung()
        rows = {}
        for place, name in enumerate(live.names[:-1]):
            rows[name] = [row for part in parts[place::institutions] for row in part]
            path = live.place.folder / f"{name}.csv"
            path.write_bytes(csv_of(rows[name]))
            path.chmod(0o600)
            shown = live.call(
                name, "datasets.publish", paths=[str(path)], title=name, **LISTED
            )
            live.datasets[name] = shown["dataset"]
            live.call(
                *(name, "queries.allow"),
                dataset=shown["dataset"],
                kinds=["survival"],
                epsilon=50.0,
            )
        assert sum(map(len, rows.values())) == 227
        yield live, rows


@pytest.fixture(scope="module")
def clinics(tmp_path_factory):
    with answering(tmp_path_factory.mktemp("s"), INSTITUTIONS) as found:
        yield found


def ask(live, **more):
    asked = {**ASKED, "datasets": list(live.datasets.values()), **more}
    return live.call(live.names[-1], "queries.ask", timeout_s=LONG_S, **asked)


def charged(live):
    """Questions that were paid for, by institution."""
    return {
        name: live.call(name, "queries.list")["policies"][0]["questions"]
        for name in live.datasets
    }


def is_the_curve_of(answer, rows):
    """Within the noise that the answer states of itself."""
    (curve,) = answer["result"]["curves"]
    points = curve["points"]
    expected = kaplan_meier(rows, [one["time"] for one in points])
    return len(points) >= 6 and all(
        abs(one["survival"] - exact) <= 4 * one["noise_sd"] + BINNED_AT_MOST
        for one, exact in zip(points, expected, strict=True)
    )


def pooled(rows, without=()):
    return [row for name, of in rows.items() if name not in without for row in of]


def test_the_curve_of_all_eighteen_is_the_pooled_one_within_its_noise(tmp_path):
    with answering(tmp_path, ALL) as (live, rows):
        assert all(rows.values())
        answer = ask(live)
    assert (answer["dropped"], len(answer["answers"])) == ([], ALL)
    assert answer["noise_sd"] == pytest.approx(math.sqrt(ALL / (2 * RHO)))
    assert is_the_curve_of(answer, pooled(rows))
    early = [row for row in pooled(rows) if row["days"] < 300]
    assert not is_the_curve_of(answer, early)


def test_the_curve_of_five_institutions_is_the_pooled_one_within_its_noise(clinics):
    live, rows = clinics
    path = live.place.folder / "answers"
    answer = ask(live, path=str(path))
    assert answer["dropped"] == []
    assert answer["noise_sd"] == pytest.approx(math.sqrt(INSTITUTIONS / (2 * RHO)))
    assert is_the_curve_of(answer, pooled(rows))
    # It is a test that can fail: of the patients who die early it is not the curve.
    early = [row for row in pooled(rows) if row["days"] < 300]
    assert not is_the_curve_of(answer, early)
    done = subprocess.run(
        [sys.executable, "-m", "node.verifier.cli", "query", str(path), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["result"] == answer["result"]


def test_an_institution_killed_between_its_charge_and_its_answer_is_left_out(clinics):
    live, rows = clinics
    victim, before = live.names[2], charged(live)
    again(live, victim, ends_at="query-charge")
    answer = ask(live)
    assert answer["dropped"] == [victim]
    assert len(answer["answers"]) == INSTITUTIONS - 1
    assert is_the_curve_of(answer, pooled(rows, without=[victim]))
    again(live, victim)
    # It has paid, and nothing of its rows has left; the next question has it again.
    assert charged(live) == {name: number + 1 for name, number in before.items()}
    assert ask(live)["dropped"] == []


def test_a_researcher_that_was_killed_goes_on_and_nobody_pays_twice(clinics):
    live, rows = clinics
    lab, before = live.names[-1], charged(live)
    again(live, lab, ends_at="query-open")
    with pytest.raises(NodeError):
        ask(live)
    again(live, lab)
    (row,) = live.call(lab, "queries.list")["open"]
    assert (row["kind"], row["awaits"], row["running"]) == (
        *("survival", "answers"),
        False,
    )
    assert charged(live) == before  # it was killed before it asked
    answer = live.call(lab, "queries.resume", timeout_s=LONG_S, query=row["query"][:16])
    assert answer["dropped"] == []
    assert is_the_curve_of(answer, pooled(rows))
    assert live.call(lab, "queries.list")["open"] == []
    assert charged(live) == {name: number + 1 for name, number in before.items()}
    for kind in ("query_begun", "query_asked"):
        assert (
            sum(e["data"]["query"] == row["query"] for e in live.events(lab, kind)) == 1
        )
