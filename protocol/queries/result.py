"""What a person reads, made of the noisy sum; nothing here sees a record.

A cell below the floor is not shown.  The error of the noise is stated beside each number as one
standard deviation: exact for counts, to first order for what is computed of them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.queries import scores
from protocol.queries.spec import ROW, SCALE, Query, cells, curve_cells, edges, moments

Totals = NDArray[np.int64]


def noise_sd(query: Query, answers: int) -> float:
    """Standard deviation of one cell of the sum of `answers` vectors."""
    return math.sqrt(answers * float(query.sigma2))


def read(query: Query, totals: Totals, answers: int, floor: int) -> dict[str, Any]:
    """The result of `query` over the sum of `answers` answers."""
    sd = noise_sd(query, answers)
    if query.kind == "count":
        return {"count": _shown(int(totals[0]), floor)}
    if query.kind == "histogram":
        return {"bins": _histogram(query, totals, floor)}
    if query.kind == "quantiles":
        return quantiles(query, totals, sd, floor)
    if query.kind == "correlation":
        return correlation(query, totals, sd, floor)
    if query.kind == "evaluation":
        return scores.read(query, totals, sd, floor)
    if query.kind == "training":
        # One round alone; what all came to is in `protocol.queries.fitting`.
        return {"count": _shown(round(int(totals[0]) / ROW), floor)}
    size = curve_cells(query)
    parts = [totals[at : at + size] for at in range(0, cells(query), size)]
    groups = query.levels or ("",)
    return {
        "curves": [
            {"group": group, "points": curve(query, part, sd, floor)}
            for group, part in zip(groups, parts, strict=True)
        ]
    }


def _shown(count: int, floor: int) -> int | None:
    return count if count >= floor else None


def _histogram(query: Query, totals: Totals, floor: int) -> list[dict[str, Any]]:
    if query.levels:
        return [
            {"level": level, "count": _shown(int(count), floor)}
            for level, count in zip(query.levels, totals, strict=True)
        ]
    starts = edges(query)
    return [
        {"from": low, "to": high, "count": _shown(int(count), floor)}
        for low, high, count in zip(starts, starts[1:], totals, strict=False)
    ]


def quantiles(query: Query, totals: Totals, sd: float, floor: int) -> dict[str, Any]:
    """Where the running sum of the bins crosses; straight lines within a bin."""
    counts = totals.astype(float)
    total = float(counts.sum())
    if total < max(1, floor):
        return {"count": None, "quantiles": []}
    starts, sums = np.array(edges(query)), np.concatenate(([0.0], _rising(counts)))
    found = []
    for probability in query.probabilities:
        value = float(_crossing(probability * total, sums, starts))
        before = int(np.searchsorted(starts[1:], value, side="right"))
        # Of the running sum here less its share of the whole: cells before, and the others.
        off = sd * math.sqrt(
            before * (1 - probability) ** 2 + (query.bins - before) * probability**2
        )
        low, high = (
            float(_crossing(probability * total + by, sums, starts))
            for by in (-off, off)
        )
        found.append(
            {"probability": probability, "value": value, "noise_sd": (high - low) / 2}
        )
    return {"count": round(total), "quantiles": found}


def _rising(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The running sum of noisy cells, made to rise.

    In the middle of the least curve that rises above it and the greatest below: cells cut at 0
    one by one would push every quantile towards where the empty cells are.
    """
    sums = np.cumsum(counts)
    above = np.maximum.accumulate(sums)
    below = np.minimum.accumulate(sums[::-1])[::-1]
    return (above + below) / 2


def _crossing(
    wanted: float, sums: NDArray[np.float64], starts: NDArray[np.float64]
) -> float:
    place = int(np.searchsorted(sums[1:], wanted))
    if place == sums.size - 1:
        return float(starts[-1])
    inside = wanted - sums[place]
    share = inside / max(1.0, sums[place + 1] - sums[place])
    return float(
        starts[place] + min(1.0, max(0.0, share)) * (starts[place + 1] - starts[place])
    )


def correlation(query: Query, totals: Totals, sd: float, floor: int) -> dict[str, Any]:
    """Pearson's, of the moments; a variance the noise has made vanish gives nothing."""
    sums = dict(zip(moments(len(query.columns)), totals / SCALE, strict=True))
    count = float(sums[()])
    if count < max(1, floor):
        return {"count": None, "matrix": [], "noise_sd": []}
    places = range(len(query.columns))
    mean = [float(sums[place,]) / count for place in places]
    found = [
        [_pearson(sums, mean, count, *sorted((one, other))) for other in places]
        for one in places
    ]
    return {
        "count": round(count),
        "matrix": [
            [None if each is None else each[0] for each in row] for row in found
        ],
        "noise_sd": [
            [None if each is None else sd / SCALE * each[1] for each in row]
            for row in found
        ],
    }


def _pearson(
    sums: Mapping[tuple[int, ...], float],
    mean: Sequence[float],
    count: float,
    one: int,
    other: int,
) -> tuple[float, float] | None:
    """The correlation of two columns, and how far noise of 1 in every moment moves it."""
    x, y = mean[one], mean[other]
    xx = float(sums[one, one]) / count - x * x
    yy = float(sums[other, other]) / count - y * y
    if xx <= 0 or yy <= 0:
        return None
    if one == other:
        return 1.0, 0.0
    both = math.sqrt(xx * yy)
    r = (float(sums[one, other]) / count - x * y) / both
    # The slopes of r along each moment, times the count: the products, the squares, the sums,
    # and the count itself.
    slopes = (
        1 / both,
        -r / (2 * xx),
        -r / (2 * yy),
        r * x / xx - y / both,
        r * y / yy - x / both,
        x * y / both - r / 2 * (x * x / xx + y * y / yy),
    )
    return min(1.0, max(-1.0, r)), math.hypot(*slopes) / count


def curve(query: Query, part: Totals, sd: float, floor: int) -> list[dict[str, Any]]:
    """Kaplan and Meier's estimate at the end of each bin, as long as `floor` are at risk.

    Losses of a bin are taken to come after its events, which is exact where a bin holds one
    time of event or loss.
    """
    bins = query.bins
    events, losses = part[:bins].astype(float), part[bins : 2 * bins].astype(float)
    at_risk = np.cumsum((events + losses)[::-1])[::-1] + float(part[-1])
    events = np.clip(events, 0, np.maximum(at_risk, 0))
    points, survival = [], 1.0
    slopes: list[float] = []
    own: list[float] = []
    for place, end in enumerate(edges(query)[1:]):
        risk, died = float(at_risk[place]), float(events[place])
        if risk < max(1, floor) or risk <= died:
            break
        survival *= 1 - died / risk
        # d log S / d(anyone still there) and d log S / d(an event here).
        slopes.append(died / (risk * (risk - died)))
        own.append(1 / (risk - died))
        points.append(
            {
                "time": end,
                "survival": survival,
                "at_risk": round(risk),
                "noise_sd": survival * sd * math.sqrt(_variance(slopes, own, bins)),
            }
        )
    return points


def _variance(slopes: Sequence[float], own: Sequence[float], bins: int) -> float:
    """Of log S at the last of these points, for noise of variance 1 in each cell."""
    total, running = 0.0, 0.0
    for slope, step in zip(slopes, own, strict=True):
        running += slope
        total += (running - step) ** 2 + running**2
    # Cells of later bins, and of whoever is there after, count among those at risk.
    return total + (2 * (bins - len(slopes)) + 1) * running**2
