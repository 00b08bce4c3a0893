"""`python -m node.bench aggregate`: a masked, certified round against plain averaging.

Our members and hivemind's peers run side by side, each a process of its own over libp2p on
the loopback interface, and take turns: one round of ours, one of theirs.  The ratio is the
median over the turns.  A round of ours begins when all updates are on disk and ends when the
last member has the verdict and the new state on disk; one of theirs is `step`.  What masking
costs is measured besides, on one core (`node.bench.masks`).
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from node.bench import masks, timeline
from node.bench.round_peer import length
from node.bench.yardstick import UnavailableError, interpreter

MEMBERS = 4
ENTRIES, QUICK_ENTRIES = 10_000_000, 1_000_000
TURNS, QUICK_TURNS = 7, 2
BYTES_EACH = 2
MASKING = ("round.mask", "round.apply")
_GRACE_S = 5.0
THEIRS = Path(__file__).with_name("hivemind_peer.py")


class Peers:
    """Processes that answer lines of JSON with lines of JSON."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, *command: str) -> None:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._stack.callback(_end, process)
        self._processes.append(process)

    def tell(self, question: object, *, last: bool = False) -> None:
        for process in self._processes[-1:] if last else self._processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()

    def answers(self, *, last: bool = False) -> list[Any]:
        found = []
        for process in self._processes[-1:] if last else self._processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{' '.join(process.args)} ended")  # type: ignore[arg-type]  # text, as given
            found.append(json.loads(line))
        return found


def _end(process: subprocess.Popen[str]) -> None:
    # With all it started: hivemind's peers leave helpers and a Go daemon behind.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run(quick: bool, story: Path | None = None) -> dict[str, Any]:
    """Every figure there is; `story` is where the timeline goes."""
    entries = length(QUICK_ENTRIES if quick else ENTRIES)
    four, ten = masks.measure(entries), masks.measure(entries, 10)
    return {
        **_rounds(entries, QUICK_TURNS if quick else TURNS, story),
        "mask_gbps": four["mask_gbps"],
        "aes_gbps": four["aes_gbps"],
        "mask_vs_aes": four["mask_vs_aes"],
        "mask_vs_aes_10_members": ten["mask_vs_aes"],
        "mask_memory_vectors": 1 + four["grown_vectors"],
        "members": MEMBERS,
        "entries": entries,
    }


def _rounds(entries: int, turns: int, story: Path | None) -> dict[str, Any]:
    with TemporaryDirectory() as folder, ExitStack() as stack:
        ours = _start_ours(stack, Path(folder), entries)
        theirs, why = _start_theirs(stack, entries)
        pairs = []
        for _ in range(1 + turns):  # the first opens windows and finds groups
            answers = ours.answers()
            assert all(answer["ready"] for answer in answers)
            ours.tell("go")
            pairs.append((ours.answers(), _step(theirs)))
        if story is not None:
            folders = [Path(folder, str(number)) for number in range(MEMBERS)]
            began = [min(a["began"] for a in answers) for answers, _ in pairs]
            timeline.gather(folders, began, story)
        return {**_figures(pairs[1:], entries, Path(folder)), "yardstick": why}


def _start_ours(stack: ExitStack, folder: Path, entries: int) -> Peers:
    peers = Peers(stack)
    program = (sys.executable, "-m", "node.bench.round_peer")
    for number in range(MEMBERS):
        home = folder / str(number)
        home.mkdir()
        peers.start(*program, str(number), str(home), str(entries))
    peers.tell(peers.answers())
    return peers


def _start_theirs(stack: ExitStack, entries: int) -> tuple[Peers | None, str]:
    try:
        python = interpreter()
    except UnavailableError as error:
        return None, str(error)
    peers, first = Peers(stack), None
    for _ in range(MEMBERS):
        peers.start(str(python), str(THEIRS), str(entries))
        peers.tell(first or [], last=True)
        (address,) = peers.answers(last=True)
        first = first or address
    peers.tell(MEMBERS)
    peers.answers()
    return peers, "hivemind 1.1.12, float16"


