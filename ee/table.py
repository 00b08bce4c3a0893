"""Stem and head: the two ends of the model, which never leave the key holder.

Each column of a record becomes one token, a learned summary token closes the sequence, and
the trunk's last row is scored by one linear map.  The forward pass is written twice on
purpose: in torch for training (`ee.session`), here in numpy for inference, and a test holds
them together.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ee.errors import EncryptionError
from ee.spec import Arrays, Column, ModelSpec

Values = NDArray[np.float64]
"""(records, columns); NaN is missing, a category is the index of its level."""

REACH = 4.0
"""A number is cut to this many scales from its centre: one odd record cannot own the batch."""
RECORDS_AT_MOST = 1_000_000
_MISSING = frozenset({"", "na", "nan", "."})


def parse(
    spec: ModelSpec, header: Sequence[str], rows: Sequence[Sequence[str]]
) -> Values:
    """Text cells to values; an unreadable cell is an error, not a guess.

    The error has its place and never what stands in it, which is a record's: it may be logged.
    """
    if len(rows) > RECORDS_AT_MOST:
        raise EncryptionError(f"{len(rows)} records, limit is {RECORDS_AT_MOST}")
    places = {name: index for index, name in enumerate(header)}
    absent = [column.name for column in spec.columns if column.name not in places]
    if absent:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        raise EncryptionError(
            f"the table has no column {', '.join(map(repr, absent[:3]))}{more}"
        )
    values = np.full((len(rows), len(spec.columns)), np.nan)
    for j, column in enumerate(spec.columns):
        place = places[column.name]
        for i, row in enumerate(rows):
            cell = row[place].strip()
            if cell.lower() not in _MISSING:
                values[i, j] = _value(column, cell, i)
    return values


def _value(column: Column, cell: str, row: int) -> float:
    if column.levels:
        if cell not in column.levels:
            raise EncryptionError(
                f"record {row + 1}: {column.name} is not one of {list(column.levels)}"
            )
        return float(column.levels.index(cell))
    try:
        number = float(cell)
    except ValueError:
        number = np.nan
    if not np.isfinite(number):
        raise EncryptionError(f"record {row + 1}: {column.name} is not a number")
    return number


def scaled(
    spec: ModelSpec, values: Values
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Numbers in public units, missing as 0; and where they were missing."""
    if values.ndim != 2 or values.shape[1] != len(spec.columns):
        raise EncryptionError(
            f"values are {values.shape}, the model has {len(spec.columns)} columns"
        )
    missing = np.isnan(values)
    units = np.where(missing, 0.0, values)
    for j, column in enumerate(spec.columns):
        if column.numeric:
            units[:, j] = (units[:, j] - column.centre) / column.scale
    units = np.where(missing, 0.0, units)
    numeric = np.array([column.numeric for column in spec.columns])
    units[:, numeric] = np.clip(units[:, numeric], -REACH, REACH)
    return units.astype(np.float32), missing


def stem_tokens(spec: ModelSpec, stem: Arrays, values: Values) -> NDArray[np.float32]:
    """(records, columns + 1, width) plain rows; the last is the summary token."""
    units, missing = scaled(spec, values)
    rows = units[:, :, None] * stem["slope"] + stem["place"]
    for j, column in enumerate(spec.columns):
        if not column.numeric:
            level = units[:, j].astype(np.int64)
            rows[:, j] = stem[f"levels.{j}"][level] + stem["place"][j]
    rows = np.where(missing[:, :, None], stem["missing"], rows)
    summary = np.broadcast_to(stem["summary"], (len(units), 1, spec.width))
    return np.concatenate([rows, summary], axis=1).astype(np.float32)


def final_norm(spec: ModelSpec, residual: NDArray[Any]) -> NDArray[Any]:
    """RMS norm without gain, for a trunk that ends with the residual (`ee.integer`)."""
    mean = np.mean(np.square(residual), axis=-1, keepdims=True)
    return residual / np.sqrt(mean + spec.norm_eps)


def head_scores(head: Arrays, last: NDArray[Any]) -> NDArray[np.float32]:
    """(records, width) normed plain rows of the summary token to log-odds.

    Row by row: a product of a matrix and a vector adds up in an order that depends on how many
    rows there are, and then a query's answer would tell of a row by more than its own cell.
    """
    weighed = (last * head["weight"]).sum(axis=-1)
    return np.asarray(weighed + head["bias"][0], np.float32)
