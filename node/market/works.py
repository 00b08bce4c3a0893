"""What takes long and is under way: publishing, fetching, an inference of many records.

A row is for a person who waits.  It counts bytes; it is gone when the work has ended,
well or not, and the answer of the call says how.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

What = Literal[
    "reading", "encrypting", "anchoring", "fetching", "decrypting", "inferring"
]


@dataclass
class Work:
    """One call under way; its thread counts up, the daemon reads."""

    path: str
    """The first path that was published, where to something is fetched, the table asked about; of
    a dataset that gets new keys its number."""
    what: What
    done: int = 0
    total: int = 0
    """In bytes; 0: not known yet."""

    def add(self, count: int) -> None:
        """`count` bytes more, never beyond the total."""
        self.done = min(self.total, self.done + count)

    def step(self, what: What, total: int = 0) -> None:
        """The next thing, from its beginning."""
        self.what, self.done, self.total = what, 0, total


@dataclass
class Works:
    """All of them."""

    _under_way: list[Work] = field(default_factory=list)

    @contextmanager
    def begin(self, path: str, what: What) -> Iterator[Work]:
        """A row for as long as the block lasts."""
        work = Work(path, what)
        self._under_way.append(work)
        try:
            yield work
        finally:
            self._under_way.remove(work)

    def rows(self) -> list[dict[str, Any]]:
        """Oldest first."""
        return [
            {
                "path": work.path,
                "what": work.what,
                "done_bytes": work.done,
                "bytes": work.total,
            }
            for work in self._under_way
        ]
