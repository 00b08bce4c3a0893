"""Many federations, several processes, one line per failure with the command that repeats it."""

import gc
import multiprocessing
import resource
import time
import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from federation_sim.scenario import draw

CHUNK = 20


@dataclass
class Report:
    """What a campaign found."""

    runs: int = 0
    events: int = 0
    crashes: int = 0
    faults: Counter[tuple[str, int]] = field(default_factory=Counter)
    """By fault and number of members."""
    sizes: Counter[int] = field(default_factory=Counter)
    rejected: int = 0
    sketched: int = 0
    given_up: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, other: "Report") -> None:
        self.runs += other.runs
        self.events += other.events
        self.crashes += other.crashes
        self.rejected += other.rejected
        self.sketched += other.sketched
        self.given_up += other.given_up
        self.faults += other.faults
        self.sizes += other.sizes
        self.failures += other.failures


def one(seed: int) -> Report:
    """Run one seed; a broken law becomes a line in the report."""
    scenario = draw(seed)
    world = scenario.world
    report = Report(runs=1)
    try:
        scenario.run()
    except Exception as error:
        what = ", ".join(scenario.what) or "no fault"
        report.failures.append(
            f"SEED={seed} members={len(world.nodes)} [{what}] at {world.now} ms:"
            f" {type(error).__name__}: {error}\n"
            f"  repeat with: python tests/sim --seed {seed}"
        )
    report.events += world.events
    report.crashes += world.counts["crashes"]
    report.rejected += scenario.laws.rejected
    report.sketched += scenario.laws.sketched
    report.given_up += scenario.laws.given_up
    report.sizes[len(world.nodes)] += 1
    for fault in scenario.what or ("no fault",):
        report.faults[kind(fault), len(world.nodes)] += 1
    return report


BANDS = ((3, 3), (4, 4), (5, 7), (8, 16), (17, 32))


def coverage(report: Report) -> list[str]:
    """Which fault met how many federations of which size: a table, so that none is empty unseen."""
    heads = [f"{low}" if low == high else f"{low}-{high}" for low, high in BANDS]
    lines = ["".join(f"{head:>7}" for head in [*heads, "all"]) + "  members"]
    for name in sorted({name for name, _ in report.faults}):
        counts = [
            sum(k for (n, m), k in report.faults.items() if n == name and a <= m <= b)
            for a, b in BANDS
        ]
        lines.append("".join(f"{c:7d}" for c in [*counts, sum(counts)]) + f"  {name}")
    return lines


def kind(fault: str) -> str:
    """A fault without its numbers."""
    words = (w for w in fault.split() if not w.replace(".", "").isdecimal())
    return " ".join(words)


def several(seeds: list[int]) -> Report:
    """One process's share; what a world leaves in circles is swept once at the end of it."""
    total = Report()
    gc.freeze()  # what was imported stays: no need to look through it at each sweep
    gc.disable()
    for seed in seeds:
        total.add(one(seed))
    gc.enable()
    gc.collect()
    gc.unfreeze()
    return total


def many(seeds: Iterable[int], processes: int) -> tuple[Report, float, float]:
    """All seeds over several processes; the seconds it took, and seconds of processor.

    On a machine that does other things as well, only the second figure means something.
    """
    began = time.perf_counter()
    wanted = list(seeds)
    chunks = [wanted[i : i + CHUNK] for i in range(0, len(wanted), CHUNK)]
    total = Report()
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for part in pool.imap_unordered(several, chunks):
            total.add(part)
            for failure in part.failures:
                print(failure, flush=True)
        pool.close()
        pool.join()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return total, time.perf_counter() - began, used.ru_utime + used.ru_stime


def explain(seed: int) -> int:
    """Repeat one seed and show where it broke."""
    scenario = draw(seed)
    print(f"SEED={seed} members={len(scenario.world.nodes)} {list(scenario.what)}")
    try:
        scenario.run()
    except Exception:
        traceback.print_exc()
        return 1
    counts = dict(scenario.world.counts)
    world = scenario.world
    print(f"holds; {world.now} ms of its own time, {world.events} events, {counts}")
    return 0
