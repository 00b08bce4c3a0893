"""What goes on for a while: watching a run, following events, waiting for a stop."""

import json

import pytest

from node.cli import render, watch
from node.rpc.methods import METHODS

RUN = {
    **METHODS["runs.show"].example["result"],
    "members": ["MN", "KY", "MS", "NY"],
    "rounds": 8,
    "privacy": None,
}
ROUND = {
    **METHODS["rounds.list"].example["result"]["rounds"][0],
    "loss_first": 0.6021,
    "loss_last": 0.5534,
    "auc": 0.8312,
    "seconds": 4.31,
    "bytes_received": 1_265_664,
    "survivors": ["MN", "KY", "NY"],
}
ID = RUN["run"]


class Story:
    """A run that moves on a step each time it is looked at."""

    def __init__(self, *steps):
        self.steps = list(steps)
        self.rounds = 0

    def run(self, _params):
        row = {**RUN, **(self.steps.pop(0) if len(self.steps) > 1 else self.steps[0])}
        self.rounds = row["round"]
        return row

    def closed(self, _params):
        return {"rounds": [{**ROUND, "round": n} for n in range(self.rounds)]}


@pytest.fixture
def tell(daemon, monkeypatch):
    monkeypatch.setattr(watch, "_EVERY_S", 0.0)

    def begin(*steps):
        story = Story(*steps)
        daemon.answers |= {"runs.show": story.run, "rounds.list": story.closed}

    return begin


PROPOSED = {"phase": "proposed", "round": 0, "consents": ["MN"], "progress": None}
TRAINING = {"phase": "training", "round": 0}
ENDED = {"phase": "finished", "round": 2, "progress": None}


def test_watching_tells_each_change_once_and_ends_with_the_run(rexis, tell):
    tell(PROPOSED, PROPOSED, TRAINING, {"round": 1}, {"round": 1}, ENDED)
    status, out, err = rexis("run", "watch", ID)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "proposed, waits for KY, MS, NY"
    assert lines[1] == "training"
    assert lines[2].startswith(
        "round 0 closed (1 of 8): training loss 0.6021 to 0.5534, AUC 0.8312, 4.3 s"
    )
    assert lines[3].startswith("round 1 closed (2 of 8)")
    assert lines[4:] == ["finished"]


def test_a_closed_round_says_whose_updates_are_in_it(rexis, tell):
    tell(TRAINING, {"round": 1}, ENDED)
    _, out, _ = rexis("run", "watch", ID)
    assert out.count(", sum of MN, KY, NY, state ") == 2


def test_a_rejected_round_is_not_told_as_a_closed_one(rexis, daemon, tell, monkeypatch):
    monkeypatch.setitem(ROUND, "accepted", False)
    monkeypatch.setitem(ROUND, "auc", None)
    tell(TRAINING, {"round": 1}, ENDED)
    _, out, _ = rexis("run", "watch", ID)
    assert "round 0 rejected (1 of 8): " in out
    assert "closed" not in out
    cause = "hold-outs of MN, NY"
    monkeypatch.setitem(ROUND, "rejected_for", cause)
    tell(TRAINING, {"round": 1}, ENDED)
    _, out, _ = rexis("run", "watch", ID)
    assert f"round 0 rejected: {cause} (1 of 8): " in out
    daemon.answers["rounds.list"] = lambda _params: {"rounds": [ROUND]}
    _, out, _ = rexis("round", "list", ID)
    head, _, row = out.splitlines()
    at = head.index("sum")
    assert row[at:].startswith(f"rejected: {cause}   MN, KY, NY ")


def test_a_run_shows_where_its_round_stands_and_who_is_away(rexis, daemon):
    row = {**RUN, "stage": "settling", "away": ["KY", "NY"]}
    daemon.answers["runs.show"] = lambda _params: row
    _, out, _ = rexis("run", "show", ID)
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    at = lines.index(["stage", "settling"])
    assert lines[at + 1] == ["away", "KY, NY"]
    assert watch.away(row) == "KY, NY away"
    assert watch.away(RUN) == ""


