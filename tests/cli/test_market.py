"""What the commands of the market say to a person."""

import json

from node.rpc.methods import METHODS


def test_a_grant_that_was_taken_back_is_told_as_such(daemon, rexis):
    example = METHODS["provenance.show"].example["result"]
    for revoked in (0, 1):
        things = [
            {**one, "facts": {**one["facts"], "revoked": revoked}}
            if one["kind"] == "grant"
            else one
            for one in example["things"]
        ]
        daemon.answers["provenance.show"] = {**example, "things": things}
        _, out, _ = rexis("provenance", "show", "dataset:1")
        assert ("grant 1 (revoked) wasDerivedFrom" in out) == bool(revoked)


def test_an_export_of_records_says_that_it_is_whole(daemon, rexis, tmp_path):
    for suffix, whole in (("svg", False), ("lineage", True), ("records", True)):
        _, out, _ = rexis(
            "provenance", "export", "dataset:1", "--to", tmp_path / f"f.{suffix}"
        )
        assert ("about      all that this node knows" in out) == whole


def calls(daemon, method):
    return [given for name, given in daemon.asked if name == method]


def with_groups(daemon):
    example = METHODS["datasets.show"].example["result"]
    groups = [
        {"name": name, "dataset": number, "columns": [name]}
        for name, number in (("vitals", 3), ("labs", 4))
    ]
    daemon.answers["datasets.show"] = {**example, "groups": groups}


def test_one_command_gives_and_asks_for_several_groups(daemon, rexis):
    with_groups(daemon)
    _, out, _ = rexis("dataset", "show", "1")
    assert "group    vitals, dataset 3: vitals" in out
    both = ("--group", "labs", "--group", "vitals", "--days", "5")
    purpose = ("--purpose", "DUO:0000042")
    for words, method, noun in (
        (("give", "3", "LAB"), "grants.give", "grants"),
        (("request", "3", *purpose), "requests.make", "requests"),
    ):
        daemon.asked.clear()
        code, out, _ = rexis("grant", *words, *both, "--json")
        assert code == 0
        asked = [one["dataset"] for one in calls(daemon, method)]
        assert asked == [4, 3]
        assert len(json.loads(out)[noun]) == 2
    code, _, err = rexis("grant", "give", "3", "LAB", "--days", "5", "--group", "genes")
    assert code == 3
    assert "no group 'genes'" in err
    assert "its groups are vitals, labs" in err


def test_one_command_publishes_a_table_in_groups(daemon, rexis):
    said = ("t.csv", "--title", "T", "--licence", "CC0-1.0", "--duo", "DUO:0000042")
    for verb in ("preview", "publish"):
        words = ("dataset", verb, *said, "--source", "S")
        code, out, _ = rexis(*words, "--group", "a=x,y", "--group", "b=z", "--json")
        assert code == 0
        asked = calls(daemon, f"datasets.{verb}")
        assert [(one["group"], one["columns"]) for one in asked] == [
            ("a", ["x", "y"]),
            ("b", ["z"]),
        ]
        assert len(json.loads(out)["datasets"]) == 2
    said = words
    for more, why in (
        (("--group", "a"), "no group of columns"),
        (("--group", "a=x", "--group", "a=y"), "named twice"),
        (("--group", "a=x", "--column", "y"), "--group and --column"),
        (("--group", "a=x", "--group", "b=y", "--replaces", "1"), "with 2 groups"),
    ):
        code, _, err = rexis(*said, *more)
        assert (code, why in err) == (3, True)
