"""Clipping, and Gaussian noise in the ring (docs/protocol.md §8.1).

A member clips its update to a length of `clip`, rounds it, and adds whole-number noise.  The
noise is a normal variable rounded to the grid; the update is on the grid already, so what is
sent is a rounding of (update + normal noise), and rounding costs no privacy.  Each member's
noise alone is a share: the shares of the honest survivors add up to the noise of the sum.

Chance is a 32-byte seed, stretched by AES-CTR: whoever could guess the noise could take it off.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.aggregate.masks import apply
from protocol.aggregate.ring import (
    Elements,
    Exponents,
    Floats,
    Ring,
    require_blocks,
    spread,
)
from protocol.errors import LocalProtocolError
from protocol.types import KEY_BYTES
from protocol.wire import require_length

_CHUNK = 1 << 16
_UNIT = 2.0**-53


@dataclass(frozen=True)
class Noise:
    """What the members of a run have agreed to, and what a sum is worth then."""

    clip: float
    """Longest update (L2) before weighting."""
    multiplier: float
    """Standard deviation of the sum's noise, in the largest possible weighted update."""
    largest_factor: float
    """The largest `weight_factor` of the epoch."""
    shares: int
    """Honest noises a sum has at least: the fewest survivors, less those that may collude."""

    def check(self) -> None:
        """Raise `LocalProtocolError` where a number makes no sense."""
        if not (self.clip > 0 and self.multiplier > 0 and self.largest_factor > 0):
            raise LocalProtocolError(
                f"clip {self.clip}, multiplier {self.multiplier},"
                f" factor {self.largest_factor}: all must be above 0"
            )
        if self.shares < 1:
            raise LocalProtocolError(f"{self.shares} honest noises in a sum")

    @property
    def deviation(self) -> float:
        """Standard deviation of one member's share, in units of the update."""
        sum_deviation = self.multiplier * self.clip * self.largest_factor
        return sum_deviation / math.sqrt(self.shares)

    def alone(self, factor: float) -> float:
        """A member's multiplier against all others colluding: its own share only."""
        return self.deviation / (self.clip * factor)


def clipped(update: Floats, clip: float) -> Floats:
    """`update`, shortened to a length of `clip` if it is longer."""
    length = math.sqrt(math.fsum(_squares(update)))
    if not math.isfinite(length):
        raise LocalProtocolError("the update holds a number that is not finite")
    if length <= clip:
        return update
    # A hair shorter: float32 may round the product up.
    return (update * np.float32(clip / length * (1 - 2**-20))).astype(np.float32)


def add_noise(
    words: Elements, exponents: Exponents, ring: Ring, noise: Noise, seed: bytes
) -> int:
    """Add one member's share to its rounded update, in place; returns how many were cut.

    Raises `LocalProtocolError` where the noise of a block is finer than its grid: rounded to
    nothing, it would protect nothing.
    """
    noise.check()
    require_blocks(words.size, exponents)
    require_length("noise seed", seed, KEY_BYTES)
    coarsest = math.ldexp(1.0, int(exponents.max())) if exponents.size else 0.0
    if noise.deviation < coarsest:
        raise LocalProtocolError(
            f"noise of {noise.deviation:.3g} is finer than a grid of {coarsest:.3g};"
            " use more input bits"
        )
    cut = 0
    signed = ring.signed(words)
    for at in range(0, words.size, _CHUNK):
        part = signed[at : at + _CHUNK]
        draws = normal(part.size, seed, at) * noise.deviation
        whole = np.rint(np.ldexp(draws, -spread(exponents, at, part.size)))
        noisy = part.astype(np.float64) + whole
        cut += int(np.count_nonzero(np.abs(noisy) > ring.limit))
        np.clip(noisy, -ring.limit, ring.limit, out=noisy)
        part[:] = noisy.astype(part.dtype)
    return cut


def normal(count: int, seed: bytes, start: int) -> NDArray[np.float64]:
    """Standard normal variables `start` and following of a seed (Box and Muller, 1958).

    `start` is even.  The largest value is 8.6: of the tail beyond, 2^-53 of the mass is
    missing.
    """
    pairs = -(-count // 2)
    raw = np.zeros(4 * pairs, "<u4")
    apply(raw, 2 * start, [seed], [])
    uniform = ((raw.view("<u8") >> np.uint64(11)).astype(np.float64) + 1) * _UNIT
    radius = np.sqrt(-2 * np.log(uniform[0::2]))
    angle = 2 * math.pi * uniform[1::2]
    out = np.empty(2 * pairs)
    out[0::2], out[1::2] = radius * np.cos(angle), radius * np.sin(angle)
    return out[:count]


def _squares(update: Floats) -> list[float]:
    parts = range(0, update.size, _CHUNK)
    wide = (update[at : at + _CHUNK].astype(np.float64) for at in parts)
    return [float(np.dot(part, part)) for part in wide]
