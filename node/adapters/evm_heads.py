"""The newest block, asked for once however many wait for the next one.

A daemon follows the chain for several reasons at a time, and between two blocks there is nothing
to see for any of them.  Who pays per request, and a development chain that all members of a
demo share, would be asked by each of them several times a second.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio


@dataclass(frozen=True, slots=True)
class Newest:
    """A block that had no successor; its hash tells it from one that took its place."""

    number: int
    hash: bytes


class Heads:
    """What `ask` says, at most once in `every_s` seconds."""

    def __init__(self, ask: Callable[[], Awaitable[Newest]], every_s: float) -> None:
        self._ask, self._every_s = ask, every_s
        self._asking = trio.Lock()
        self._known: Newest | None = None
        self._asked = 0.0

    async def other_than(self, seen: Newest | None) -> Newest:
        """The newest block, once it is another than `seen`.

        Raises ChainError where the chain does not answer: each of those that wait learns it
        from a request of its own.
        """
        while True:
            async with self._asking:
                if self._known is None or self._left() <= 0:
                    self._known = None
                    self._known = await self._ask()
                    self._asked = trio.current_time()
                newest = self._known
            if newest != seen:
                return newest
            # It may have passed since it was looked at, on a machine with other things to do.
            await trio.sleep(max(0.0, self._left()))

    def _left(self) -> float:
        """Seconds until the chain may be asked again."""
        return self._asked + self._every_s - trio.current_time()
