"""Slither and halmos over the contracts: `python3 contracts/tools/analyse.py`.

Everything it needs is put beside this file (an environment for the analysers, forge from npm), and
nothing else is touched.  It fails if slither finds something of medium impact or more that is not in
`MEANT`, if something there is not found any more, if halmos finds a counterexample, or if halmos
finds none in a contract from which the rule was taken out.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).resolve().parent
CONTRACTS = TOOLS.parent
MUTANTS = CONTRACTS.parent / "tests" / "contracts" / "mutants" / "mutants.json"
ENVIRONMENT = TOOLS / ".venv"

# What slither says of these is right, and the code is too: detector, contract and function.
MEANT = {
    ("divide-before-multiply", "Arithmetic", "_spread"): (
        "a mean is a whole number, and every node rounds it before it goes on"
    ),
    ("divide-before-multiply", "Judge", "_mixed"): (
        "heads share keys in groups: the quotient is the number of the group"
    ),
}

# Each must be refuted by one of the properties of test/Access.t.sol.
REFUTED = {
    "a revoked grant still reads": "check_revokedIsOver",
    "an expired grant still reads": "check_accessIsWithinTheGrant",
    "any purpose reads": "check_accessIsWithinTheGrant",
    "narrower terms do not cut": "check_termsCut",
    "a former member still reads": "check_membershipCuts",
    "a renewed membership revives grants": "check_membershipCuts",
    "anybody gives": "check_onlyTheCommitteeGives",
    "anybody is the market": "check_onlyTheMarketPassesOn",
    "a grant lasts for ever": "check_accessIsWithinTheGrant",
}


def main() -> int:
    install()
    failed = [
        *([] if slither() else ["slither"]),
        *([] if halmos(CONTRACTS) == set() else ["halmos"]),
        *(name for name, check in REFUTED.items() if not refuted(name, check)),
    ]
    for name in failed:
        say(f"failed: {name}")
    return 1 if failed else 0


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def install() -> None:
    for folder in (CONTRACTS, TOOLS):
        if not (folder / "node_modules").is_dir():
            subprocess.run(["npm", "ci"], cwd=folder, check=True)
    if not ENVIRONMENT.is_dir():
        venv.create(ENVIRONMENT, with_pip=True)
        pip = str(ENVIRONMENT / "bin" / "pip")
        wanted = str(TOOLS / "requirements.txt")
        subprocess.run([pip, "install", "--quiet", "-r", wanted], check=True)


def environment() -> dict[str, str]:
    forge = next((TOOLS / "node_modules" / "@foundry-rs").glob("forge-*-*/bin"))
    path = os.pathsep.join([str(ENVIRONMENT / "bin"), str(forge), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "FOUNDRY_DISABLE_NIGHTLY_WARNING": "1"}


def slither() -> bool:
    """Whether it finds what is meant, and nothing else of medium impact or more."""
    out = CONTRACTS / "build" / "slither.json"
    out.parent.mkdir(exist_ok=True)
    out.unlink(missing_ok=True)
    command = ["slither", ".", "--foundry-compile-all", "--json", str(out)]
    filters = ["--filter-paths", "node_modules|test/"]
    subprocess.run([*command, *filters], cwd=CONTRACTS, env=environment(), check=False)
    report = json.loads(out.read_text())
    if not report["success"]:
        say(f"slither: {report['error']}")
        return False
    found = report["results"].get("detectors", [])
    grave = {where(one) for one in found if one["impact"] in {"High", "Medium"}}
    for place in sorted(grave | MEANT.keys()):
        known = MEANT.get(place, "NOT KNOWN")
        said = known if place in grave else f"not found any more: {known}"
        say(f"slither: {' '.join(place)}: {said}")
    say(f"slither: {len(found)} findings, {len(grave)} of medium impact or more")
    return grave == MEANT.keys()


def where(finding: dict[str, Any]) -> tuple[str, str, str]:
    """Detector, contract and function of a finding."""
    names = {"function": "", "contract": ""}
    for element in finding["elements"]:
        kind = element["type"]
        if kind in names and not names[kind]:
            names[kind] = element["name"]
        parent = element.get("type_specific_fields", {}).get("parent", {})
        if parent.get("type") in names and not names[parent["type"]]:
            names[parent["type"]] = parent["name"]
    return finding["check"], names["contract"], names["function"]


def halmos(contracts: Path) -> set[str]:
    """The properties that are refuted."""
    out = contracts / "build" / "halmos.json"
    out.parent.mkdir(exist_ok=True)
    command = ["halmos", "--forge-build-out", "build/out", "--json-output", str(out)]
    subprocess.run(
        command, cwd=contracts, env=environment(), capture_output=True, check=False
    )
    results = json.loads(out.read_text())["test_results"]
    tests = [one for tests in results.values() for one in tests]
    assert len(tests) >= 6, "halmos did not run the properties"
    for one in tests:
        say(f"halmos: {one['name']}: {'holds' if one['exitcode'] == 0 else 'refuted'}")
    return {one["name"].split("(")[0] for one in tests if one["exitcode"] != 0}


def refuted(name: str, check: str) -> bool:
    """Whether halmos finds the rule missing from a copy without it."""
    mutant = next(m for m in json.loads(MUTANTS.read_text()) if m["name"] == name)
    say(f"without the rule: {name}")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "contracts"
        shutil.copytree(
            CONTRACTS,
            copy,
            ignore=shutil.ignore_patterns("node_modules", "build", ".venv"),
        )
        (copy / "node_modules").symlink_to(CONTRACTS / "node_modules")
        # The compiler is what takes the time, and the properties are about a quarter of it.
        needed = reached(copy / "src", copy / "test")
        for path in (copy / "src").glob("*.sol"):
            if path.name not in needed:
                path.unlink()
        path = copy / "src" / mutant["file"]
        path.write_text(path.read_text().replace(mutant["old"], mutant["new"]))
        return check in halmos(copy)


def reached(*folders: Path) -> set[str]:
    """Names of the sources that those of the last folder import, and what they import."""
    files = {
        path.name: path.read_text() for one in folders for path in one.glob("*.sol")
    }
    found: set[str] = set()
    waiting = [path.name for path in folders[-1].glob("*.sol")]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += re.findall(r'from "\.{1,2}/(?:src/)?(\w+\.sol)"', files[name])
    return found


if __name__ == "__main__":
    sys.exit(main())
