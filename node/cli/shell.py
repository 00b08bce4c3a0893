"""What every command shares: the home, the output, the exit status.

stdout carries the result and nothing else, stderr all the rest.  Text from the daemon may be a
peer's, so nothing reaches the terminal that could steer it.
"""

import functools
import json
import queue
import shutil
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from node.cli.words import plain
from node.errors import NodeError
from node.locations import Home
from node.rpc import client

OK, REFUSED, UNREACHABLE, USAGE = 0, 1, 2, 3
INTERRUPTED = 130  # 128 + SIGINT, as shells report it

# A few transactions, each final within three minutes (node.adapters.evm_chain).
CHAIN_S = 600.0
# Moving gigabytes, or a long table through a slow host.
BULK_S = 3600.0
_ID_DIGITS = 64

_NO_FOLD = 1 << 30
_LOOK_S = 0.3

Row = Mapping[str, Any]


class WrongValueError(click.UsageError):
    """A value is wrong in a way that only its meaning tells."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class Noun(click.Group):
    """Lists its verbs in the order in which a person needs them."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(self.commands)


class Number(click.IntRange):
    """A whole number with bounds."""

    name = "whole number"


class NotFoundError(NodeError):
    """What was named is not in the daemon's list, or is there twice."""


@dataclass(frozen=True)
class Shell:
    """One invocation."""

    home: Home
    as_json: bool

    def ask(
        self,
        method: str,
        *,
        doing: str = "",
        timeout_s: float = client.TIMEOUT_S,
        **params: object,
    ) -> dict[str, Any]:
        """Call the daemon; options that were not given are left out of `params`."""
        if not self.home.path.is_dir():
            raise client.UnreachableError(
                f"no node lives in {self.home.path}",
                hint="name its home with --home or REXIS_HOME, or make one with `rexis init`",
            )
        given = {name: value for name, value in params.items() if value is not None}
        with self.working(doing):
            return client.call(self.home.rpc_socket, method, given, timeout_s=timeout_s)

    @contextmanager
    def working(self, doing: str) -> Iterator[None]:
        """A spinner with a clock on stderr, where a person is looking."""
        if not doing or self.as_json or not sys.stderr.isatty():
            yield
            return
        from node.cli import render

        with render.spinner(doing):
            yield

    def ask_long(
        self, method: str, *, work: str, timeout_s: float, **params: Any
    ) -> dict[str, Any]:
        """Call the daemon; where a person looks, a bar shows how far the bytes are.

        `work` is the path by which the daemon knows it (`datasets.works`).
        """
        if self.as_json or not sys.stderr.isatty():
            return self.ask(method, timeout_s=timeout_s, **params)
        from node.cli import render

        answers: queue.SimpleQueue[dict[str, Any] | NodeError] = queue.SimpleQueue()

        def call() -> None:
            try:
                answers.put(self.ask(method, timeout_s=timeout_s, **params))
            except NodeError as error:
                answers.put(error)

        threading.Thread(target=call, daemon=True).start()
        with render.bytes_bar() as draw:
            while True:
                try:
                    answer = answers.get(timeout=_LOOK_S)
                except queue.Empty:
                    with suppress(NodeError):
                        for row in self.ask("datasets.works")["works"]:
                            if row["path"] == work:
                                draw(row["what"], row["done_bytes"], row["bytes"])
                    continue
                if isinstance(answer, NodeError):
                    raise answer
                return answer

    def result(self, answer: Row, human: Callable[[], None]) -> None:
        """The answer as it came, or as `human` prints it."""
        if self.as_json:
            print_json(answer)
        else:
            human()

    def table(
        self, answer: Row, noun: str, columns: Mapping[str, Callable[[Row], object]]
    ) -> None:
        """The rows under `noun`, a column each for what `columns` reads off a row."""

        def human() -> None:
            rows = answer[noun]
            if not rows:
                say(f"no {noun}")
                return
            from node.cli import render

            render.table(
                list(columns),
                [[read(row) for read in columns.values()] for row in rows],
            )

        self.result(answer, human)

    def fields(self, answer: Row, pairs: Sequence[tuple[str, object]]) -> None:
        """One thing, a line for each fact."""
        self.result(answer, lambda: print_fields(pairs))

    def resolve(self, noun: str, given: str, *also: tuple[str, str, str]) -> str:
        """The full id of the one `noun` (run, model, receipt) that begins with `given`.

        Looked for in the noun's own list and in those of `also`: command, method, and what the
        rows of its answer stand under.
        """
        text = given.lower()
        if len(text) == _ID_DIGITS:
            return text
        lists = ((f"{noun} list", f"{noun}s.list", f"{noun}s"), *also)
        shown = ", ".join(f"`rexis {command}`" for command, _, _ in lists)
        where = f"{shown} show{'' if also else 's'} the {noun}s this node knows"
        if not text:
            raise NotFoundError(f"the {noun} is left empty", hint=where)
        rows = [row for _, method, key in lists for row in self.ask(method)[key]]
        found = sorted({row[noun] for row in rows if row[noun].startswith(text)})
        if len(found) == 1:
            return str(found[0])
        if not found:
            raise NotFoundError(f"no {noun} begins with {given!r}", hint=where)
        some = ", ".join(one[:16] for one in found[:4])
        raise NotFoundError(
            f"{len(found)} {noun}s begin with {given!r}", hint=f"they are {some}"
        )


