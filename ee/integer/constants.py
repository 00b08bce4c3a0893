"""What a stock configuration's real numbers become in an integer trunk, of either op-spec."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ee.integer import spec
from ee.integer.errors import IntegerModelError
from ee.integer.trunk import TrunkConfig


def norm_bias(epsilon: float, width: int, residual_bits: int) -> int:
    """E: a norm's epsilon in squared units of the residual, times the width."""
    return max(1, round(math.ldexp(epsilon * width, 2 * residual_bits)))


def score_multiplier(head_dim: int) -> int:
    """M: log2(e) / sqrt(head_dim) in units of 2^-22, since EXP is of base 2."""
    return round(math.ldexp(math.log2(math.e), 22) / head_dim**0.5)


def rope_base(config: Mapping[str, Any]) -> float:
    """The base of the RoPE frequencies; scaled and partial ones are refused."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default" or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise IntegerModelError(f"rope of type {kind!r} is not supported")
    return float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0)


def rope_tables(
    config: TrunkConfig, base: float
) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Committed as bytes, so a last-bit difference of a `cos` here harms nobody."""
    half = config.head_dim // 2
    frequency = base ** (-np.arange(half, dtype=np.float64) / half)
    angle = np.arange(config.tokens, dtype=np.float64)[:, None] * frequency
    unit = 1 << spec.ROPE_BITS
    cos, sin = np.rint(np.cos(angle) * unit), np.rint(np.sin(angle) * unit)
    return cos.astype(np.int16), sin.astype(np.int16)
