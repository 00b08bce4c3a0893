"""The two kinds of models a run trains, behind what the child's methods need of one.

A table model reads columns (`ee.spec`), a stock model reads one column of text or letters
(`ee.recipe`).  A round knows neither: it sees a vector of some size, records, and a score.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ee.errors import EncryptionError
from ee.hyper import TrainHyper
from ee.recipe import StockSpec, is_stock
from ee.spec import ModelSpec, Vector, initial_state, size
from node.compute import table
from node.errors import ComputeError

Tell = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Steps:
    """How one member trains between two sums, and by which secrets and dice."""

    hyper: TrainHyper
    worker: str
    """Socket of the worker."""
    key_seed: bytes
    batch_seed: int
    elapsed: float
    tell: Tell


class Trained(Protocol):
    """What local steps give; `ee.session.LocalResult`."""

    @property
    def delta(self) -> Vector: ...
    @property
    def loss_first(self) -> float: ...
    @property
    def loss_last(self) -> float: ...
    @property
    def samples(self) -> int: ...


class Model(Protocol):
    """What a run trains."""

    @property
    def size(self) -> int: ...

    def initial(self) -> Vector: ...

    def samples(self, data: bytes) -> int:
        """How many records of a CSV file would train."""

    def train(self, before: Vector, data: bytes, steps: Steps) -> Trained: ...

    def tests(
        self, data: bytes, *, every: bool = False
    ) -> Callable[[Vector], dict[str, Any]]:
        """From a state to {held_out, auc, loss} on the held-out, or all, records of a file."""

    def write(self, state: Vector, folder: Path) -> None:
        """A new folder that programs other than ours can read."""


def model_of(params: Mapping[str, Any], task: Mapping[str, Any] | None = None) -> Model:
    """The model of `params["spec"]`; a stock base lies under `params["models"]`."""
    spec = params["spec"]
    if is_stock(spec):
        # Stock classes take seconds to import, and no table run needs them.
        from node.compute.stock import Stock

        return Stock(StockSpec.from_dict(spec), task, Path(params["models"]))
    return Table(ModelSpec.from_dict(spec), task)


class Table:
    """A transformer over columns."""

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


NOTHING_HELD: dict[str, Any] = {"held_out": 0, "auc": None, "loss": None}
