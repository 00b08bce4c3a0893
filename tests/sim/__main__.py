"""`python tests/sim`: a campaign of simulated federations, mutants, one seed again, or growth."""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from federation_sim import campaign, growth, mutants


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000, help="how many (10000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (0)")
    parser.add_argument(
        "--seed", type=int, help="repeat this one and show where it broke"
    )
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument(
        "--mutants", action="store_true", help="each mutant must be caught"
    )
    parser.add_argument(
        "--growth", action="store_true", help="bytes and seconds by members and entries"
    )
    parser.add_argument("--json", action="store_true", help="the growth table as JSON")
    options = parser.parse_args()
    if options.seed is not None:
        return campaign.explain(options.seed)
    if options.mutants:
        return mutants.main()
    if options.growth:
        return growth.main(as_json=options.json)
    seeds = range(options.first, options.first + options.seeds)
    report, seconds, used = campaign.many(seeds, options.processes)
    print(
        f"{report.runs} federations, {report.events} events, {report.crashes} crashes,"
        f" {report.rejected} rejections, {report.sketched} of them sketched,"
        f" {report.given_up} attempts given up,"
        f" {seconds:.0f} s on {options.processes} processes, {used:.0f} s of processor"
    )
    print("members: " + ", ".join(f"{n}: {k}" for n, k in sorted(report.sizes.items())))
    print("\n".join(campaign.coverage(report)))
    print(f"{len(report.failures)} broke a law")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
