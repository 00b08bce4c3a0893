"""Tables, spinners and the live view; the only user of rich, imported when one is needed."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from node.cli.words import plain, shown

# Where nobody looks, lines are not folded: the next program wants one row a line.
_PIPE_WIDTH = 10_000


def console() -> Console:
    """Stdout, as wide as its reader."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(width=_PIPE_WIDTH, highlight=False)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Rows under their names; numbers to the right; no blanks at the ends of lines."""
    screen = console()
    with screen.capture() as captured:
        screen.print(tabulated(columns, rows))
    for line in captured.get().splitlines():
        sys.stdout.write(line.rstrip() + "\n")
    sys.stdout.flush()


def tabulated(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for place, name in enumerate(columns):
        numeric = rows and all(isinstance(row[place], int | float) for row in rows)
        made.add_column(
            name,
            justify="right" if numeric else "left",
            overflow="fold",
            header_style="bold",
        )
    for row in rows:
        made.add_row(*(Text(plain(shown(value))) for value in row))
    return made


@contextmanager
def spinner(doing: str) -> Iterator[None]:
    """What is being waited for, and for how long already; gone when it is over."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    screen = Console(stderr=True, highlight=False)
    with Progress(*columns, console=screen, transient=True) as progress:
        progress.add_task(plain(doing), total=None)
        yield


@contextmanager
def bytes_bar() -> Iterator[Callable[[str, int, int], None]]:
    """What is being done and how many bytes of how many; gone when it is over."""
    screen = Console(stderr=True, highlight=False)
    columns = (
        *(SpinnerColumn(), TextColumn("{task.description}"), BarColumn()),
        *(DownloadColumn(), TimeElapsedColumn()),
    )
    with Progress(*columns, console=screen, transient=True) as progress:
        task = progress.add_task("asking the node", total=None)

        def draw(what: str, done: int, total: int) -> None:
            progress.update(
                task, description=plain(what), completed=done, total=total or None
            )

        yield draw


class Draw(Protocol):
    """Redraws the live view."""

    def __call__(
        self,
        *,
        heading: str,
        state: str,
        done: tuple[int, int],
        now: str,
        step: tuple[int, int],
        columns: Sequence[str],
        rows: Sequence[Sequence[object]],
    ) -> None: ...


@contextmanager
def live() -> Iterator[Draw]:
    """A view of a run that is drawn over itself and stays when it is over."""
    screen = console()
    with Live(console=screen, auto_refresh=False) as view:

        def draw(
            *,
            heading: str,
            state: str,
            done: tuple[int, int],
            now: str,
            step: tuple[int, int],
            columns: Sequence[str],
            rows: Sequence[Sequence[object]],
        ) -> None:
            bars = Table.grid(padding=(0, 2))
            bars.add_row(
                "rounds", _bar(*done), f"{done[0]} of {done[1]}", Text(plain(state))
            )
            if step[1]:
                at = f"{step[0]} of {step[1]}"
                bars.add_row("steps", _bar(*step), at, Text(plain(now)))
            elif now:
                bars.add_row("now", Text(plain(now)), "", "")
            parts: list[RenderableType] = [Text(plain(heading), style="bold"), bars]
            if rows:
                parts.append(tabulated(columns, rows))
            view.update(Group(*parts), refresh=True)

        yield draw


def _bar(done: int, of: int) -> ProgressBar:
    return ProgressBar(total=max(1, of), completed=done, width=30)
