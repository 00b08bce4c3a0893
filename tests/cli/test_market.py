"""What the commands of the market say to a person."""

from node.rpc.schema import METHODS


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
