"""The outer optimiser: what every member does with the mean update, to the same bits.

Elementwise float32 operations in one order: IEEE arithmetic gives every machine the same
result, which is what lets a state root be compared at all.  Source: DiLoCo (Douillard and
others, 2023), Nesterov momentum over the members' mean change.
"""

import numpy as np

from ee.errors import EncryptionError
from ee.spec import Vector


def outer_step(
    state: Vector,
    mean: Vector,
    momentum: Vector,
    *,
    rate: float = 1.0,
    beta: float = 0.0,
) -> tuple[Vector, Vector]:
    """New state and momentum; beta 0 and rate 1 is plain federated averaging."""
    if not state.shape == mean.shape == momentum.shape:
        raise EncryptionError(
            f"state {state.shape}, mean {mean.shape} and momentum {momentum.shape} differ"
        )
    if not bool(np.all(np.isfinite(mean))):
        raise EncryptionError("the mean update holds a number that is not finite")
    moved = np.float32(beta) * momentum + mean
    ahead = np.float32(beta) * moved + mean
    return state + np.float32(rate) * ahead, moved
