"""`python -m node.bench [NAME] [--quick] [--json]`: one measurement, or all there are."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

NAMES = (
    *("start", "transport", "fetch", "data", "ee", "aggregate"),
    *("verify", "accuracy", "peer", "convergence"),
)
"""In the order in which they run; one that is not installed is left out."""


def available() -> list[str]:
    return [name for name in NAMES if find_spec(f"node.bench.{name}") is not None]


def main(argv: Sequence[str]) -> int:
    """Exit status 0, or 2 for a name that is none."""
    # Before a library reads it: threads that wait for a core in turns measure each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if argv and not argv[0].startswith("-"):
        name, *rest = argv
        if name not in available():
            sys.stderr.write(f"error: no measurement {name!r}\n")
            sys.stderr.write(f"hint: there are {', '.join(available())}\n")
            return 2
        return import_module(f"node.bench.{name}").main(rest) or 0
    parser = argparse.ArgumentParser(prog="node.bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line instead of many")
    parser.add_argument("--quick", action="store_true", help="small and less exact")
    options = parser.parse_args(argv)
    results = {}
    for name in available():
        sys.stderr.write(f"{name} ...\n")
        results[name] = import_module(f"node.bench.{name}").run(options.quick)
    print(json.dumps(results, indent=None if options.json else 2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
