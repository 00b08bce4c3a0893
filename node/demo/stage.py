"""What a person sees while the demo works: the act, a bar, and each claim as it is checked."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Stage:
    """Progress on stderr, so that stdout stays for the report."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        self._progress: Progress | None = None
        self._bar: TaskID | None = None

    @contextmanager
    def act(self, title: str) -> Iterator[None]:
        """One part of the mission, with a bar of its own."""
        columns = (
            TextColumn("[bold]{task.fields[title]}[/]"),
            BarColumn(bar_width=30),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            self._progress = progress
            bar = self._bar = progress.add_task("", title=f"{title:<10}", total=None)
            try:
                yield
            finally:
                progress.update(bar, description="", total=1, completed=1)
                self._progress = None

    def tell(self, what: str, done: int, total: int) -> None:
        """Where the present act stands."""
        if self._progress is not None and self._bar is not None:
            self._progress.update(
                self._bar, description=what, completed=done, total=max(total, 1)
            )

    def claim(self, claim: str, holds: bool) -> None:
        """One more claim was checked."""
        mark = "[green]✓[/]" if holds else "[bold red]✗[/]"
        self._console.print(f"  {mark} {claim}")
