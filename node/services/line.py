"""Requests in line for the one worker; those about one model and one length go together.

An integer trunk gives every case the rows it gives it alone, so whose cases share a pass is
nobody's business and no receipt tells.  A pass costs the worker a round trip and a walk through
all weights, whatever is in it.

Whoever is first in line takes along as many of the others as fit.  If the worker refuses what
they ask together, each is asked alone in its turn: one requester's bad rows cost the others time,
and no answer.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import trio

from node.errors import ComputeError
from node.worker.client import WorkerRefusedError
from protocol.boundary import Shape

WAITING_LIMIT = 16
"""Requests in line; more are told to come back."""
WAITING_OF_ONE_LIMIT = 6
"""Of one requester: no two of them keep everybody else out."""
TOGETHER_LIMIT_BYTES = 4 << 20
"""Rows of one pass.  Its boundaries are held at once: for twelve layers thirteen times as much."""

Infer = Callable[[bytes, bytes, Shape, int], Awaitable[list[bytes]]]
"""Model root, packed rows, shape, first layer to the packed rows after each layer from there."""


@dataclass(eq=False)
class _Waiting:
    model: bytes
    rows: bytes
    shape: Shape
    start: int
    who: bytes
    after: list[bytes] = field(default_factory=list)
    alone: bool = False

    def fits(self, other: "_Waiting") -> bool:
        """Whether both may go in one pass."""
        same = (self.model, self.start) == (other.model, other.start)
        same = same and self.shape[1:] == other.shape[1:]
        return same and not (self.alone or other.alone)


class Line:
    """One worker's line."""

    def __init__(self, infer: Infer) -> None:
        self._infer = infer
        self._waiting: list[_Waiting] = []
        self._one_at_a_time = trio.Lock()  # first come, first served

    async def ask(
        self, model: bytes, rows: bytes, shape: Shape, start: int = 0, *, who: bytes
    ) -> list[bytes]:
        """Packed rows after each layer; `ComputeError` at once if the line is too long.

        `rows` stand before layer `start`; `who` asks.
        """
        own = sum(one.who == who for one in self._waiting)
        for count, limit, whose in (
            (len(self._waiting), WAITING_LIMIT, ""),
            (own, WAITING_OF_ONE_LIMIT, " of one requester"),
        ):
            if count >= limit:
                raise ComputeError(
                    f"{count} requests{whose} are in line, limit is {limit}",
                    hint="ask again in a moment, or ask another host",
                )
        mine = _Waiting(model, rows, shape, start, who)
        self._waiting.append(mine)
        try:
            async with self._one_at_a_time:
                if not mine.after:
                    await self._pass(mine)
            return mine.after
        finally:
            self._waiting.remove(mine)

    async def _pass(self, mine: _Waiting) -> None:
        together = self._together(mine)
        try:
            await self._computed(together)
        except WorkerRefusedError:
            if len(together) == 1:
                raise
            for one in together:
                one.alone = True
            await self._computed([mine])

    def _together(self, mine: _Waiting) -> list[_Waiting]:
        taken, size = [mine], len(mine.rows)
        for one in self._waiting:
            if one is mine or one.after or not mine.fits(one):
                continue
            if size + len(one.rows) <= TOGETHER_LIMIT_BYTES:
                taken.append(one)
                size += len(one.rows)
        return taken

    async def _computed(self, together: Sequence[_Waiting]) -> None:
        cases = sum(one.shape[0] for one in together)
        first = together[0]
        shape = (cases, *first.shape[1:])
        rows = b"".join(one.rows for one in together)
        after = await self._infer(first.model, rows, shape, first.start)
        at = 0
        for one in together:
            stop = at + len(one.rows)
            one.after = [boundary[at:stop] for boundary in after]
            at = stop
