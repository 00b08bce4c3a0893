import numpy as np
import pytest

from protocol.aggregate import masks, sketch
from protocol.aggregate.ring import Ring

RING, SEED, LENGTH = Ring(16, 8), bytes(range(32)), 140_000
CHANCE = np.random.default_rng(1)


def update(scale: float = 25.0) -> np.ndarray:
    values = np.clip(np.rint(CHANCE.normal(size=LENGTH) * scale), -127, 127)
    return values.astype("<i2").view("<u2").copy()


def sketched(words: np.ndarray, seed: bytes = SEED) -> np.ndarray:
    (found,) = sketch.sketches([[words]], [], words.size, RING, seed)
    return found


def test_functionals_come_through_masks_exactly():
    words = update()
    plain = sketch.of_update(sketched(words), [], [], RING)
    keys = [bytes([i]) * 32 for i in range(3)]
    masked = words.copy()
    masks.apply(masked, 0, keys[:2], keys[2:])
    whole, *of = sketch.sketches([[masked]], keys, LENGTH, RING, SEED)
    through = sketch.of_update(whole, of[:2], of[2:], RING)
    np.testing.assert_array_equal(through, plain)
    wrong = sketch.of_update(whole, of[:1], of[2:], RING)
    assert not np.array_equal(wrong, plain)


def test_how_a_vector_is_cut_does_not_matter():
    words = update()
    cut = np.split(words, [0, 5, 8192, 8193, 70_000])
    (found,) = sketch.sketches([cut], [], LENGTH, RING, SEED)
    np.testing.assert_array_equal(found, sketched(words))
    assert not np.array_equal(found, sketched(words, bytes(32)))


def test_the_last_block_takes_what_is_left():
    words = np.zeros(LENGTH, "<u2")
    words[-1] = 1  # entry 139,999 of blocks that begin at 0 and 65,536
    first, last = sketched(words)
    assert not first.any()
    assert last.any()


@pytest.mark.parametrize(
    ("length", "bits", "rows"),
    [
        (2047, 8, 0),  # 32 functionals would tell too much of it
        (2048, 8, 1),
        (65_536, 8, 1),
        (131_071, 8, 1),
        (131_072, 8, 2),
        (131_072, 9, 8),  # an entry of 9 bits leaves a smaller block room in the ring
        (131_072, 11, 0),  # so small a block would be told of in full
    ],
)
def test_blocks_are_long_enough_to_hide_and_short_enough_not_to_wrap(
    length, bits, rows
):
    assert sketch.rows(length, Ring(16, bits)) == rows


@pytest.mark.parametrize("ring", [Ring(16, 8), Ring(16, 9), Ring(16, 10)])
def test_an_update_of_usual_size_does_not_wrap(ring):
    """Scales leave entries six times their root-mean-square; the longest block is the last."""
    size = 2 * sketch.block_entries(ring) - 1
    values = CHANCE.normal(size=size) * ring.limit / 6
    words = np.rint(np.clip(values, -ring.limit, ring.limit)).astype("<i2").view("<u2")
    (found,) = sketch.sketches([[words]], [], size, ring, SEED)
    functionals = sketch.of_update(found, [], [], ring)
    true = np.linalg.norm(ring.signed(words).astype(float))
    assert abs(sketch.lengths(functionals)[0] / true - 1) < 0.35


def test_a_coefficient_is_minus_one_nought_or_one_in_the_right_shares():
    signs = sketch._coefficients(bytes(32), 0, 8192)
    assert set(np.unique(signs)) == {-1.0, 0.0, 1.0}
    assert abs((signs == 0).mean() - 0.5) < 0.01
    assert abs(signs.mean()) < 0.01


def test_plain_signs_would_miss_two_top_bits():
    """Why there are noughts: in the ring, both signs of the top bit are the same."""
    signs = CHANCE.choice([-1, 1], size=(32, 2))
    assert not ((signs * (1 << 15)).sum(axis=1) % (1 << 16)).any()


def test_what_is_packed_comes_out_and_another_size_does_not():
    several = sketch.sketches([[update()], [update()]], [], LENGTH, RING, SEED)
    packed = sketch.pack(several, RING)
    assert len(packed) == sketch.packed_bytes(2, LENGTH, RING) == 2 * 2 * 32 * 2
    again = sketch.unpack(packed, 2, LENGTH, RING)
    assert all(np.array_equal(a, b) for a, b in zip(several, again, strict=True))
    assert sketch.unpack(packed[:-1], 2, LENGTH, RING) is None
    assert sketch.unpack(packed, 3, LENGTH, RING) is None
