import itertools
import random

import pytest

from protocol.rounds.differencing import isolates


def members(text: str) -> frozenset[bytes]:
    return frozenset(letter.encode() for letter in text)


def test_the_same_set_again_tells_nothing_new():
    assert not isolates([members("abcd")], members("abcd"), 3)


@pytest.mark.parametrize(
    ("opened", "new", "refused"),
    [
        (["abcd"], "abc", True),  # the difference is d alone
        (["abcdef"], "abcd", True),  # a sum of two
        (["abcdef"], "abc", False),  # three, as in the smallest sum allowed
        (["abcde"], "cdefg", False),  # a + b - f - g
        (["abcdef"], "defghi", False),
        # Each pair of sets is far apart, the three of them are not:
        # abcdef + ghi... - abcdefghi leaves nothing, one letter more leaves that letter.
        (["abcdef", "ghijkl"], "abcdefghijklm", True),
        ([], "abc", False),
    ],
)
def test_small_differences_are_refused(opened, new, refused):
    assert isolates([members(each) for each in opened], members(new), 3) is refused


@pytest.mark.parametrize(
    ("opened", "new", "refused"),
    [
        (["abcx"], "abc", False),  # tells x, which nobody need hide
        (["bcdx"], "abcd", True),  # with x known, a
        (["abcx"], "acd", True),  # with x known, b - d
        (["abcx"], "abcde", True),  # d + e
        (["abcx"], "abcdef", False),
        (["abx"], "abx", False),  # the same again
        ([], "abx", False),  # a first sum tells nothing of x either
    ],
)
def test_who_may_be_exposed_hides_nobody(opened, new, refused):
    sets = [members(each) for each in opened]
    assert isolates(sets, members(new), 3, members("x")) is refused


def test_more_independent_sets_than_are_compared_are_refused():
    sets = [members(text) for text in ("abcdefgh", "abcdijkl", "efghijkl", "aeimnopq")]
    assert isolates(sets, members("bfjrstuv"), 3)
    assert not isolates(sets, sets[2], 3)


def test_no_small_combination_slips_through():
    """Against brute force over small integer coefficients."""
    chance = random.Random(4)
    for _ in range(150):
        names = "abcdefghij"[: chance.randint(5, 10)]
        sets = [
            members("".join(x for x in names if chance.random() < 0.7))
            for _ in range(chance.randint(1, 3))
        ]
        sets = [s for s in sets if s]
        if len(sets) < 2:
            continue
        *opened, new = sets
        least = min(
            (
                size
                for weights in itertools.product(range(-3, 4), repeat=len(sets))
                if weights[-1]
                and (
                    size := sum(
                        1
                        for x in names
                        if sum(
                            w * (x.encode() in s)
                            for w, s in zip(weights, sets, strict=True)
                        )
                    )
                )
            ),
            default=99,
        )
        old = min(
            (
                size
                for weights in itertools.product(range(-3, 4), repeat=len(opened))
                if any(weights)
                and (
                    size := sum(
                        1
                        for x in names
                        if sum(
                            w * (x.encode() in s)
                            for w, s in zip(weights, opened, strict=True)
                        )
                    )
                )
            ),
            default=99,
        )
        if old >= 3:  # what was let in before obeys the rule
            assert isolates(opened, new, 3) is (least < 3), (opened, new)
