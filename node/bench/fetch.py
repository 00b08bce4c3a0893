"""A verified, resumable fetch to disk against our own bare stream.

`python -m node.bench fetch --json`.  The streams and the fetches take turns, each between
fresh processes: the stream as it is, then with its file synced at the end, as a fetch's is; one
holder, then two that give together.  On two cores the second holder
takes the time it needs from the first; it is there for links, not for processors.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from typing import Any

from node.bench.transport import pair


def run(quick: bool) -> dict[str, Any]:
    """Ratios of rates, and what a fetch adds to the memory of its process."""
    size = (32 if quick else 256) << 20
    turns = [_turn(size) for _ in range(1 if quick else 5)]
    medians = {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
    return {key: round(value, 2) for key, value in medians.items()} | {
        "megabytes": size / 1e6,
        "turns": len(turns),
    }


def against_stream(size: int, turns: int) -> dict[str, float]:
    """Median ratios of a fetch from one holder to our stream: bare, and synced at the end."""
    found = [_against_stream(size) for _ in range(turns)]
    return {
        name: round(statistics.median(one[name] for one in found), 2)
        for name in found[0]
    }


def _against_stream(size: int) -> dict[str, float]:
    bare, synced = (pair(kind, size)["mb_per_s"] for kind in ("ours", "synced"))
    fetched = pair("node", size)["mb_per_s"]
    return {
        "fetch_vs_raw_stream": fetched / bare,
        "fetch_vs_synced_stream": fetched / synced,
    }


def _turn(size: int) -> dict[str, float]:
    stream, synced = (pair(kind, size)["mb_per_s"] for kind in ("ours", "synced"))
    one = pair("node", size)
    two = pair("node", size, holders=2)
    return {
        "fetch_vs_raw_stream": one["mb_per_s"] / stream,
        "fetch_vs_synced_stream": one["mb_per_s"] / synced,
        "two_holders_vs_raw_stream": two["mb_per_s"] / stream,
        "peak_mb": max(one["peak_mb"], two["peak_mb"]),
        "stream_mb_per_s": stream,
        "fetch_mb_per_s": one["mb_per_s"],
    }


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="rexis bench fetch", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="one small turn")
    options = parser.parse_args(argv)
    result = run(options.quick)
    if options.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key:26} {value}")
