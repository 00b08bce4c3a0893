"""`python -m node.bench aggregate`: what masking costs, as ratios within one run."""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from node.bench import masks

QUICK_ENTRIES = 2_000_000


def run(quick: bool) -> dict[str, Any]:
    """Masks at the benchmark's four members, and at ten."""
    entries = QUICK_ENTRIES if quick else masks.ENTRIES
    four, ten = masks.measure(entries), masks.measure(entries, 10)
    return {
        "mask_gbps": four["mask_gbps"],
        "aes_gbps": four["aes_gbps"],
        "mask_vs_aes": four["mask_vs_aes"],
        "mask_vs_aes_10_members": ten["mask_vs_aes"],
        "mask_memory_vectors": 1 + four["grown_vectors"],
    }


def main(argv: Sequence[str]) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="node.bench aggregate", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line instead of many")
    parser.add_argument("--quick", action="store_true", help="small and less exact")
    options = parser.parse_args(argv)
    print(json.dumps(run(options.quick), indent=None if options.json else 2))
