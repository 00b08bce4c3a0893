"""What a member does with the newest state of a run it is in: score records, write it out.

In the clear, at a key holder that has the whole model; nothing leaves this machine.
"""

from pathlib import Path
from typing import Any, Protocol

from node.errors import RoundError
from node.ports.compute import Compute
from node.services.hands import Folders
from protocol.runs import Plan
from protocol.types import Digest


class Record(Protocol):
    """What is needed of a run."""

    @property
    def plan(self) -> Plan: ...
    @property
    def state(self) -> Digest: ...
    @property
    def done(self) -> int: ...


class Finished:
    """Of every run this node has a state of."""

    def __init__(self, compute: Compute, folders: Folders) -> None:
        self._compute = compute
        self._folders = folders

    async def score(self, record: Record, records: bytes) -> dict[str, Any]:
        """How the newest state does on every record of a CSV file."""
        found = await self._compute.call(
            "run.score",
            {**self._about(record), "task": record.plan.task, "records": records},
        )
        return {"state_root": record.state.hex(), "round": record.done, **found}

    async def export(self, record: Record, path: Path) -> dict[str, Any]:
        """Write the newest state as a stock checkpoint to a new folder."""
        await self._compute.call(
            "run.export", {**self._about(record), "out": str(path)}
        )
        return {
            "state_root": record.state.hex(),
            "round": record.done,
            "path": str(path),
        }

    def _about(self, record: Record) -> dict[str, Any]:
        if not record.done:
            raise RoundError(
                "the run has done no round, so nothing was learnt",
                hint="wait for its first; `rexis run show` tells",
            )
        return {
            "spec": record.plan.spec,
            "root": record.state,
            "folder": str(self._folders.states),
            "models": str(self._folders.models),
        }
