"""Contracts with one rule taken out are caught: the state machine can fail.

`mutants/mutants.json` names the edits, `mutants/bytecode.json` holds what they compile to (`npm run
mutants` in contracts/).
"""

import base64
import hashlib
import json
import zlib
from pathlib import Path

import judge_checks
import pytest
from contract_machine import Contracts
from test_state_machine import run

from node.bench.abi import Abi, compiled
from node.bench.disputes import DisputeWorld

FOLDER = Path(__file__).parent / "mutants"
SOURCES = Path(__file__).parents[2] / "contracts" / "src"
MUTANTS = json.loads((FOLDER / "mutants.json").read_text())
DISPUTED = [
    m
    for m in MUTANTS
    if m["contract"] in {"Judge", "Disputes"} or m.get("tests") == "disputes"
]
TRADED = [m for m in MUTANTS if m not in DISPUTED]

EXAMPLES, STEPS = 60, 60


def codes() -> dict[str, bytes]:
    held = json.loads((FOLDER / "bytecode.json").read_text())
    stream = zlib.decompress(base64.b64decode(held["deflated"]), wbits=-15)
    found, at = {}, 0
    for mutant, length in zip(MUTANTS, held["lengths"], strict=True):
        found[mutant["name"]] = stream[at : at + length]
        at += length
    assert at == len(stream)
    return found


def with_code(contract: str, bytecode: bytes) -> type[Contracts]:
    """The machine over a federation where one contract is another."""
    items = compiled(contract).items
    other = Abi({"abi": items, "bytecode": "0x" + bytecode.hex()})
    return type("Mutated", (Contracts,), {"replace": {contract: other}})


def test_the_mutants_are_made_from_these_sources():
    texts = [path.read_text() for path in sorted(SOURCES.glob("*.sol"))]
    listed = (FOLDER / "mutants.json").read_text()
    made_from = hashlib.sha256("".join([listed, *texts]).encode()).hexdigest()
    held = json.loads((FOLDER / "bytecode.json").read_text())
    assert held["made_from"] == made_from, "run `npm run mutants` in contracts/"
    assert len(set(codes().values())) == len(MUTANTS)


def named(mutants, *, broken, each=1):
    """Those with a rule taken out, or those without; all but one of `each` are long."""
    chosen = [m for m in mutants if bool(m["old"]) == broken]
    marked = [
        pytest.param(m, id=m["name"], marks=[pytest.mark.long] if at % each else [])
        for at, m in enumerate(chosen)
    ]
    return pytest.mark.parametrize("mutant", marked)


@pytest.mark.slow
@named(TRADED, broken=False)
def test_an_unchanged_contract_is_not_caught(mutant):
    machine = with_code(mutant["contract"], codes()[mutant["name"]])
    run(machine, examples=10, steps=STEPS, shrink=False)


@pytest.mark.slow
@named(TRADED, broken=True, each=6)
def test_a_broken_rule_is_caught(mutant):
    machine = with_code(mutant["contract"], codes()[mutant["name"]])
    # What is drawn depends on the order of sets too; a few rules need a longer look.
    for examples in (EXAMPLES, 8 * EXAMPLES):
        try:
            run(machine, examples=examples, steps=STEPS, shrink=False)
        except KeyboardInterrupt:
            raise
        except BaseException:  # a failure of pytest is no Exception
            return
    pytest.fail("nothing noticed")


def dispute_tests(monkeypatch, mutant) -> str | None:
    """The first test of disputes that a mutant fails; they are tried in their order."""
    code = "0x" + codes()[mutant["name"]].hex()
    items = compiled(mutant["contract"]).items
    other = Abi({"abi": items, "bytecode": code})
    monkeypatch.setattr(DisputeWorld, "replace", {mutant["contract"]: other})
    for name, check in judge_checks.QUICK.items():
        try:
            check(monkeypatch)
        except (Exception, pytest.fail.Exception):
            return name
    return None


@pytest.mark.slow
@pytest.mark.long
@named(DISPUTED, broken=False)
def test_an_unchanged_judge_is_not_caught(mutant, monkeypatch):
    assert dispute_tests(monkeypatch, mutant) is None


@pytest.mark.slow
@named(DISPUTED, broken=True, each=4)
def test_a_broken_judgement_is_caught(mutant, monkeypatch):
    assert dispute_tests(monkeypatch, mutant) is not None
