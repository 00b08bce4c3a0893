"""From rows to the exact vector of a query: this never leaves the institution's sandbox.

A row takes part if it meets every condition and has a value where the query needs one; a
value that is no number, or is empty, is no value.  Nothing here depends on the order of rows.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.errors import MalformedMessageError
from protocol.queries import gradient
from protocol.queries.gradient import number
from protocol.queries.models import Linear
from protocol.queries.spec import SCALE, Query, cells, curve_cells, edges, moments

Rows = Sequence[Mapping[str, str]]
Vector = NDArray[np.int64]


def vector(query: Query, rows: Rows, columns: Sequence[str]) -> Vector:
    """The sum over all rows; `columns` are what the table has."""
    missing = sorted(set(query.needed) - set(columns))
    if missing:
        raise MalformedMessageError(f"the dataset has no column {missing[0]!r}")
    taken = meeting(query, rows)
    if isinstance(query.model, Linear):
        inputs, yes = gradient.inputs(query.model, taken)
        if query.fit is not None:
            return gradient.vector(query.model, query.fit, inputs, yes)
        return scored(query, gradient.log_odds(query.model, inputs), yes)
    out = np.zeros(cells(query), np.int64)
    if query.kind == "count":
        out[0] = len(taken)
    elif query.kind == "correlation":
        _moments(query, taken, out)
    elif query.kind == "survival":
        _survival(query, taken, out)
    elif query.levels:
        _levels(query, taken, out)
    else:
        _bins(query, taken, out)
    return out


def meeting(query: Query, rows: Rows) -> Rows:
    """The rows that meet every condition."""
    return [
        row for row in rows if all(row[one.column] == one.value for one in query.where)
    ]


def scored(query: Query, log_odds: NDArray[Any], yes: NDArray[np.bool_]) -> Vector:
    """Of an evaluation: rows by their log-odds, those without the answer first."""
    starts = np.array(edges(query)[:-1])
    places = np.searchsorted(starts, log_odds, side="right") - 1
    places = np.clip(places, 0, query.bins - 1) + np.where(yes, query.bins, 0)
    return np.bincount(places, minlength=cells(query)).astype(np.int64)


def _place(query: Query, starts: list[float], value: float) -> int:
    """The bin of a value; outside, the nearest."""
    place = int(np.searchsorted(starts, value, side="right")) - 1
    return min(max(place, 0), query.bins - 1)


def _bins(query: Query, rows: Rows, out: Vector) -> None:
    starts = edges(query)[:-1]
    for row in rows:
        value = number(row[query.columns[0]])
        if value is not None:
            out[_place(query, starts, value)] += 1


def _levels(query: Query, rows: Rows, out: Vector) -> None:
    place = {level: index for index, level in enumerate(query.levels)}
    for row in rows:
        at = place.get(row[query.columns[0]])
        if at is not None:
            out[at] += 1


def _survival(query: Query, rows: Rows, out: Vector) -> None:
    time_column, event_column, *group = query.columns
    place = {level: index for index, level in enumerate(query.levels)}
    starts, size = edges(query)[:-1], curve_cells(query)
    for row in rows:
        value, seen = number(row[time_column]), row[event_column]
        at = place.get(row[group[0]]) if group else 0
        if value is None or not seen or at is None:
            continue
        if value >= query.high:
            cell = size - 1
        else:
            cell = _place(query, starts, value)
            cell += 0 if seen == query.event else query.bins
        out[at * size + cell] += 1


def _moments(query: Query, rows: Rows, out: Vector) -> None:
    """Values are moved to [-1, 1], so that one row reaches as far as any other."""
    middle, half = (query.low + query.high) / 2, (query.high - query.low) / 2
    products = moments(len(query.columns))
    for row in rows:
        values = [number(row[column]) for column in query.columns]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            continue
        scaled = [min(1.0, max(-1.0, (value - middle) / half)) for value in known]
        for cell, product in enumerate(products):
            out[cell] += round(SCALE * math.prod(scaled[place] for place in product))
