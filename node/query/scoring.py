"""A run's state tried on the rows of a table, in the sandbox.

What a model file says of its records holds here too: which column holds the answer, and which
records nobody trains on.  A row that the model cannot read, or without an answer, takes no
part: an error would tell of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ee.errors import EncryptionError
from ee.plain import log_odds
from ee.recipe import is_stock
from ee.spec import ModelSpec
from ee.table import parse
from node.compute import table
from node.errors import ComputeError
from protocol.queries.gradient import number

Rows = Sequence[Mapping[str, str]]


class Given(msgspec.Struct, frozen=True):
    """What a run's model file says, and the state that the question names."""

    spec: dict[str, Any]
    task: dict[str, Any]
    state: bytes
    """Little-endian float32 values, as `node.compute.state` has them on disk."""


def table_model(
    spec: dict[str, Any], task: dict[str, Any]
) -> tuple[ModelSpec, table.Task]:
    """A model file that can be tried here, or `ComputeError`."""
    if is_stock(spec):
        raise ComputeError(
            "the run trains a stock model, and questions score models of tables",
            hint="`rexis run score` tries it on a table of your own",
        )
    return ModelSpec.from_dict(spec), table.task(task)


def columns(spec: ModelSpec, task: table.Task) -> tuple[str, ...]:
    """What a table needs to have."""
    return (*(column.name for column in spec.columns), task.id, task.label)


def scores(
    given: Given, rows: Rows, *, every: bool
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Log-odds and answers of the rows that were held out, or of all."""
    spec, task = table_model(given.spec, given.task)
    names = [column.name for column in spec.columns]
    values, answers = [], []
    for row in rows:
        answer = number(row[task.label])
        seen = every or table.is_held_out(row[task.id], task.held_out_percent)
        if answer is None or not seen:
            continue
        try:
            values.append(parse(spec, names, [[row[name] for name in names]])[0])
        except EncryptionError:
            continue
        answers.append(answer > task.above)
    state = np.frombuffer(given.state, "<f4")
    held = np.array(values).reshape(len(values), len(names))
    return log_odds(spec, state, held).astype(np.float64), np.array(answers, np.bool_)
