"""What a release needs of a trained state: made, vouched for, asked.

A table model and a stock model differ in how records become rows and rows become numbers
(`node.compute.table_release`, `node.compute.stock_release`); a release knows only this.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ee import integer
from ee.integer import IntegerTrunk


@dataclass(frozen=True)
class Group:
    """Cases of one length, since no row of a trunk may be filler."""

    places: list[int]
    """Which records they are, from 0."""
    rows: integer.RowArray


@dataclass(frozen=True)
class Told:
    """What a model says of some cases."""

    scores: list[float]
    """Log-odds."""
    answers: list[str]
    """The class they are of; empty where there is one question and no classes."""


class Released(Protocol):
    """One state under one specification."""

    def quantised(self, seed: bytes) -> IntegerTrunk:
        """The trunk under the release key, in integers."""

    def check(self, trunk: IntegerTrunk, seed: bytes) -> None:
        """Raise `IntegerModelError` unless `trunk` is what `quantised` makes, up to ties."""

    def entered(self, records: bytes, seed: bytes) -> list[Group]:
        """Keyed integer rows of every record of a CSV file."""

    def left(self, rows: NDArray[np.float32], seed: bytes) -> Told:
        """What the head makes of keyed rows behind the trunk."""
