"""Sketches compared: what lies in them shows, and who stands out."""

from dataclasses import replace

import numpy as np
import pytest

from protocol.aggregate import masks, sketch
from protocol.aggregate.ring import Ring
from protocol.aggregate.weighing import Question, compared, stand_out, weigh

RING, SEED, LENGTH, COUNT = Ring(16, 8), bytes(range(32)), 4_000, 4
CHANCE = np.random.default_rng(2)


def key(text: str) -> bytes:
    return text.encode().ljust(32, b".")


def pair(i: int, j: int) -> bytes:
    return key(f"pair {min(i, j)} {max(i, j)}")


def update(scale: float = 20.0) -> np.ndarray:
    values = np.clip(np.rint(CHANCE.normal(size=LENGTH) * scale), -127, 127)
    return values.astype("<i2").view("<u2").copy()


def masked(place: int, words: np.ndarray) -> np.ndarray:
    out = words.copy()
    others = [j for j in range(COUNT) if j != place]
    plus = [key(f"self {place}"), *(pair(place, j) for j in others if place < j)]
    masks.apply(out, 0, plus, [pair(place, j) for j in others if place > j])
    return out


def asked(updates: list[np.ndarray]) -> Question:
    vectors = [masked(i, words) for i, words in enumerate(updates)]
    said = []
    for i, words in enumerate(vectors):
        keys = [pair(i, j) for j in range(COUNT) if j != i]
        several = sketch.sketches([[words]], keys, LENGTH, RING, SEED)
        said.append(sketch.pack(several, RING))
    return Question(
        LENGTH,
        RING,
        SEED,
        said,
        [([key(f"self {i}")], []) for i in range(COUNT)],
        np.array_split(np.sum(vectors, axis=0, dtype="<u2"), 3),
        [10, 10, 10, 10],
    )


def lie(question: Question, place: int, row: int) -> Question:
    """Change what one survivor says: row 0 of its masked update, j of its j-th mask."""
    several = sketch.unpack(question.said[place], COUNT, LENGTH, RING)
    several[row] = several[row] + np.uint64(9)
    said = [*question.said]
    said[place] = sketch.pack(several, RING)
    return replace(question, said=said)


def honest() -> list[np.ndarray]:
    return [update() for _ in range(COUNT)]


def test_honest_updates_are_measured_and_none_stands_out():
    found = weigh(asked(honest()))
    assert (found.malformed, found.differ, found.false) == ((), (), ())
    assert found.balanced
    assert len(found.times) == len(found.worst) == COUNT
    assert stand_out(found.times, found.worst) == ()


@pytest.mark.parametrize(
    "change",
    [
        lambda w: (RING.signed(w) * 5).view("<u2"),
        lambda w: np.concatenate([w[:5] + np.uint16(1 << 15), w[5:]]),
        lambda w: CHANCE.integers(0, 1 << 16, LENGTH).astype("<u2"),
    ],
    ids=["five times as long", "top bits", "noise over the ring"],
)
def test_an_update_that_is_too_long_stands_out(change):
    updates = honest()
    updates[2] = change(updates[2])
    found = weigh(asked(updates))
    assert stand_out(found.times, found.worst) == (2,)


def test_lengths_are_compared_by_weight():
    """A member adds its update times its weight: who has more records is not an outlier."""
    updates = honest()
    updates[1] = (RING.signed(updates[1]) * 5).view("<u2")
    question = asked(updates)
    assert stand_out(*lengths_of(question)) == (1,)
    assert stand_out(*lengths_of(replace(question, weights=[10, 50, 10, 10]))) == ()


def lengths_of(question: Question) -> tuple[tuple[int, ...], tuple[int, ...]]:
    found = weigh(question)
    return found.times, found.worst


def test_a_pair_that_differs_is_named_and_measures_nobody():
    found = weigh(lie(asked(honest()), 3, 1))  # of the mask it shares with 0
    assert found.differ == ((0, 3),)
    assert found.times == ()
    assert found.false == ()


def test_the_key_of_a_mask_shows_which_of_its_holders_lies():
    updates = honest()
    updates[3] = (RING.signed(updates[3]) * 5).view("<u2")
    question = replace(lie(asked(updates), 3, 1), opened=[(0, 3, pair(0, 3))])
    found = weigh(question)
    assert found.false == (3,)
    assert found.differ == ()
    assert stand_out(found.times, found.worst) == (3,)


def test_masked_updates_that_do_not_add_up_are_noticed_and_their_parts_show_who_lies():
    updates = honest()
    question = lie(asked(updates), 1, 0)
    found = weigh(question)
    assert not found.balanced
    assert found.times == ()
    parts = [np.array_split(masked(i, words), 2) for i, words in enumerate(updates)]
    found = weigh(replace(question, parts=parts))
    assert found.balanced
    assert found.false == (1,)
    assert len(found.times) == COUNT


def test_what_is_no_sketch_is_malformed():
    question = asked(honest())
    said = [*question.said[:3], question.said[3][:-2]]
    assert weigh(replace(question, said=said)).malformed == (3,)


def test_of_many_honest_members_and_blocks_none_stands_out_by_chance():
    """Why twice the typical length: at 1.6 times, one in some hundreds would."""
    far = 0
    for _ in range(300):
        squares = CHANCE.chisquare(sketch.FUNCTIONALS, (7, 100)) / sketch.FUNCTIONALS
        times, worst = compared(100 * np.sqrt(squares), [1] * 7)
        assert stand_out(times, worst) == ()
        far += max(worst) > 1600
    assert far


def test_a_block_that_only_one_member_has_reason_to_change_is_no_outlier():
    estimates = np.full((5, 40), 100.0)
    estimates[:, 7] = 0.0
    estimates[2, 7] = 90.0
    assert stand_out(*compared(estimates, [1] * 5)) == ()
    estimates[2, 7] = 300.0
    assert stand_out(*compared(estimates, [1] * 5)) == (2,)
