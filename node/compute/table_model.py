"""The table model of a run: a transformer over columns (`ee.spec`)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ee.errors import EncryptionError
from ee.spec import ModelSpec, Vector, initial_state, size
from node.compute import table
from node.compute.models import NOTHING_HELD, Steps, Trained
from node.errors import ComputeError


class TableModel:
    """One specification, and what is asked of its records."""

    def __init__(self, spec: ModelSpec, task: Mapping[str, Any] | None) -> None:
        self._spec = spec
        self._task = table.task(task) if task is not None else None

    @property
    def size(self) -> int:
        return size(self._spec)

    def initial(self) -> Vector:
        return initial_state(self._spec)

    def samples(self, data: bytes) -> int:
        return int((~self._records(data).held_out).sum())

    def train(self, before: Vector, data: bytes, steps: Steps) -> Trained:
        from ee.session import train_local
        from node.worker.client import WorkerClient

        values, labels = self._records(data).training()
        with WorkerClient(steps.worker) as worker:
            return train_local(
                self._spec,
                before,
                values,
                labels,
                steps.hyper,
                worker,
                steps.key_seed,
                batch_seed=steps.batch_seed,
                elapsed=steps.elapsed,
                progress=steps.tell,
            )

    def tests(
        self, data: bytes, *, every: bool = False
    ) -> Callable[[Vector], dict[str, Any]]:
        from ee.session import predict

        records = self._records(data)
        values, labels = records.testing()
        if every:
            values, labels = records.values, records.labels

        def tried(state: Vector) -> dict[str, Any]:
            if not len(labels):
                return NOTHING_HELD
            scores = predict(self._spec, state, values)
            signed = np.where(labels > 0.5, -scores, scores)
            return {
                "held_out": len(labels),
                "auc": table.auc(scores, labels),
                "loss": float(np.logaddexp(0.0, signed).mean()),
            }

        return tried

    def write(self, state: Vector, folder: Path) -> None:
        del state, folder
        raise ComputeError(
            "this run trains a table model, which no other program reads",
            hint="`rexis model release` makes it an integer release",
        )

    def _records(self, data: bytes) -> table.Records:
        if self._task is None:
            raise EncryptionError("no task says what is asked")
        return table.records(self._spec, self._task, data)
