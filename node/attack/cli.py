"""`rexis attack`: run the suite against our own keyed models and print what falls."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import click

EPILOG = """
Each row is one attack on one model. base: public (the attacker has it), perturbed (it has
the unperturbed one), private (it has another model of the same kind). mode: E k=0 and E k=1
are keyed bodies behind a stem of so many blocks, S is one host of two, sum what an aggregator
has. value: tokens recovered (balanced over words), or what --json names in "measure". control:
the same attack where nothing is keyed. A row that says nothing is one whose control fails too:
nothing follows from it for the key ("conclusive" in --json).
"""


@click.command(name="attack", epilog=EPILOG)
@click.option(
    "--seed", default=0, show_default=True, help="Of everything that is drawn."
)
@click.option("--quick", is_flag=True, help="A fraction of the texts; coarser figures.")
@click.option("--model", type=click.Choice(["minilm", "causal"]), help="Only this one.")
@click.option("--only", type=click.IntRange(1, 10), multiple=True, metavar="N",
              help="Only the attack of this number; may be given again.")  # fmt: skip
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
              help="Finished attacks are written there; the same command goes on from them.")  # fmt: skip
@click.option("--json", "as_json_", is_flag=True, help="Rows as one JSON array.")
@click.option("--markdown", is_flag=True, help="The table as docs/attacks.md has it.")
def attack(
    *,
    seed: int,
    quick: bool,
    model: str | None,
    only: tuple[int, ...],
    keep: Path | None,
    as_json_: bool,
    markdown: bool,
) -> None:
    """Run the attack suite against our own keyed models.

    Takes a quarter of an hour of processor time; `--keep` lets it be cut off and go on. Needs two
    packages that ship MiniLM's weights and the text of ICD-10-CM.
    """
    # torch and the models load here, so that --help does not wait for them.
    from rich.console import Console

    from ee.errors import EncryptionError
    from node.attack import render
    from node.errors import NodeError

    try:
        rows = (
            _both(seed, only, keep, quick=quick)
            if model is None
            else _one(seed, model, only, keep, quick=quick)
        )
    except (NodeError, EncryptionError) as error:
        hint = error.hint() if isinstance(error, NodeError) else ""
        sys.stderr.write(f"rexis: error: {error}\n")
        if hint:
            sys.stderr.write(f"rexis: hint: {hint}\n")
        sys.exit(1)
    if as_json_:
        click.echo(json.dumps(render.as_json(rows), indent=1))
    elif markdown:
        click.echo(render.as_markdown(rows))
    else:
        Console(width=110).print(render.as_table(rows))


def _one(
    seed: int, model: str, only: tuple[int, ...], keep: Path | None, *, quick: bool
) -> list[Any]:
    """Rows of one model; progress on stderr, one line that rewrites itself on a terminal."""
    from rich.console import Console

    from node.attack.rows import Kept
    from node.attack.subjects import QUICK, Size, subject
    from node.attack.suite import Bench, run

    errors, started = Console(stderr=True), time.monotonic()
    size = QUICK if quick else Size()
    kept = Kept(keep / f"{model}.jsonl", model, seed, size) if keep else None
    with errors.status(f"{model}: starting") as status:

        def say(text: str) -> None:
            line = f"{model}: {time.monotonic() - started:.0f} s, {text}"
            if errors.is_terminal:
                status.update(line)
            else:
                errors.print(line, highlight=False, soft_wrap=True)

        bench = Bench(subject(model, size, seed, say), size, seed)
        return list(run(bench, say, only, kept))


def _both(
    seed: int, only: tuple[int, ...], keep: Path | None, *, quick: bool
) -> list[Any]:
    """Rows of both models, each in a process of its own, at one time.

    The attacks are many small products, which threads do not speed up; two processes do, and
    with threads in each of them two cores are waited for twice as long as they work.
    """
    import msgspec

    from node.attack.material import check_installed
    from node.attack.rows import Row
    from node.attack.subjects import MODELS
    from node.errors import ComputeError

    check_installed()
    options = ["--json", "--seed", str(seed), *(["--quick"] if quick else [])]
    options += [part for number in only for part in ("--only", str(number))]
    options += ["--keep", str(keep)] if keep else []
    command = [sys.executable, "-m", "node.attack", *options, "--model"]
    # Pipes, not a terminal: two lines that rewrite themselves would overwrite each other.
    single = {"OMP_NUM_THREADS": "1", **os.environ}
    running: list[subprocess.Popen[bytes]] = []
    told: list[int] = []

    def end(number: int, _frame: Any) -> None:
        told.append(number)
        # Before that a child may have begun that we do not know yet, and could not end.
        if len(running) == len(MODELS):
            sys.exit(128 + number)

    # By default a TERM ends this process alone, and both children would go on for minutes.
    usual = signal.signal(signal.SIGTERM, end)
    try:
        for model in MODELS:
            child = subprocess.Popen(
                [*command, model],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=single,
            )
            running.append(child)
        if told:
            sys.exit(128 + told[0])
        for child in running:
            threading.Thread(target=_pass_on, args=(child.stderr,), daemon=True).start()
        # A table comes at the very end of a run: while one is read, the other works on.
        outputs = [child.stdout.read() if child.stdout else b"" for child in running]
        codes = [child.wait() for child in running]
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for child in running:
            child.kill()
        signal.signal(signal.SIGTERM, usual)
    for model, code in zip(MODELS, codes, strict=True):
        if code:
            raise ComputeError(f"the run of {model} ended with status {code}")
    return [row for out in outputs for row in msgspec.json.decode(out, type=list[Row])]


def _pass_on(stream: Any) -> None:
    for raw in stream:
        sys.stderr.write(raw.decode(errors="replace"))