def test_watching_a_run_that_fails_is_status_1_with_the_reason(rexis, tell):
    tell(TRAINING, {"phase": "failed", "reason": "KY left"})
    status, out, err = rexis("run", "watch", ID)
    assert status == 1
    assert out.splitlines()[-1] == "failed: KY left"
    assert "failed: KY left" in err


def test_watching_as_json_is_an_object_a_line(rexis, tell):
    tell(TRAINING, {"round": 1}, ENDED)
    _, out, _ = rexis("run", "watch", ID, "--json")
    told = [json.loads(line) for line in out.splitlines()]
    assert [len(one["rounds"]) for one in told] == [0, 1, 1]
    assert told[-1]["run"]["phase"] == "finished"


def test_a_daemon_that_ends_while_we_watch_is_status_2(rexis, tell, daemon):
    tell(TRAINING)

    def end(_params):
        daemon._scope.cancel()
        return RUN

    daemon.answers["runs.show"] = end
    status, _, err = rexis("run", "watch", ID)
    assert status == 2
    assert "error: " in err


def test_the_live_view_draws_a_run(capfd):
    with render.live() as draw:
        draw(
            heading="a run",
            state="training",
            done=(3, 8),
            now="step",
            step=(12, 40),
            columns=list(watch.ROUND_COLUMNS),
            rows=[[read(ROUND) for read in watch.ROUND_COLUMNS.values()]],
        )
    out = capfd.readouterr().out
    for text in ("a run", "3 of 8", "12 of 40", "0.8312", "1.3 MB"):
        assert text in out


def event(number, **data):
    return {"number": number, "at_ms": 1000 * number, "kind": "thing", "data": data}


def paged(events):
    def answer(params):
        after, limit = params["after"], params["limit"]
        return {"events": [one for one in events if one["number"] > after][:limit]}

    return answer


def test_the_newest_events_are_shown_oldest_first_over_all_pages(rexis, daemon):
    daemon.answers["events.list"] = paged([event(n) for n in range(1, 2501)])
    _, out, _ = rexis("events", "--last", "3")
    assert [line.split()[0] for line in out.splitlines()] == ["2498", "2499", "2500"]
    _, out, _ = rexis("events", "--after", "2499", "--json")
    assert [one["number"] for one in json.loads(out)["events"]] == [2500]
    _, out, _ = rexis("events", "--last", "0")
    assert out == "no events\n"


def test_following_asks_after_the_last_and_waits(rexis, daemon):
    events = [event(1), event(2)]
    asked = []

    def answer(params):
        asked.append(params)
        if len(asked) == 2:
            events.append(event(3))
        if len(asked) == 3:
            daemon._scope.cancel()
        return paged(events)(params)

    daemon.answers["events.list"] = answer
    status, out, _ = rexis("events", "--follow", "--json")
    assert status == 2  # the daemon ended
    assert [json.loads(line)["number"] for line in out.splitlines()] == [1, 2, 3]
    assert [(one["after"], one["wait_s"] > 0) for one in asked] == [
        (0, False),
        (2, True),
        (3, True),
    ]


def test_what_a_peer_wrote_cannot_steer_the_terminal(rexis, daemon):
    nasty = "\x1b]0;owned\x07\x9b31m\u202e[bold]x[/bold]\nsecond"
    row = {**METHODS["datasets.list"].example["result"]["datasets"][0], "title": nasty}
    daemon.answers["datasets.list"] = {"datasets": [row]}
    daemon.answers["events.list"] = {"events": [event(1, title=nasty)]}
    from node.errors import AccessError

    daemon.answers["peers.list"] = AccessError(nasty, hint=nasty)
    for command in (
        ("dataset", "list"),
        ("events",),
        ("peers", "list"),
        ("dataset", "list", "--json"),
    ):
        _, out, err = rexis(*command)
        shown = out + err
        assert "owned" in shown
        assert "[bold]x[/bold]" in shown
        assert not any(ord(char) < 32 and char != "\n" for char in shown)
        assert not set(shown) & {"\x7f", "\x9b", "\u202e"}
    _, out, _ = rexis("dataset", "list", "--json")
    assert json.loads(out)["datasets"][0]["title"] == nasty


