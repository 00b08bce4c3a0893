"""Rows under weights: log-odds, and gradients so short that one row moves no sum far.

A row's gradient of the logistic loss is (probability - answer) times the row.  Shortening it to
`clip` shortens its first factor, which still grows with the log-odds; so what is descended is a
convex function whatever the rows are, and a wrong row pulls no harder than any other.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from protocol.queries.models import Fit, Linear
from protocol.queries.spec import GRID, ROW

Floats = NDArray[np.float64]


def number(text: str) -> float | None:
    """A finite number, or nothing."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def inputs(
    model: Linear, rows: Sequence[Mapping[str, str]]
) -> tuple[Floats, NDArray[np.bool_]]:
    """(rows, weights) with 1 before the features, and which rows hold the answer.

    A row lacking a number or its label takes no part.
    """
    kept, answers = [], []
    for row in rows:
        values = [number(row[one.column]) for one in model.features]
        known = [value for value in values if value is not None]
        if len(known) < len(values) or not row[model.label]:
            continue
        kept.append(known)
        answers.append(row[model.label] == model.yes)
    table = np.array(kept, np.float64).reshape(len(kept), len(model.features))
    low = np.array([one.low for one in model.features])
    width = np.array([one.high - one.low for one in model.features])
    # Cut before it is scaled, or a huge cell would become no number.
    inside = np.clip(table, low, low + width)
    scaled = np.clip(2 * (inside - low) / width - 1, -1.0, 1.0)
    ones = np.ones((len(kept), 1))
    return np.hstack([ones, scaled]), np.array(answers, np.bool_)


def log_odds(model: Linear, rows: Floats) -> Floats:
    """Of each row; column by column, so that it does not depend on the other rows."""
    total = np.zeros(len(rows))
    for place, weight in enumerate(model.weights):
        total += rows[:, place] * weight
    return total


def vector(
    model: Linear, fit: Fit, rows: Floats, yes: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """How many rows there are, in `ROW`s, and the sum of their gradients, in clip / `GRID`."""
    chances = 0.5 * (1 + np.tanh(log_odds(model, rows) / 2))
    slopes = (chances - yes)[:, None] * rows
    lengths = np.sqrt((slopes**2).sum(axis=1, keepdims=True))
    short = slopes * (GRID / np.maximum(lengths, fit.clip))
    # Towards 0, which makes nothing longer; what a float has made too long is cut further.
    steps = np.trunc(short).astype(np.int64)
    while (long := (steps**2).sum(axis=1) > GRID**2).any():
        steps[long] -= np.sign(steps[long])
    return np.concatenate([[ROW * len(rows)], steps.sum(axis=0)]).astype(np.int64)