def _step(theirs: Peers | None) -> float | None:
    if theirs is None:
        return None
    theirs.tell("go")
    answers = theirs.answers()
    if any(answer["group"] != MEMBERS for answer in answers):
        return None  # not the same work
    return max(float(answer["seconds"]) for answer in answers)


def _figures(
    pairs: Sequence[tuple[list[Any], float | None]], entries: int, folder: Path
) -> dict[str, Any]:
    for answers, _ in pairs:
        states = {answer["state"] for answer in answers}
        if len(states) != 1 or not all(answer["accepted"] for answer in answers):
            raise RuntimeError("a measured round was not accepted by all")
    rounds = 1 + len(pairs)
    # A sum that a slow upload missed is less work, as a group of fewer is for theirs.
    pairs = [each for each in pairs if all(map(_is_whole, each[0]))]
    if not pairs:
        raise RuntimeError(f"no measured round had all {MEMBERS} updates in its sum")
    times = [max(answer["seconds"] for answer in answers) for answers, _ in pairs]
    both = [(mine, other) for mine, (_, other) in zip(times, pairs, strict=True)]
    ratios = [mine / other for mine, other in both if other is not None]
    theirs = [other for _, other in both if other is not None]
    seconds = statistics.median(times)
    sent = [answer["sent"] for answers, _ in pairs for answer in answers]
    least = 2 * (MEMBERS - 1) / MEMBERS * BYTES_EACH * entries
    clocks = _clocks(folder / "0" / "clocks", rounds)
    worked = [answer["processor"] for answers, _ in pairs for answer in answers]
    grown = max(answer["grown_mb"] for answers, _ in pairs for answer in answers)
    return {
        "round_seconds": round(seconds, 3),
        "hivemind_seconds": round(statistics.median(theirs), 3) if theirs else None,
        "vs_hivemind": round(statistics.median(ratios), 2) if ratios else None,
        "rounds": len(times),
        "turns": len(ratios),
        "bytes_ratio": round(statistics.mean(sent) / least, 3),
        "mask_share": round(clocks["masks"] / seconds, 3),
        "peak_mb": round(max(grown, clocks["grown_mb"]), 1),
        "vector_mb": round(4 * entries / 1e6, 1),
        "daemon_processor_seconds": round(statistics.mean(worked), 3),
        "child_processor_seconds": clocks["methods"],
    }


def _is_whole(answer: Mapping[str, Any]) -> bool:
    return bool(answer["survivors"] == MEMBERS)


def _clocks(path: Path, rounds: int) -> Mapping[str, Any]:
    """Of the first member's child: per round, and the most it has grown in a call.

    Of warm calls, and as often as the method was called: its first call loads libraries,
    which is no round's work.
    """
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    calls = defaultdict(list)
    for line in lines:
        if line["method"].startswith("round.") and line["method"] != "round.scales":
            calls[line["method"]].append(line)
    methods, masking, grown = {}, 0.0, 0.0
    for name, all_calls in sorted(calls.items()):
        warm = [line for line in all_calls if line["warm"]]
        if not warm:
            continue
        often = len(all_calls) / rounds
        methods[name] = round(often * _mean(warm, "processor"), 3)
        masking += often * _mean(warm, "masks") if name in MASKING else 0.0
        grown = max(grown, *(line["grown_mb"] for line in warm))
    return {"masks": masking, "grown_mb": grown, "methods": methods}


def _mean(lines: Sequence[Mapping[str, Any]], name: str) -> float:
    return statistics.mean(float(line[name]) for line in lines)


def main(argv: Sequence[str]) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="rexis bench aggregate", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line instead of many")
    parser.add_argument("--quick", action="store_true", help="small and less exact")
    parser.add_argument("--timeline", type=Path, help="write what happened when here")
    options = parser.parse_args(argv)
    if options.timeline is not None:
        os.environ[timeline.TIMELINE] = "1"
    found = run(options.quick, options.timeline)
    print(json.dumps(found, indent=None if options.json else 2))
