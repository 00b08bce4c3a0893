"""The outer step: what every member does with the mean update, to the same bits.

Elementwise float32 operations in one order: IEEE arithmetic gives every machine the same
result, which is what lets a state root be compared at all.
"""

import numpy as np

from ee.errors import EncryptionError
from ee.spec import Vector


def outer_step(state: Vector, mean: Vector, *, rate: float = 1.0) -> Vector:
    """The new state; rate 1 is federated averaging."""
    if state.shape != mean.shape:
        raise EncryptionError(f"state {state.shape} and mean {mean.shape} differ")
    if not 0 < rate <= 2:
        raise EncryptionError(f"outer rate is {rate}, need more than 0 and at most 2")
    stepped = np.float32(rate) * mean
    stepped += state
    if not bool(np.all(np.isfinite(stepped))):
        raise EncryptionError("the stepped state holds a number that is not finite")
    return stepped


def look_ahead(
    velocity: Vector, mean: Vector, *, momentum: float
) -> tuple[Vector, Vector]:
    """(next velocity, what the step takes in place of the mean): Nesterov's momentum.

    Four operations an entry, each rounded by itself: a fused multiply-add rounds once where
    two operations round twice, and gives other bytes.
    """
    if velocity.shape != mean.shape:
        raise EncryptionError(f"velocity {velocity.shape} and mean {mean.shape} differ")
    factor = np.float32(momentum)
    if not 0 < factor < 1:
        raise EncryptionError(
            f"outer momentum is {momentum}, need more than 0 and less than 1"
        )
    following = factor * velocity
    following += mean
    ahead = factor * following
    ahead += mean
    return following, ahead
