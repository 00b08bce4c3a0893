"""What a member keeps back between the rounds of a run over thin links (docs/protocol.md §5.12).

It is as secret as an update, never leaves this node, and goes with the run's last round.  It
moves on with a verdict that took this member's update in, or may have: what was not summed is
trained anew, as in any run.

A kill at any instant leaves the record of one rest, or of none.  The new file is on disk before
the old one goes, and the record names it last; `finished` is told of the newest verdict again
after a restart, before anything trains, and does what is left of that.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog
import trio

from node.driver import RETRY_FIRST_S, WORK_TRIES
from node.errors import NodeError, StorageError
from node.ports.storage import Store
from node.services.states import States
from protocol.aggregate import coordinates
from protocol.course import one_in
from protocol.errors import ProtocolError
from protocol.rounds.events import Finished
from protocol.runs import Plan
from protocol.types import DIGEST_BYTES, Digest

KEPT = "round-kept"
"""A run's name to the root of its rest, and the number of the round that left it (8 bytes)."""

log = structlog.get_logger()


def counted(
    records: Mapping[str, bytes], finished: Finished, me: bytes
) -> tuple[int, Digest] | None:
    """Round and name of this member's update that a sum holds, or may hold; None: no sum does.

    `records` are those of the machine before the round's are forgotten.  A member that was away
    may learn of a later round's verdict only, which does not tell who was in this one's sum.
    Then its update counts as summed if its upload was said: a rest that is lost teaches less,
    and one that is summed twice teaches what no record says.
    """
    verdict = finished.verdict
    for key, update in records.items():
        number, _, what = key.partition("/")
        if what != "trained" or int(number) > verdict.round:
            continue
        if int(number) == verdict.round:
            is_in = verdict.accept and me in finished.survivors
        else:
            said = f"{number}/said/"
            is_in = any(k.startswith(said) and k.endswith("/upload") for k in records)
        if is_in:
            return int(number), Digest(update)
    return None


class ThinLinks:
    """Which entries of a round travel, and where the others are kept."""

    def __init__(self, store: Store, states: States, run: bytes, plan: Plan) -> None:
        self._store = store
        self._states = states
        self._run = run
        self._one_in = one_in(plan)
        self._over = False
        self._changing = trio.Lock()

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
        return (await self._row())[:DIGEST_BYTES]

    async def move_on(
        self,
        number: int,
        update: Digest,
        rest: Callable[[int, Digest], Awaitable[Digest]],
    ) -> None:
        """Keep what round `number` left of `update` in place of what was kept before.

        `rest` writes it to disk and says its root.  Where that cannot be had, nothing is kept:
        what was kept before is in the sum, and a node without a rest trains on.
        """
        for _ in range(WORK_TRIES):
            try:
                # Told again after a restart, when the update may be gone and its record not.
                if not await self._is_kept(number):
                    await self._keep(number, await rest(number, update))
            except (NodeError, ProtocolError) as error:
                log.warning("what a round left is not kept yet", reason=str(error))
                await trio.sleep(RETRY_FIRST_S)
            else:
                return
        log.warning("what a round left is given up", round=number)
        await self._give_up()

    async def end(self) -> None:
        """The run is over: nothing is kept any more, and nothing will be."""
        self._over = True
        await self._give_up()

    async def _is_kept(self, number: int) -> bool:
        row = await self._row()
        return bool(row) and int.from_bytes(row[DIGEST_BYTES:], "big") >= number

    async def _keep(self, number: int, root: Digest) -> None:
        async with self._changing:
            before = await self.left()
            if before != root:
                await self._delete(before)
            if self._over:
                await self._delete(root)
                await self._store.delete(KEPT, self._run)
                return
            row = root + number.to_bytes(8, "big")
            await self._store.put(KEPT, self._run, row)

    async def _give_up(self) -> None:
        async with self._changing:
            before = await self.left()
            if before:
                await self._delete(before)
                await self._store.delete(KEPT, self._run)

    async def _row(self) -> bytes:
        return await self._store.get(KEPT, self._run) or b""

    async def _delete(self, root: bytes) -> None:
        if not root:
            return
        try:
            # A file system takes its time to free a large file.
            await trio.to_thread.run_sync(self._states.delete, root)
        except StorageError as error:
            # A file too many is bad; a record that still names it would count twice.
            log.warning("what a round left cannot be deleted", reason=str(error))
