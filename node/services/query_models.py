"""Questions about models: which state of a run is meant, and whether this node can try it.

A run's state is here if this node is in the run; if its file has gone it comes back from the
other members as any state does (`node.services.states`), so whatever is tried has the root that
the question names.
"""

from pathlib import Path
from typing import Protocol

import structlog
import trio

from ee.recipe import is_stock
from ee.spec import ModelSpec, size
from node.compute import state
from node.errors import AccessError, NodeError
from node.ports.compute import Compute
from node.query import scoring
from node.query.scoring import Given
from node.services.federation import Federation
from node.services.run_record import Record
from node.services.states import States
from protocol.listing import Listing
from protocol.queries.models import RunState
from protocol.queries.spec import Query

log = structlog.get_logger()


class Runs(Protocol):
    """What is known of runs."""

    def record(self, run: bytes) -> Record: ...


class Models:
    """States of the runs this node is in."""

    def __init__(
        self,
        runs: Runs,
        states: States,
        federation: Federation,
        me: bytes,
        *,
        compute: Compute,
        models: Path,
    ) -> None:
        """`me`: this node's key; `models`: the folder of its bases."""
        self._compute = compute
        self._models = models
        self._runs = runs
        self._states = states
        self._federation = federation
        self._me = me

    def newest(self, run: bytes, answer: str = "") -> RunState:
        """What a run has come to, as far as this node knows; `answer` is the class asked for."""
        record = self._runs.record(run)
        if self._me not in record.members:
            raise AccessError(
                f"this node is not in run {run.hex()[:16]} and does not know its state",
                hint="name the state; whoever is in the run sees it with `rexis run show`",
            )
        return RunState(run, record.state, answer)

    def columns(self, query: Query) -> tuple[str, ...]:
        """Columns that the model of a run's state reads; none for any other question."""
        if not isinstance(query.model, RunState):
            return ()
        plan = self._record(query.model).plan
        return scoring.columns(plan.spec, plan.task, query.model.answer)

    async def ready(self, query: Query) -> None:
        """Raises unless the state that a question names can be tried here: base and all."""
        if isinstance(query.model, RunState):
            await self._fetched(query.model)

    async def given(self, query: Query) -> Given | None:
        """The state that a question names, read and verified; None if it names none."""
        if not isinstance(query.model, RunState):
            return None
        record, count = await self._fetched(query.model)
        read = await trio.to_thread.run_sync(
            state.read, self._states.folder, record.state, count
        )
        plan, words = record.plan, read.astype("<f4").tobytes()
        return Given(plan.spec, plan.task, words, str(self._models))

    async def _fetched(self, model: RunState) -> tuple[Record, int]:
        """What is known of the run, and the length of its state, which is on disk."""
        record = self._record(model)
        count = await self._size(record)
        if not self._states.has(record.state):
            others = [key for key in record.members if key != self._me]
            peers = [self._federation.key(key).peer_id for key in others]
            await self._states.fetch(model.run, record.state, 4 * count, peers)
        return record, count

    async def _size(self, record: Record) -> int:
        """Entries of the run's state."""
        spec = record.plan.spec
        if not is_stock(spec):
            return size(ModelSpec.from_dict(spec))
        about = {"spec": spec, "models": str(self._models)}
        try:
            return int((await self._compute.call("model.size", about))["size"])
        except NodeError as error:
            # Which folder lacks what is for this node's people, not for who asks.
            log.warning("a model cannot be tried", reason=str(error))
            raise AccessError(
                "this node lacks the base of the run's model, or has another",
                hint="its operator sees in the log what is missing",
            ) from error

    def _record(self, model: RunState) -> Record:
        record = self._runs.record(model.run)
        if self._me not in record.members:
            raise AccessError(f"this node is not in run {model.run.hex()[:16]}")
        if record.state != model.state:
            raise AccessError(
                f"run {model.run.hex()[:16]} stands at state {record.state.hex()[:16]}"
                f" here, not at {model.state.hex()[:16]}",
                hint="ask about the newest state, once all its members have it",
            )
        return record


def require_columns(query: Query, listing: Listing, more: tuple[str, ...]) -> None:
    """Refuse a question for what a listing says its table lacks."""
    known = {column.name for column in listing.columns}
    for name in (*query.needed, *more):
        if name not in known:
            raise AccessError(
                f"{listing.title!r} has no column {name!r}",
                hint=f"it has {', '.join(sorted(known))[:500]}",
            )
