"""A training as the questions it consists of: each begins where the sum before it led.

One question is asked for each round.  Its weights follow from the questions and sums before it
by float additions and products in a fixed order, so whoever has the answers finds the same
weights, to the bit, and a round that began elsewhere is noticed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from protocol.errors import MalformedMessageError, VerificationError
from protocol.queries.bundle import BUNDLE_LIMIT_BYTES, Bundle
from protocol.queries.models import Linear
from protocol.queries.spec import GRID, ROW, Query
from protocol.wire import Message, decode

TRAINED_LIMIT_BYTES = 1 << 28
"""A hundred rounds of 64 institutions, with their keys."""


class Rounds(Message, frozen=True, tag="query-rounds"):
    """The bundles of a training, in order."""

    bundles: tuple[Bundle, ...]


@dataclass(frozen=True)
class Course:
    """Where a training is after some rounds."""

    weights: tuple[float, ...]
    rows: float
    """Mean over the rounds, whose counts are as noisy as all else."""
    variance: float
    """Of each weight, as the noise alone may have moved it."""


def question(first: Query, number: int, weights: Sequence[float]) -> Query:
    """The round `number` of the training that begins with `first`."""
    assert isinstance(first.model, Linear)
    assert first.fit is not None
    return msgspec.structs.replace(
        first,
        model=msgspec.structs.replace(first.model, weights=tuple(weights)),
        fit=msgspec.structs.replace(first.fit, number=number),
    )


def followed(
    first: Query, sums: Sequence[tuple[Query, NDArray[np.int64], int]]
) -> Course:
    """Where these rounds led: each its question, its total, and of how many answers.

    Raises `VerificationError` for a question that does not follow from those before it.
    """
    assert isinstance(first.model, Linear)
    fit = first.fit
    assert fit is not None
    weights, counts, variance = first.model.weights, 0.0, 0.0
    for number, (query, total, answers) in enumerate(sums):
        if query != question(first, number, weights):
            raise VerificationError(f"round {number} of the training began elsewhere")
        counts += int(total[0]) / ROW
        rows = max(1.0, counts / (number + 1))
        unit = fit.clip / GRID / rows
        weights = tuple(
            weight - fit.rate * (unit * int(step) + fit.ridge * weight)
            for weight, step in zip(weights, total[1:], strict=True)
        )
        # A step of gradient descent on a convex function brings two beginnings no further
        # apart, so no error grows; the ridge makes it smaller.
        kept = (1 - fit.rate * fit.ridge) ** 2
        noise = (fit.rate * unit) ** 2 * answers * float(query.sigma2)
        variance = variance * kept + noise
    return Course(weights, counts / max(1, len(sums)), variance)


def model(first: Query, course: Course, floor: int) -> dict[str, Any]:
    """What a training came to; of fewer rows than `floor` nothing is shown."""
    assert isinstance(first.model, Linear)
    fit = first.fit
    assert fit is not None
    if course.rows < max(1, floor):
        return {"count": None, "rounds": fit.rounds, "model": None}
    return {
        "count": round(course.rows),
        "rounds": fit.rounds,
        "weight_noise_sd": math.sqrt(course.variance),
        "steady": fit.rate <= steady_rate(first.model, fit.ridge),
        "model": {
            "features": [
                {"column": one.column, "low": one.low, "high": one.high}
                for one in first.model.features
            ],
            "label": first.model.label,
            "yes": first.model.yes,
            "weights": list(course.weights),
        },
    }


def steady_rate(linear: Linear, ridge: float) -> float:
    """Up to here a step brings no two beginnings further apart, whatever the rows.

    2 over the steepest that a gradient can be: a quarter of a row's squared length, which is at
    most the number of weights, and the ridge.
    """
    return 2 / (len(linear.weights) / 4 + ridge)


def totals(
    rounds: Sequence[Bundle],
    owners: Mapping[int, bytes],
    manifests: Mapping[int, bytes],
) -> list[tuple[Query, NDArray[np.int64], int]]:
    """Of each bundle its question, its verified total and the number of answers."""
    return [
        (*bundle.totals(owners, manifests), len(bundle.answers)) for bundle in rounds
    ]


def open_rounds(data: bytes) -> tuple[Bundle, ...]:
    """The bundles in a file: all of a training, or the one of any other question."""
    try:
        return decode(data, Rounds, limit_bytes=TRAINED_LIMIT_BYTES).bundles
    except MalformedMessageError:
        return (decode(data, Bundle, limit_bytes=BUNDLE_LIMIT_BYTES),)
