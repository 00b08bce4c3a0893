"""One task at a time for each name; tasks of different names do not wait for each other."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class Turns:
    """A lock for each name, kept while somebody holds it or waits for it."""

    def __init__(self) -> None:
        self._locks: dict[bytes, trio.Lock] = {}

    @asynccontextmanager
    async def of(self, name: bytes) -> AsyncIterator[None]:
        """Wait for the turn, first come, first served."""
        lock = self._locks.setdefault(name, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._locks.pop(name, None)

    def taken(self, name: bytes) -> bool:
        """Whether somebody has the turn now."""
        return name in self._locks
