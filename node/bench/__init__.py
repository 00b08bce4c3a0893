"""Measurements a user can repeat, as ratios within one run.

`python -m node.bench NAME --json` runs one, `python -m node.bench` all of them.  Each
measurement is a module here with `run(quick) -> dict` of plain numbers and `main(argv)`;
docs/benchmarks.md says what they mean and what we saw.
"""
