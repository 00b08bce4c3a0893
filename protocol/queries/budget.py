"""How much ρ a budget of (ε, δ) holds, and what a ρ is worth (docs/queries.md §3).

ρ of several answers adds up.  What it is worth as (ε, δ) is asked of `dp_accounting`: ρ-zCDP is
the Rényi curve of one Gaussian mechanism with a multiplier of 1/√(2ρ).
"""

import math

from protocol.budget import epsilon
from protocol.errors import LocalProtocolError
from protocol.queries.spec import MICRO, SPEND_LIMIT


def epsilon_of(spent: int, delta: float) -> float:
    """ε at `delta` after `spent` millionths of ρ."""
    if spent == 0:
        return 0.0
    return epsilon(1, 1 / math.sqrt(2 * spent / MICRO), delta)


def affordable(budget: float, delta: float) -> int:
    """The most millionths of ρ that are worth at most ε = `budget` at `delta`."""
    if not (0 < budget <= 1000 and 0 < delta < 1):
        raise LocalProtocolError(
            f"budget of epsilon {budget}, delta {delta}; needs 0 < epsilon <= 1000,"
            " 0 < delta < 1"
        )
    low, high = 0, SPEND_LIMIT
    while low < high:
        middle = (low + high + 1) // 2
        if epsilon_of(middle, delta) <= budget:
            low = middle
        else:
            high = middle - 1
    return low
