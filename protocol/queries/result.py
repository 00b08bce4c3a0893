"""What a person reads, made of the noisy sum; nothing here sees a record.

A cell below the floor is not shown.  The error of the noise is stated beside each number as one
standard deviation: exact for counts, to first order for what is computed of them.
"""

import math
from collections.abc import Sequence
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
        return _quantiles(query, totals, floor)
    if query.kind == "correlation":
        return _correlation(query, totals, floor)
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


def _quantiles(query: Query, totals: Totals, floor: int) -> dict[str, Any]:
    """Where the running sum of the bins crosses; straight lines within a bin."""
    counts = np.maximum(totals, 0)
    total = int(counts.sum())
    if total < max(1, floor):
        return {"count": None, "quantiles": []}
    starts, sums = edges(query), np.cumsum(counts)
    found = []
    for probability in query.probabilities:
        wanted = probability * total
        place = int(np.searchsorted(sums, wanted))
        before = int(sums[place] - counts[place])
        inside = (wanted - before) / max(1, int(counts[place]))
        width = starts[place + 1] - starts[place]
        found.append(
            {"probability": probability, "value": starts[place] + inside * width}
        )
    return {"count": total, "quantiles": found}


def _correlation(query: Query, totals: Totals, floor: int) -> dict[str, Any]:
    """Pearson's, of the moments; a variance the noise has made vanish gives nothing."""
    sums = dict(zip(moments(len(query.columns)), totals / SCALE, strict=True))
    count = sums[()]
    if count < max(1, floor):
        return {"count": None, "matrix": []}
    places = range(len(query.columns))
    mean = [sums[place,] / count for place in places]

    def covariance(one: int, other: int) -> float:
        low, high = sorted((one, other))
        return float(sums[low, high] / count - mean[one] * mean[other])

    matrix: list[list[float | None]] = []
    for one in places:
        row: list[float | None] = []
        for other in places:
            scale2 = covariance(one, one) * covariance(other, other)
            valid = covariance(one, one) > 0 and covariance(other, other) > 0
            value = covariance(one, other) / math.sqrt(scale2) if valid else None
            row.append(None if value is None else min(1.0, max(-1.0, value)))
        matrix.append(row)
    return {"count": round(count), "matrix": matrix}


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
