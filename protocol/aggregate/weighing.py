"""What the sketches of a rejected round say, and which of them are lies (docs/protocol.md §5.10).

Each survivor has said what its masked update weighs, and what each mask weighs that it shares
with another survivor.  Three things must agree, all of them exact: both holders say the same of
a mask; the masked updates add up to the certified masked sum; what was opened (the key of a
mask, the parts of an update) weighs what was said of it.  Liars that agree with each other can
move length between their own updates, and nowhere else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from protocol.aggregate.ring import Ring
from protocol.aggregate.sketch import (
    Pieces,
    Sketches,
    lengths,
    of_update,
    rows,
    sketches,
    total,
    unpack,
)

SUSPICIOUS = 2.0
"""Times the typical length: eight deviations of the estimate, so that of many blocks and many
honest members none stands out by chance."""
_LEAST_SHARE = 0.5
"""A block in which most members changed little is compared with so much of what a block has on
average: one that a single clinic has reason to change is not an attack."""


@dataclass(frozen=True)
class Question:
    """Everything that is needed to take the masks off the sketches.

    Survivors stand in the order of their node keys; a place is one in that order.
    """

    length: int
    ring: Ring
    seed: bytes
    said: Sequence[bytes]
    """Per survivor what it said: `pack` of its masked update and of each shared mask, in order."""
    alone: Sequence[tuple[Sequence[bytes], Sequence[bytes]]]
    """Per survivor the opened keys of masks that it shares with no survivor: added, taken off."""
    sums: Pieces
    """The certified masked sum."""
    weights: Sequence[int]
    opened: Sequence[tuple[int, int, bytes]] = field(default=(), repr=False)
    """Pairs whose mask was opened, and its key."""
    parts: Sequence[Pieces] = ()
    """Per survivor its masked update, where the sketches of those do not add up."""


@dataclass(frozen=True)
class Answer:
    """What came out.  Lengths are multiples of the typical one, in thousandths."""

    malformed: tuple[int, ...] = ()
    """Survivors whose statement is no set of sketches."""
    differ: tuple[tuple[int, int], ...] = ()
    """Pairs that say different things of their mask, which nobody opened."""
    false: tuple[int, ...] = ()
    """Survivors who said what is shown to be wrong."""
    balanced: bool = True
    """The masked updates add up to the sum, or their parts were looked at."""
    times: tuple[int, ...] = ()
    """Per survivor the length of its update; empty where it cannot be told."""
    worst: tuple[int, ...] = ()
    """The same of the block in which it is most unlike the others."""


def weigh(question: Question) -> Answer:
    """Compare, and where everything agrees, measure."""
    count, ring = len(question.said), question.ring
    read = [unpack(each, count, question.length, ring) for each in question.said]
    malformed = tuple(i for i, each in enumerate(read) if each is None)
    if malformed:
        return Answer(malformed=malformed)
    said = [each for each in read if each is not None]
    masked = [each[0] for each in said]
    shared = {
        (i, j): said[i][1 + j - (j > i)]
        for i in range(count)
        for j in range(count)
        if i != j
    }
    true = _measured(question)
    false: set[int] = set()
    for (i, j, _), mask in zip(question.opened, true.opened, strict=True):
        false.update(
            a for a, b in ((i, j), (j, i)) if not np.array_equal(shared[a, b], mask)
        )
        shared[i, j] = shared[j, i] = mask
    differ = tuple(
        (i, j)
        for i, j in shared
        if i < j and not np.array_equal(shared[i, j], shared[j, i])
    )
    if true.parts:
        false.update(
            i for i in range(count) if not np.array_equal(masked[i], true.parts[i])
        )
        masked = list(true.parts)
    balanced = bool(true.parts) or np.array_equal(total(masked, ring), true.sums)
    liars = tuple(sorted(false))
    if differ or not balanced:
        return Answer(differ=differ, false=liars, balanced=balanced)
    found = []
    for i in range(count):
        plus, minus = list(true.alone[i][0]), list(true.alone[i][1])
        for j in range(count):
            if i != j:
                # Survivors are in the order of their node keys: the earlier one added it.
                (plus if i < j else minus).append(shared[i, j])
        found.append(lengths(of_update(masked[i], plus, minus, ring)))
    times, worst = compared(np.stack(found), question.weights)
    return Answer(false=liars, times=times, worst=worst)


def compared(
    estimates: NDArray[np.float64], weights: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Members' lengths, whole and in the worst block, over the median member's.

    `estimates`: one row per member, one column per block.  A member adds its update times its
    weight, so lengths are compared by weight.
    """
    mean = sum(weights) / len(weights)
    each = estimates * (mean / np.array(weights, float))[:, np.newaxis]
    whole = np.sqrt((each**2).sum(axis=1))
    typical = max(float(np.median(whole)), 1.0)
    least = _LEAST_SHARE * typical / np.sqrt(each.shape[1])
    block = np.maximum(np.median(each, axis=0), least)
    return (
        tuple(int(x) for x in np.rint(1000 * whole / typical)),
        tuple(int(x) for x in np.rint(1000 * (each / block).max(axis=1))),
    )


def stand_out(times: Sequence[int], worst: Sequence[int]) -> tuple[int, ...]:
    """Places of those whose update is far longer than the typical one, or a block of it is."""
    limit = 1000 * SUSPICIOUS
    pairs = zip(times, worst, strict=True)
    return tuple(place for place, pair in enumerate(pairs) if max(pair) > limit)


@dataclass(frozen=True)
class _True:
    """Sketches of what is open to everyone."""

    sums: Sketches
    opened: list[Sketches]
    parts: list[Sketches]
    alone: list[tuple[list[Sketches], list[Sketches]]]


def _measured(question: Question) -> _True:
    """One pass over everything whose weight is not a matter of belief."""
    keys = [key for _, _, key in question.opened]
    for plus, minus in question.alone:
        keys += [*plus, *minus]
    vectors = [question.sums, *question.parts]
    done = sketches(vectors, keys, question.length, question.ring, question.seed)
    of_vectors, of_keys = done[: len(vectors)], iter(done[len(vectors) :])
    opened = [next(of_keys) for _ in question.opened]
    alone = [
        ([next(of_keys) for _ in plus], [next(of_keys) for _ in minus])
        for plus, minus in question.alone
    ]
    return _True(of_vectors[0], opened, of_vectors[1:], alone)


def is_measurable(length: int, ring: Ring) -> bool:
    """Is a vector long enough that its sketches say something, and not everything?"""
    return rows(length, ring) > 0
