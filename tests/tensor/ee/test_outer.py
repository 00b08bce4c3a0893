"""The outer step, against the same formula written with other words, other libraries, no library."""

import struct
from itertools import pairwise

import numpy as np
import pytest
import torch

from ee.errors import EncryptionError
from ee.outer import look_ahead, outer_step

SIZE, ROUNDS = 5000, 6
RATES = [(0.7, 0.9), (1.0, 0.5), (0.1, 1e-6)]


def means():
    """Of every size: subnormal, tiny, ordinary, zero of both signs."""
    draw = np.random.default_rng(5)
    for _ in range(ROUNDS):
        made = draw.standard_normal(SIZE) * 2.0 ** draw.integers(-145, 4, SIZE)
        made = made.astype("<f4")
        made[:50], made[50:100] = 0.0, -0.0
        yield made


def stepped(state, rate, momentum):
    """[(state, velocity)] after each round."""
    velocity, out = np.zeros_like(state), []
    for mean in means():
        velocity, ahead = look_ahead(velocity, mean, momentum=momentum)
        state = outer_step(state, ahead, rate=rate)
        out.append((state, velocity))
    return out


def first():
    return np.random.default_rng(6).standard_normal(SIZE).astype("<f4")


def f4(value):
    """A binary64 rounded to binary32, without numpy."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


@pytest.mark.parametrize(("rate", "momentum"), RATES)
def test_every_operation_is_rounded_by_itself(rate, momentum):
    """Python's binary64: one operation on binary32 values, rounded twice, is rounded once.

    53 bits are more than 2 * 24 + 1, so the first rounding never shows.
    """
    found = stepped(first(), rate, momentum)
    r, m = f4(rate), f4(momentum)
    states, speeds = first().tolist(), [0.0] * SIZE
    for mean, (state, velocity) in zip(means(), found, strict=True):
        for j, g in enumerate(mean.tolist()):
            speeds[j] = f4(f4(m * speeds[j]) + g)
            ahead = f4(f4(m * speeds[j]) + g)
            states[j] = f4(f4(r * ahead) + states[j])
        assert np.array(states, "<f4").tobytes() == state.tobytes()
        assert np.array(speeds, "<f4").tobytes() == velocity.tobytes()


@pytest.mark.parametrize(("rate", "momentum"), RATES)
def test_torch_gives_the_same_bytes(rate, momentum):
    state, velocity = torch.from_numpy(first()), torch.zeros(SIZE)
    for mean, found in zip(means(), stepped(first(), rate, momentum), strict=True):
        g = torch.from_numpy(mean)
        velocity = velocity.mul(np.float32(momentum)).add(g)
        state = velocity.mul(np.float32(momentum)).add(g).mul(np.float32(rate)) + state
        assert state.numpy().tobytes() == found[0].tobytes()
        assert velocity.numpy().tobytes() == found[1].tobytes()


def test_a_fused_or_reordered_step_gives_other_bytes():
    """What the two tests above would not notice if their numbers were too tame."""
    (_, before), (_, after) = stepped(first(), 0.7, 0.9)[-2:]
    *_, mean = means()
    fused = np.float64(np.float32(0.9)) * before + mean
    assert fused.astype("<f4").tobytes() != after.tobytes()
    ahead = np.float32(0.9) * after + mean
    one = first() + np.float32(0.7) * ahead
    other = first() + np.float32(0.7) * mean + np.float32(0.7 * 0.9) * after
    assert one.tobytes() != other.astype("<f4").tobytes()


def test_torchs_own_nesterov_is_the_same_up_to_rounding():
    """Signs and the place of the rate, against an optimiser that thousands use."""
    parameter = torch.nn.Parameter(torch.from_numpy(first()).double())
    optimiser = torch.optim.SGD([parameter], lr=0.7, momentum=0.9, nesterov=True)
    for mean in means():
        parameter.grad = -torch.from_numpy(mean).double()
        optimiser.step()
    state, _ = stepped(first(), 0.7, 0.9)[-1]
    assert np.abs(parameter.detach().numpy() - state).max() < 1e-4


def test_a_mean_that_stays_speeds_up_to_its_limit():
    velocity, mean = np.zeros(3, "<f4"), np.ones(3, "<f4")
    seen = []
    for _ in range(200):
        velocity, ahead = look_ahead(velocity, mean, momentum=0.5)
        seen.append(float(ahead[0]))
    assert seen[0] == 1.5
    assert seen[-1] == 2.0  # 1 / (1 - momentum)
    assert all(one <= other for one, other in pairwise(seen))


@pytest.mark.parametrize("momentum", [-0.1, 0.0, 1.0, 0.99999999, 1.5, float("nan")])
def test_a_momentum_out_of_range_is_refused_by_value(momentum):
    still = np.zeros(2, "<f4")
    with pytest.raises(EncryptionError, match=f"outer momentum is {momentum}, need"):
        look_ahead(still, still, momentum=momentum)


def test_vectors_of_different_lengths_are_refused():
    with pytest.raises(EncryptionError, match=r"velocity \(2,\) and mean \(3,\)"):
        look_ahead(np.zeros(2, "<f4"), np.zeros(3, "<f4"), momentum=0.5)


def test_a_velocity_beyond_binary32_stops_the_step():
    far = np.full(1, 3e38, "<f4")
    with np.errstate(over="ignore"):
        _, ahead = look_ahead(far, far, momentum=0.9)
        with pytest.raises(EncryptionError, match="not finite"):
            outer_step(np.zeros(1, "<f4"), ahead, rate=1.0)
