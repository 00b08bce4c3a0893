"""`python -m node.bench.round_child`: the compute child with a clock on every call.

The methods are the program's own.  What each call took, how much of it went into masks, and
the most memory the process has had are appended to the file that the environment names.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from node.bench.memory import Growth
from node.compute import __main__ as child
from node.compute.methods import find
from protocol.aggregate import masks

CLOCKS = "REXIS_BENCH_CLOCKS"
"""Where the lines go; set by `node.bench.round_peer`."""


class Clocks:
    """Seconds of every call, and of masks within it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._masks = 0.0
        self._apply = masks.Masks.apply
        self._known: set[str] = set()

    def apply(self, stream: masks.Masks, words: masks.Words) -> None:
        began = time.perf_counter()
        self._apply(stream, words)
        self._masks += time.perf_counter() - began

    def find(self, name: str) -> Callable[..., dict[str, Any]] | None:
        method = find(name)
        if method is None:
            return None

        def timed(params: Mapping[str, Any], progress: Any) -> dict[str, Any]:
            warm = name in self._known
            self._known.add(name)
            growth, self._masks = Growth(), 0.0
            began, worked = time.perf_counter(), time.process_time()
            try:
                return method(params, progress)
            finally:
                self._note(
                    {
                        "method": name,
                        "at": began,
                        "seconds": time.perf_counter() - began,
                        "processor": time.process_time() - worked,
                        "masks": self._masks,
                        "grown_mb": growth.megabytes(),
                        "warm": warm,
                    }
                )

        return timed

    def _note(self, line: Mapping[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def main() -> int:
    clocks = Clocks(Path(os.environ[CLOCKS]))

    def timed(stream: masks.Masks, words: masks.Words) -> None:
        clocks.apply(stream, words)

    masks.Masks.apply = timed  # type: ignore[assignment,method-assign]  # this process measures
    # Where the child's loop looks its methods up.
    vars(child)["find"] = clocks.find
    return child.main()


if __name__ == "__main__":
    sys.exit(main())
