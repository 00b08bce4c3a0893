import math

import numpy as np
import pytest

from protocol.aggregate.noise import Noise, add_noise, clipped, normal
from protocol.aggregate.ring import Ring, blocks
from protocol.budget import Budget, epsilon
from protocol.errors import LocalProtocolError

RING = Ring(32, 24)
SEED = bytes(range(32))


def scales(length: int, exponent: int = -12) -> np.ndarray:
    return np.full(blocks(length), exponent, np.int8)


def test_clipping_shortens_what_is_too_long_and_nothing_else():
    update = np.random.default_rng(0).normal(size=100_000).astype("f4")
    short = clipped(update, 3.0)
    assert np.linalg.norm(short.astype("f8")) <= 3.0
    assert np.linalg.norm(short.astype("f8")) > 2.999
    assert clipped(short, 3.0) is short
    with pytest.raises(LocalProtocolError, match="finite"):
        clipped(np.array([np.inf], "f4"), 1.0)


def test_the_noise_is_normal_and_any_stretch_of_it_is_the_same():
    draws = normal(200_001, SEED, 0)
    assert abs(draws.mean()) < 0.01
    assert abs(draws.std() - 1) < 0.01
    assert abs((np.abs(draws) > 2).mean() - 0.0455) < 0.003
    assert abs((draws**4).mean() - 3) < 0.1
    np.testing.assert_array_equal(normal(1000, SEED, 4000), draws[4000:5000])
    assert not np.array_equal(normal(1000, bytes(32), 0), draws[:1000])


def test_honest_shares_add_up_to_the_noise_of_the_sum():
    noise = Noise(clip=1.0, multiplier=2.0, largest_factor=1.5, shares=4)
    length, total = 50_000, np.zeros(50_000)
    for member in range(4):
        words = np.zeros(length, RING.dtype)
        assert add_noise(words, scales(length), RING, noise, bytes([member]) * 32) == 0
        total += RING.signed(words).astype("f8") * 2.0**-12
    assert abs(total.std() / (2.0 * 1.0 * 1.5) - 1) < 0.02
    # One noise too few, or a noise that depends on the number here, would show.
    assert abs(noise.deviation - 1.5) < 1e-12


def test_noise_finer_than_the_grid_is_refused():
    noise = Noise(clip=1e-6, multiplier=1.0, largest_factor=1.0, shares=1)
    with pytest.raises(LocalProtocolError, match="finer than a grid"):
        add_noise(np.zeros(10, RING.dtype), scales(10), RING, noise, SEED)


def test_noise_that_leaves_the_range_is_cut_and_counted():
    narrow = Ring(16, 4)
    noise = Noise(clip=1.0, multiplier=100.0, largest_factor=1.0, shares=1)
    words = np.zeros(1000, narrow.dtype)
    assert add_noise(words, scales(1000, 0), narrow, noise, SEED) > 500
    assert int(np.abs(narrow.signed(words)).max()) == narrow.limit


def test_a_member_alone_is_worth_less_than_the_sum():
    noise = Noise(clip=1.0, multiplier=4.0, largest_factor=1.0, shares=4)
    assert noise.alone(1.0) == pytest.approx(2.0)


@pytest.mark.slow
def test_epsilon_of_one_gaussian_is_the_textbook_one():
    # Balle and Wang 2018: the exact delta of a Gaussian mechanism.
    def delta(eps: float, sigma: float) -> float:
        def phi(x: float) -> float:
            return 0.5 * (1 + math.erf(x / math.sqrt(2)))

        a = 0.5 / sigma
        return phi(a - eps * sigma) - math.exp(eps) * phi(-a - eps * sigma)

    found = epsilon(1, 4.0, 1e-5)
    assert delta(found, 4.0) <= 1e-5  # an upper bound
    assert delta(found * 0.8, 4.0) > 1e-5  # and not a wild one


def test_a_budget_ends_a_run():
    budget = Budget(epsilon=8.0, delta=1e-5)
    rounds = budget.sums(6.0)
    assert rounds > 0
    assert budget.allows(rounds, 6.0)
    assert not budget.allows(rounds + 1, 6.0)
    spent = budget.spent(rounds, 6.0)
    assert spent.member < spent.record <= 8.0
    assert budget.spent(0, 6.0).record == 0.0
    with pytest.raises(LocalProtocolError, match="budget"):
        Budget(0, 1e-5).check()
