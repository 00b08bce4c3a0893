"""A table's bytes and a task: which records train, which are held out, what is predicted."""

import csv
import hashlib
import io
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from ee.spec import ModelSpec
from ee.table import Values, parse
from node.errors import ComputeError


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A binary question about a table."""

    id: str
    """Column that names the record; decides only which side of the split it is on."""
    label: str
    above: float
    """The answer is yes where the label column is greater."""
    held_out_percent: int = 30


class Records(msgspec.Struct, frozen=True):
    """Records with a known answer."""

    values: Values
    labels: NDArray[np.float64]
    held_out: NDArray[np.bool_]

    def training(self) -> tuple[Values, NDArray[np.float64]]:
        return self.values[~self.held_out], self.labels[~self.held_out]

    def testing(self) -> tuple[Values, NDArray[np.float64]]:
        return self.values[self.held_out], self.labels[self.held_out]


class ClassTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which of a stock model's classes a record is in."""

    id: str
    """As in `Task`."""
    label: str
    """Column with the name of the class."""
    held_out_percent: int = 30


def task(data: Any) -> Task:
    """Checked; names the key that is wrong."""
    return _asked(data, Task)


def class_task(data: Any) -> ClassTask:
    """Checked; names the key that is wrong."""
    return _asked(data, ClassTask)


_Asked = TypeVar("_Asked", Task, ClassTask)


def _asked(data: Any, kind: type[_Asked]) -> _Asked:
    try:
        found = msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise ComputeError(f"task: {error}") from error
    if not 1 <= found.held_out_percent <= 90:
        raise ComputeError(
            f"task: held_out_percent is {found.held_out_percent}, need 1 to 90"
        )
    return found


def records(spec: ModelSpec, question: Task, data: bytes) -> Records:
    """Every record of a CSV file whose label is known."""
    header, rows = read_csv(data)
    for name in (question.id, question.label):
        if name not in header:
            raise ComputeError(f"the table has no column {name!r}")
    label, place = header.index(question.label), header.index(question.id)
    known = [row for row in rows if row[label].strip() not in {"", "NA"}]
    if not known:
        raise ComputeError(f"no record has a value in {question.label!r}")
    try:
        answers = [float(row[label]) > question.above for row in known]
    except ValueError as error:
        raise ComputeError(f"column {question.label!r}: {error}") from error
    return Records(
        parse(spec, header, known),
        np.array(answers, np.float64),
        np.array([is_held_out(row[place], question.held_out_percent) for row in known]),
    )


def read_csv(data: bytes) -> tuple[list[str], list[list[str]]]:
    """Header and rows, at least one; every row as long as the header."""
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8"), newline=""), strict=True)
        header, *rows = reader
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise ComputeError(f"the table is not CSV in UTF-8: {error}") from error
    if not rows:
        raise ComputeError("the table has a header and no record, needs at least one")
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise ComputeError(
                f"line {number} has {len(row)} cells, needs {len(header)}"
            )
    return header, rows


def is_held_out(name: str, percent: int) -> bool:
    """Which side of the split a record is on."""
    # By the record's own name: the same patient is on the same side in every run and at
    # every institution, so that a held-out patient is never trained on elsewhere.
    drawn = hashlib.sha256(b"rexis-held-out" + name.strip().encode()).digest()
    return int.from_bytes(drawn[:8], "big") % 100 < percent


def auc(scores: NDArray[Any], labels: NDArray[np.float64]) -> float | None:
    """Area under the ROC curve, ties counted half; None where one answer is missing."""
    positive, negative = scores[labels > 0.5], scores[labels < 0.5]
    if not len(positive) or not len(negative):
        return None
    order = np.sort(negative)
    below = np.searchsorted(order, positive, "left")
    ties = np.searchsorted(order, positive, "right") - below
    return float((below + 0.5 * ties).mean() / len(negative))
