"""Questions about models: which state of a run is meant, and whether this node can try it.

A run's state is here if this node is in the run; if its file has gone it comes back from the
other members as any state does (`node.services.states`), so whatever is tried has the root that
the question names.
"""

from typing import Protocol

import trio

from ee.errors import EncryptionError
from ee.spec import ModelSpec, size
from node.compute import state, table
from node.errors import AccessError, ComputeError
from node.query import scoring
from node.query.scoring import Given
from node.services.federation import Federation
from node.services.runs import Record
from node.services.states import States
from protocol.listing import Listing
from protocol.queries.models import RunState
from protocol.queries.spec import Query


class Runs(Protocol):
    """What is known of runs."""

    def record(self, run: bytes) -> Record: ...


class Models:
    """States of the runs this node is in."""

    def __init__(
        self, runs: Runs, states: States, federation: Federation, me: bytes
    ) -> None:
        """`me`: this node's key."""
        self._runs = runs
        self._states = states
        self._federation = federation
        self._me = me

    def newest(self, run: bytes) -> RunState:
        """What a run has come to, as far as this node knows."""
        record = self._runs.record(run)
        if self._me not in record.members:
            raise AccessError(
                f"this node is not in run {run.hex()[:16]} and does not know its state",
                hint="name the state; whoever is in the run sees it with `rexis run show`",
            )
        return RunState(run, record.state)

    def columns(self, query: Query) -> tuple[str, ...]:
        """Columns that the model of a run's state reads; none for any other question."""
        if not isinstance(query.model, RunState):
            return ()
        return scoring.columns(*_table_model(self._record(query.model)))

    async def given(self, query: Query) -> Given | None:
        """The state that a question names, read and verified; None if it names none."""
        if not isinstance(query.model, RunState):
            return None
        record = self._record(query.model)
        spec, _ = _table_model(record)
        root, count = record.state, size(spec)
        if not self._states.has(root):
            others = [key for key in record.members if key != self._me]
            peers = [self._federation.key(key).peer_id for key in others]
            await self._states.fetch(query.model.run, root, 4 * count, peers)
        read = await trio.to_thread.run_sync(
            state.read, self._states.folder, root, count
        )
        return Given(record.plan.spec, record.plan.task, read.astype("<f4").tobytes())

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


def _table_model(record: Record) -> tuple[ModelSpec, table.Task]:
    try:
        return scoring.table_model(record.plan.spec, record.plan.task)
    except EncryptionError as error:
        raise ComputeError(f"the run's model file: {error}") from error