def test_ids_may_be_shortened_but_must_be_unique(rexis, daemon):
    other = {**RUN, "run": ID[:8] + "0" * 56}
    daemon.answers["runs.list"] = {"runs": [RUN, other]}
    assert rexis("run", "show", ID[:8])[0] == 1
    assert "2 runs begin with" in rexis("run", "show", ID[:8])[2]
    assert rexis("run", "show", ID[:9])[0] == 0
    assert rexis("run", "show", ID.upper())[0] == 0
    before = len(daemon.asked)
    status, _, err = rexis("run", "show", "")
    assert (status, daemon.asked[before:]) == (1, [])
    assert "the run is left empty" in err


def test_a_long_inference_prints_some_of_its_receipts(rexis, daemon, tmp_path):
    (tmp_path / "new.csv").write_text("a\n1\n")
    row = METHODS["inference.run"].example["result"]
    model = row["model"]
    receipts = [f"{number:064x}"[::-1] for number in range(30)]
    daemon.answers["inference.run"] = {**row, "receipts": receipts}
    _, out, _ = rexis("infer", model, "new.csv", "--host", "KY")
    (line,) = [one for one in out.splitlines() if one.startswith("receipts")]
    assert line.endswith(f"{receipts[9][:16]} and 20 more")
    _, out, _ = rexis("infer", model, "new.csv", "--host", "KY", "--json")
    assert json.loads(out)["receipts"] == receipts


@pytest.mark.parametrize("classes", [False, True])
def test_an_inference_that_stops_midway_shows_what_it_has_and_fails(
    rexis, daemon, tmp_path, classes
):
    (tmp_path / "new.csv").write_text("a\n1\n2\n3\n")
    row = METHODS["inference.run"].example["result"]
    said = {
        "scores": [1.5, None, None],
        "answers": ["I", None, None] if classes else [],
        "stopped": "KY: stream reset",
        "hint": "again",
        "path": "/srv/rexis/scores.csv",
    }
    daemon.answers["inference.run"] = {**row, **said}
    ask = ("infer", row["model"], "new.csv", "--host", "KY")
    status, out, err = rexis(*ask)
    assert status == 1
    shown = "I (1.5000), -, -" if classes else "1.5000, -, -"
    assert f"scores    {shown}\n1 score written to /srv/" in out
    assert err == ("error: 1 of 3 rows answered: KY: stream reset\nhint: again\n")
    status, out, _ = rexis(*ask, "--json")
    assert (status, json.loads(out)["scores"]) == (1, [1.5, None, None])


def test_batches_of_a_host_are_listed_and_one_that_is_not_there_is_no_success(
    rexis, daemon
):
    row = METHODS["receipts.anchored"].example["result"]
    rows = [{**row["batches"][0], "batch": f"{n:064x}"[::-1]} for n in (1, 2)]
    daemon.answers["receipts.anchored"] = {**row, "batches": rows, "older": 3}
    status, out, _ = rexis("receipt", "anchored", "KY")
    assert status == 0
    assert "1000000000000000" in out
    assert out.endswith("and 3 older: BATCH finds them\n")
    daemon.answers["receipts.anchored"] = {**row, "batches": []}
    assert rexis("receipt", "anchored", "KY")[:2] == (0, "no batches\n")
    status, out, err = rexis("receipt", "anchored", "KY", "0xDAF8")
    assert daemon.asked[-1][1] == {"host": "KY", "begins": "daf8"}
    assert (status, out) == (1, "")
    assert "KY has no batch on the chain that begins '0xDAF8'" in err


