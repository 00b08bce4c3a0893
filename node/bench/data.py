"""What the data level costs: `python -m node.bench.data --json`.

The part that is here is the chain's: gas of each operation, from receipts of the development
chain.
"""

import argparse
import json
import sys
from typing import Any

from node.bench import gas


def run(quick: bool) -> dict[str, Any]:  # noqa: ARG001 - gas is the same, quick or not
    """`gas`: operation to gas."""
    return {"gas": gas.measure()}


def main() -> int:
    """Print a table, or with `--json` the numbers."""
    parser = argparse.ArgumentParser(prog="node.bench.data", description=__doc__)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = run(quick=False)
    if options.json:
        print(json.dumps(found, indent=1))
        return 0
    for name, value in found["gas"].items():
        print(f"{name:28}{value:>12,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
