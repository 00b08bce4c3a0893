"""How long the command line takes to start: `python -m node.bench start --json`.

Beside it an interpreter that does nothing, turn by turn; what is wanted is 0.3 s on a quiet
machine.  That nothing heavy is imported is a test of its own (`tests/cli/test_start.py`).
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

TURNS = 15
QUICK_TURNS = 3


def run(quick: bool) -> dict[str, Any]:
    """Medians in seconds, and their ratio."""
    turns = range(QUICK_TURNS if quick else TURNS)
    pairs = [
        (_seconds("-m", "node.cli.main", "--help"), _seconds("-c", "")) for _ in turns
    ]
    ours, bare = (statistics.median(times) for times in zip(*pairs, strict=True))
    return {
        "help_s": round(ours, 3),
        "bare_python_s": round(bare, 3),
        "help_vs_bare": round(statistics.median(a / b for a, b in pairs), 2),
        "turns": len(turns),
    }


def _seconds(*arguments: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main(argv: Sequence[str]) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="rexis bench start", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line instead of many")
    parser.add_argument("--quick", action="store_true", help="small and less exact")
    options = parser.parse_args(argv)
    print(json.dumps(run(options.quick), indent=None if options.json else 2))
