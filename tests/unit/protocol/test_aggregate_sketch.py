import numpy as np
import pytest

from protocol.aggregate import masks, sketch
from protocol.aggregate.ring import Ring
from protocol.errors import LocalProtocolError

RING, SEED, LENGTH = Ring(16, 8), bytes(range(32)), 70_000
CHANCE = np.random.default_rng(1)


def update(scale: float = 25.0) -> np.ndarray:
    values = np.clip(np.rint(CHANCE.normal(size=LENGTH) * scale), -127, 127)
    return values.astype("<i2").view("<u2").copy()


def measured(words: np.ndarray) -> np.ndarray:
    functionals = sketch.of_update(sketch.sketches(words, RING, SEED), [], [], RING)
    return sketch.lengths(functionals)


def test_functionals_come_through_masks_exactly():
    words = update()
    plain = sketch.of_update(sketch.sketches(words, RING, SEED), [], [], RING)
    keys = [bytes([i]) * 32 for i in range(3)]
    masked = words.copy()
    masks.apply(masked, 0, keys[:2], keys[2:])
    of = [sketch.of_mask(key, LENGTH, RING, SEED) for key in keys]
    through = sketch.of_update(
        sketch.sketches(masked, RING, SEED), of[:2], of[2:], RING
    )
    np.testing.assert_array_equal(through, plain)
    wrong = sketch.of_update(sketch.sketches(masked, RING, SEED), of[:1], of[2:], RING)
    assert not np.array_equal(wrong, plain)


def test_a_coefficient_is_minus_one_nought_or_one_in_the_right_shares():
    signs = sketch._coefficients(bytes(32), 0, 8192)
    assert set(np.unique(signs)) == {-1.0, 0.0, 1.0}
    assert abs((signs == 0).mean() - 0.5) < 0.01
    assert abs(signs.mean()) < 0.01


def test_lengths_are_estimated_to_a_third():
    words = update()
    true = np.linalg.norm(RING.signed(words)[: sketch.SKETCH_BLOCK].astype(float))
    assert abs(measured(words)[0] / true - 1) < 0.33


@pytest.mark.parametrize(
    "change",
    [
        lambda w: (RING.signed(w) * 3).view("<u2"),
        lambda w: np.concatenate([w[:5] + np.uint16(1 << 15), w[5:]]),
        lambda w: CHANCE.integers(0, 1 << 16, LENGTH).astype("<u2"),
    ],
    ids=["three times as long", "top bits", "noise over the ring"],
)
def test_an_update_that_is_too_long_stands_out(change):
    lengths = {bytes([i]): measured(update()) for i in range(5)}
    assert sketch.suspects(lengths) == {}
    lengths[b"odd"] = measured(change(update()))
    assert list(sketch.suspects(lengths)) == [b"odd"]


def test_plain_signs_would_miss_two_top_bits():
    """Why there are noughts: in the ring, both signs of the top bit are the same."""
    signs = CHANCE.choice([-1, 1], size=(32, 2))
    assert not ((signs * (1 << 15)).sum(axis=1) % (1 << 16)).any()


def test_two_members_have_no_median_to_be_judged_by():
    with pytest.raises(LocalProtocolError, match="typical"):
        sketch.suspects({b"a": np.ones(1), b"b": np.ones(1)})