def verb(group: click.Group, name: str | None = None) -> Callable[..., click.Command]:
    """Make a function of a `Shell` and its options a command, with `--json`."""

    def register(function: Callable[..., None]) -> click.Command:
        @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
        @click.option("--home", hidden=True, help="As before the noun.")
        @functools.wraps(function)
        def run(*, as_json: bool, home: str | None, **values: Any) -> None:
            path = home or click.get_current_context().find_root().params["home"]
            function(Shell(Home(path), as_json), **values)

        return group.command(name)(run)

    return register


def say(text: str) -> None:
    """A line on stdout."""
    sys.stdout.write(plain(text) + "\n")
    sys.stdout.flush()


def print_json(value: object, *, indent: int | None = 2) -> None:
    """JSON on stdout; indented for people, or one line where a stream is read."""
    sys.stdout.write(plain(json.dumps(value, indent=indent), keep="\n") + "\n")
    sys.stdout.flush()


def print_fields(pairs: Sequence[tuple[str, object]]) -> None:
    """`name  value` lines, the values aligned, and folded where a person looks."""
    indent = max(len(name) for name, _ in pairs) + 2
    columns = _NO_FOLD
    if sys.stdout.isatty():
        columns = max(indent + 20, shutil.get_terminal_size().columns)
    for name, value in pairs:
        lines = textwrap.wrap(
            plain(str(value)),
            columns - indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for number, line in enumerate(lines or [""]):
            say(f"{'' if number else name:{indent}}{line}")


def fail(message: str, hint: str, status: int) -> int:
    """Two lines on stderr, and the exit status."""
    sys.stderr.write(f"error: {plain(message)}\n")
    if hint:
        sys.stderr.write(f"hint: {plain(hint)}\n")
    return status


def agreed(question: str) -> bool:
    """Whether somebody is there and says yes."""
    return sys.stdin.isatty() and click.confirm(question, err=True)


def absolute(_context: click.Context, _option: click.Parameter, value: Any) -> Any:
    """A path as the daemon must hear it; its working directory is not ours."""
    return None if value is None else str(Path(value).expanduser().absolute())


def units(_context: click.Context, _option: click.Parameter, value: Any) -> Any:
    """`0,3-5` as a list of numbers."""
    if value is None:
        return None
    chosen: set[int] = set()
    for part in str(value).split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise click.BadParameter(f"{value!r} is not a list such as 0,3-5")
        stop = int(last) if dash else int(first)
        # A grant is a 64-bit map; a longer range is a slip, and would cost memory.
        if stop > 63 or stop < int(first):
            raise click.BadParameter(f"{part.strip()!r} is not within 0 to 63")
        chosen.update(range(int(first), stop + 1))
    return sorted(chosen)
