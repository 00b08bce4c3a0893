"""What a member keeps back between the rounds of a run over thin links (docs/protocol.md §5.12).

It is as secret as an update, never leaves this node, and goes with the run's last round.  It
moves on only with a verdict that took this member's update in: what was not summed is trained
anew, as in any run.
"""

from collections.abc import Mapping
from typing import Any

from node.ports import Store
from node.services.states import States
from protocol.aggregate import coordinates
from protocol.course import one_in
from protocol.runs import Plan
from protocol.types import Digest

KEPT = "round-kept"


class ThinLinks:
    """Which entries of a round travel, and where the others are kept."""

    def __init__(self, store: Store, states: States, run: bytes, plan: Plan) -> None:
        self._store = store
        self._states = states
        self._run = run
        self._one_in = one_in(plan)

    @property
    def is_on(self) -> bool:
        """Does the run leave entries out?"""
        return self._one_in > 1

    def choice(self, number: int) -> Mapping[str, Any] | None:
        """`thin` of the compute child's calls in round `number`."""
        if not self.is_on:
            return None
        seed = coordinates.seed(self._run, number)
        return {"seed": seed, "one_in": self._one_in}

    async def left(self) -> bytes:
        """Root of what earlier rounds kept back; empty if there is nothing."""
        return await self._store.get(KEPT, self._run) or b""

    async def keep(self, root: Digest) -> None:
        """From here on this is kept; doing it twice is doing it once."""
        before = await self.left()
        await self._store.put(KEPT, self._run, root)
        if before and before != root:
            self._states.delete(Digest(before))

    async def end(self) -> None:
        """The run is over: nothing is kept any more."""
        before = await self.left()
        if before:
            await self._store.delete(KEPT, self._run)
            self._states.delete(Digest(before))
