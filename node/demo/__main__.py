"""`python -m node.demo --home FOLDER`: four clinics run the whole mission on this machine.

Exit status 0 only if every claim of the table was checked true in this run.
"""

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from node.demo import mission, report
from node.demo.programs import DemoError, Programs
from node.demo.stage import Stage
from node.errors import NodeError

MARK = "demo"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="rexis demo", description=__doc__)
    parser.add_argument("--home", type=Path, default=Path("demo-run"), metavar="FOLDER")
    parser.add_argument(
        "--keep-running",
        action="store_true",
        help="leave all programs running at the end, until Ctrl-C",
    )
    parser.add_argument(
        "--json", action="store_true", help="print report.json at the end"
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _as_interrupt)
    stage = Stage(quiet=options.json)
    try:
        folder = _fresh(options.home)
        with Programs(folder / "logs") as programs:
            found = mission.run(folder, programs, stage)
            report.write(folder, found)
            _show(found, folder, as_json=options.json)
            if options.keep_running:
                _wait(programs)
    except NodeError as error:
        sys.stderr.write(f"error: {error}\n")
        if error.hint():
            sys.stderr.write(f"hint: {error.hint()}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("error: the demo was stopped before its end\n")
        return 130
    return 0 if all(check["holds"] for check in found["checks"]) else 1


def _show(found: report.Report, folder: Path, *, as_json: bool) -> None:
    if as_json:
        print((folder / "report.json").read_text(), end="")
        return
    report.print_table(found)
    print(f"pictures: {folder / 'report.html'}    numbers: {folder / 'report.json'}")


def _fresh(folder: Path) -> Path:
    """An empty folder; one that an earlier demo made is emptied, any other is not."""
    folder = folder.absolute()
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).is_file():
            raise DemoError(
                f"{folder} is not empty, and no demo made it",
                hint="name another folder with --home",
            )
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / MARK).write_text("made by the Rexis demo, which may delete it again\n")
    return folder


def _wait(programs: Programs) -> None:
    print(
        "still running: "
        + ", ".join(f"{n} {pid}" for n, pid in programs.pids().items())
    )
    print("Ctrl-C ends them all")
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        print("ending")


def _as_interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
