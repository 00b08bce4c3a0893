"""How good a model is, from its scores' histograms: one for each answer, with their noise.

All of it is made of the same 2 x bins noisy counts.  What the noise may have done is stated as
one standard deviation, to first order; what is lost because a bin holds many scores is stated
as the two ends it must lie between.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.queries.spec import Query, edges

Floats = NDArray[np.float64]


def read(
    query: Query, totals: NDArray[np.int64], sd: float, floor: int
) -> dict[str, Any]:
    """Area under the curve, accuracy at even odds, loss, calibration; `sd` of one cell.

    Nothing is said where one of the two answers has fewer rows than `floor`.
    """
    no, yes = totals[: query.bins].astype(float), totals[query.bins :].astype(float)
    if min(no.sum(), yes.sum()) < max(1, floor):
        return {"count": None, "yes": None}
    return {
        "count": round(no.sum() + yes.sum()),
        "yes": round(yes.sum()),
        "auc": _area(no, yes, sd),
        "accuracy": _accuracy(no, yes, sd),
        "loss": _loss(query, no, yes, sd),
        "calibration": _calibration(query, no, yes, floor),
    }


def _area(no: Floats, yes: Floats, sd: float) -> dict[str, float]:
    """Of all pairs of a yes and a no, how many the model puts in order; a tie counts half."""
    below = np.cumsum(no) - no
    above = yes.sum() - np.cumsum(yes)
    pairs = float(no.sum() * yes.sum())
    ties = float((yes * no).sum()) / pairs
    found = float((yes * below).sum()) / pairs + ties / 2
    of_yes = (below + no / 2) / pairs - found / yes.sum()
    of_no = (above + yes / 2) / pairs - found / no.sum()
    noise = sd * math.sqrt(float((of_yes**2).sum() + (of_no**2).sum()))
    value = min(1.0, max(0.0, found))
    return {
        "value": value,
        "low": found - ties / 2,
        "high": found + ties / 2,
        "noise_sd": noise,
        "sampling_sd": _sampling(value, float(no.sum()), float(yes.sum())),
    }


def _sampling(area: float, no: float, yes: float) -> float:
    """What another sample of as many patients would move it by (Hanley and McNeil 1982)."""
    one, two = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area)
    spread += (yes - 1) * (one - area**2) + (no - 1) * (two - area**2)
    return math.sqrt(max(0.0, spread) / (no * yes))


def _accuracy(no: Floats, yes: Floats, sd: float) -> dict[str, float]:
    """Rows on the right side of even odds."""
    half, total = len(no) // 2, float(no.sum() + yes.sum())
    found = float(no[:half].sum() + yes[half:].sum()) / total
    # A right cell moves it by (1 - found) / total, a wrong one by -found / total.
    noise = sd * math.sqrt(len(no) * ((1 - found) ** 2 + found**2)) / total
    return {"value": min(1.0, max(0.0, found)), "noise_sd": noise}


def _loss(query: Query, no: Floats, yes: Floats, sd: float) -> dict[str, float]:
    """Mean of -log(probability of what was), of log-odds cut to the range of the bins."""
    ends = np.array(edges(query))
    total = float(no.sum() + yes.sum())

    def mean(of_no: Floats, of_yes: Floats) -> float:
        losses = no * np.logaddexp(0, of_no) + yes * np.logaddexp(0, -of_yes)
        return float(losses.sum()) / total

    middle = (ends[1:] + ends[:-1]) / 2
    found = mean(middle, middle)
    slopes = np.concatenate([np.logaddexp(0, middle), np.logaddexp(0, -middle)]) - found
    return {
        "value": found,
        "low": mean(ends[:-1], ends[1:]),
        "high": mean(ends[1:], ends[:-1]),
        "noise_sd": sd * float(np.sqrt((slopes**2).sum())) / total,
    }


def _calibration(
    query: Query, no: Floats, yes: Floats, floor: int
) -> list[dict[str, Any]]:
    """Of each bin the probabilities it stands for, and the share that was; none of few rows."""
    ends = 0.5 * (1 + np.tanh(np.array(edges(query)) / 2))
    rows = []
    for place in range(query.bins):
        count = float(no[place] + yes[place])
        shown = count >= max(1, floor)
        rows.append(
            {
                "from": float(ends[place]),
                "to": float(ends[place + 1]),
                "count": round(count) if shown else None,
                "share": min(1.0, max(0.0, float(yes[place]) / count))
                if shown
                else None,
            }
        )
    return rows
