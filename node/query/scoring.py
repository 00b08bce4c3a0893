"""A run's state tried on the rows of a table, in the sandbox.

What a model file says of its records holds here too: which column holds the answer, and which
records nobody trains on.  A row that the model cannot read, or without an answer, takes no
part: an error would tell of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from ee.errors import EncryptionError
from ee.plain import log_odds
from ee.recipe import StockSpec, is_stock
from ee.spec import ModelSpec
from ee.table import parse
from node.compute import table
from node.errors import ComputeError
from protocol.queries.gradient import number
from protocol.queries.spec import Query

Rows = Sequence[Mapping[str, str]]
Scores = tuple[NDArray[np.float64], NDArray[np.bool_]]
"""Log-odds that the model gives, and whether it was so."""


class Given(msgspec.Struct, frozen=True):
    """What a run's model file says, and the state that the question names."""

    spec: dict[str, Any]
    task: dict[str, Any]
    state: bytes
    """Little-endian float32 values, as `node.compute.state` has them on disk."""
    models: str = ""
    """The folder of this node's bases; a model over table columns needs none."""


class Tried(Protocol):
    """A state put together, before a row is seen."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What a table needs to have."""

    def scores(self, query: Query, rows: Rows) -> Scores:
        """Of the rows that were held out, or of all; each follows from its row alone."""


def columns(spec: dict[str, Any], task: dict[str, Any], answer: str) -> tuple[str, ...]:
    """What a table needs to have; raises where `answer` is none that the model gives.

    For whoever only checks a question: nothing is built, and no torch is loaded.
    """
    if is_stock(spec):
        found, asked = StockSpec.from_dict(spec), table.class_task(task)
        if answer not in found.classes:
            known = ", ".join(found.classes)
            raise ComputeError(
                f"the run's model has no class {answer!r}, it has {known[:500]}",
                hint="`--class` says which of them counts as yes",
            )
        return found.text, asked.id, asked.label
    if answer:
        raise ComputeError(
            f"the run's model says yes or no, and has no class {answer!r}",
            hint="leave out `--class`",
        )
    return _of_columns(ModelSpec.from_dict(spec), table.task(task))


def model_of(given: Given) -> Tried:
    """Put a state together; a stock model's classes take seconds to import."""
    if is_stock(given.spec):
        from node.query.texts import TextModel

        return TextModel(given)
    return TableModel(given)


class TableModel:
    """A transformer over columns, in numpy."""

    def __init__(self, given: Given) -> None:
        self._spec = ModelSpec.from_dict(given.spec)
        self._task = table.task(given.task)
        self._state = np.frombuffer(given.state, "<f4")

    @property
    def columns(self) -> tuple[str, ...]:
        return _of_columns(self._spec, self._task)

    def scores(self, query: Query, rows: Rows) -> Scores:
        spec, task = self._spec, self._task
        names = [column.name for column in spec.columns]
        values, answers = [], []
        for row in rows:
            answer = number(row[task.label])
            seen = query.every or table.is_held_out(row[task.id], task.held_out_percent)
            if answer is None or not seen:
                continue
            try:
                values.append(parse(spec, names, [[row[name] for name in names]])[0])
            except EncryptionError:
                continue
            answers.append(answer > task.above)
        held = np.array(values).reshape(len(values), len(names))
        found = log_odds(spec, self._state, held).astype(np.float64)
        return found, np.array(answers, np.bool_)


def _of_columns(spec: ModelSpec, task: table.Task) -> tuple[str, ...]:
    return (*(column.name for column in spec.columns), task.id, task.label)
