"""The discrete Gaussian, exactly (Canonne, Kamath and Steinke 2020, algorithms 1 to 3).

Integers and fractions only: no float is rounded where an attacker could look at its last bits.
Of one record it says as little as the continuous Gaussian of the same variance: ρ-zCDP with
ρ = reach² / (2σ²) (their theorem 4).  Chance is an argument: `below(n)` is uniform on 0…n-1.
"""

from collections.abc import Callable
from fractions import Fraction
from math import isqrt

Below = Callable[[int], int]


def discrete_gaussian(sigma2: Fraction, below: Below) -> int:
    """One draw of variance about `sigma2`, around 0."""
    scale = isqrt(sigma2.numerator // sigma2.denominator) + 1
    while True:
        candidate = _laplace(scale, below)
        distance = abs(candidate) - sigma2 / scale
        if _bernoulli_exp(distance * distance / (2 * sigma2), below):
            return candidate


def _laplace(scale: int, below: Below) -> int:
    """Integers with weight exp(-|x| / scale)."""
    while True:
        low = below(scale)
        if not _bernoulli_exp(Fraction(low, scale), below):
            continue
        high = 0
        while _bernoulli_exp(Fraction(1), below):
            high += 1
        size, negative = low + scale * high, below(2) == 1
        if not (negative and size == 0):
            return -size if negative else size


def _bernoulli_exp(gamma: Fraction, below: Below) -> bool:
    """True with probability exp(-gamma)."""
    while gamma > 1:
        if not _bernoulli_exp(Fraction(1), below):
            return False
        gamma -= 1
    count = 1
    while _bernoulli(gamma / count, below):
        count += 1
    return count % 2 == 1


def _bernoulli(chance: Fraction, below: Below) -> bool:
    return below(chance.denominator) < chance.numerator
