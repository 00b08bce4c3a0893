"""What a run needs of the model it trains: a size, local steps, and a score.

A round sees a vector of some length, records and a score, whatever makes them
(`node.compute.table_model`, `node.compute.stock`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ee.hyper import TrainHyper
from ee.spec import Vector

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


NOTHING_HELD: dict[str, Any] = {"held_out": 0, "auc": None, "loss": None}