def test_a_receipt_is_found_among_those_signed_those_got_and_those_audited(
    rexis, daemon
):
    def digest(number):
        return f"{number:064x}"[::-1]

    def rows(number, method, key):
        row = METHODS[method].example["result"][key][0]
        daemon.answers[method] = {key: [{**row, "receipt": digest(number)}]}

    rows(1, "receipts.list", "receipts")
    rows(2, "receipts.certificates", "certificates")
    rows(3, "audits.list", "audits")
    for number in (1, 2, 3):
        status, _, err = rexis("receipt", "export", f"{number}00", "r.bundle")
        assert (status, err) == (0, "")
        assert daemon.asked[-1][0] == "receipts.export"
        assert daemon.asked[-1][1]["receipt"] == digest(number)
    assert rexis("dispute", "open", "300")[0] == 0
    assert daemon.asked[-1] == ("disputes.open", {"receipt": digest(3)})
    status, _, err = rexis("receipt", "export", "4", "r.bundle")
    assert status == 1
    assert (
        "`rexis receipt list`, `rexis receipt certificates`, `rexis audit list`" in err
    )
    assert rexis("receipt", "export", "100", "r.bundle", "--case", "-1")[0] == 3


def test_what_a_command_sends_is_what_was_typed(rexis, daemon, tmp_path):
    rexis("grant", "give", "7", "LAB", "--days", "30", "--units", "0,3-5")
    assert daemon.asked[-1] == (
        "grants.give",
        {"dataset": 7, "grantee": "LAB", "days": 30, "units": [0, 3, 4, 5]},
    )
    rexis("dataset", "fetch", "7", "--to", "rows.csv")
    assert daemon.asked[-1] == (
        "datasets.fetch",
        {"dataset": 7, "path": str(tmp_path / "rows.csv")},
    )
    rexis(
        "infer",
        METHODS["models.show"].example["params"]["model"],
        "a.csv",
        "--host",
        "KY",
    )
    assert daemon.asked[-1][1]["path"] == str(tmp_path / "a.csv")


def test_json_is_the_result_unchanged(rexis, daemon):
    for words, method in [
        (("status",), "status.get"),
        (("peers", "list"), "peers.list"),
        (("dataset", "show", "0"), "datasets.show"),
        (("round", "list", ID), "rounds.list"),
        (("audit", "list"), "audits.list"),
    ]:
        status, out, _ = rexis(*words, "--json")
        assert status == 0
        assert json.loads(out) == METHODS[method].example["result"]


def test_watching_a_run_with_a_budget_tells_what_is_spent_of_it(rexis, tell):
    privacy = METHODS["runs.show"].example["result"]["privacy"]
    reason = "ended by KY, MN"
    tell({**ENDED, "phase": "ended", "reason": reason, "privacy": privacy})
    status, out, _ = rexis("run", "watch", ID)
    assert status == 0
    assert out.splitlines()[-1] == (
        "ended, ε 4.0113 of 8.0000 a record, δ 1e-05, good for 4 rounds:"
        " ended by KY, MN"
    )


SKETCH = {
    "round": 0,
    "lengths": {
        "KY": {"whole": 0.93, "block": 1.1},
        "MN": {"whole": 1.0, "block": 1.2},
        "NY": {"whole": 10.91, "block": 12.42},
    },
    "outliers": ["NY"],
    "false": ["NY"],
    "silent": [],
}


def test_a_rejected_round_says_whose_update_was_unlike_the_others(
    rexis, daemon, tell, monkeypatch
):
    monkeypatch.setitem(ROUND, "sketch", SKETCH)
    tell(TRAINING, {"round": 1}, {**ENDED, "sketch": SKETCH})
    _, out, _ = rexis("run", "watch", ID)
    assert out.count("rejected") == 2  # each of the two rounds has it here
    assert (
        "round 0 rejected: NY said what is shown to be wrong,"
        " NY 12.4 times the typical update\n"
    ) in out
    daemon.answers["runs.show"] = lambda _params: {**RUN, "sketch": SKETCH}
    _, out, _ = rexis("run", "show", ID)
    assert "KY 0.93, MN 1.00, NY 10.91" in out


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"outliers": [], "false": []}, "round 0 rejected: no update stands out"),
        (
            {"lengths": {}, "outliers": [], "false": [], "silent": ["MN"]},
            "round 0 rejected: MN said nothing, lengths unknown",
        ),
    ],
)
def test_a_rejected_round_that_names_nobody_says_so(changed, words):
    assert watch.sketch({**SKETCH, **changed}) == words
    assert watch.sketch(None) == ""
