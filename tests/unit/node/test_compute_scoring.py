"""When a member says that a new state does worse on its own held-out records."""

import math

import pytest

from node.compute.scoring import LOSS_AT_LEAST, RECORDS_AT_LEAST, acceptable

MANY = 10 * RECORDS_AT_LEAST
JUST_ABOVE = 1 + 1e-9


def says(before, after, *, records=MANY, tolerance=0.5):
    old = {"held_out": records, "loss": before}
    return acceptable(old, {"held_out": records, "loss": after}, tolerance)


@pytest.mark.parametrize("loss", [1e9, math.inf, math.nan])
def test_few_records_say_nothing_against_a_state(loss):
    assert says(0.5, loss, records=RECORDS_AT_LEAST - 1)
    assert not says(0.5, loss, records=RECORDS_AT_LEAST)


@pytest.mark.parametrize("loss", [math.inf, math.nan])
@pytest.mark.parametrize("before", [0.5, math.inf])
def test_a_loss_that_is_no_number_is_not_acceptable(before, loss):
    assert not says(before, loss)
    assert not says(before, loss, tolerance=math.inf)


@pytest.mark.parametrize("before", [2 * LOSS_AT_LEAST, 0.7, 40.0])
@pytest.mark.parametrize("tolerance", [0.0, 0.25, 0.5])
def test_a_loss_may_rise_by_a_part_of_itself(before, tolerance):
    limit = before * (1 + tolerance)
    assert says(before, 0.0, tolerance=tolerance)
    assert says(before, limit, tolerance=tolerance)
    assert not says(before, limit * JUST_ABOVE, tolerance=tolerance)


@pytest.mark.parametrize("before", [0.0, LOSS_AT_LEAST / 1000, LOSS_AT_LEAST])
def test_a_small_loss_may_rise_by_a_part_of_the_least_that_is_told_apart(before):
    limit = LOSS_AT_LEAST * 1.5
    assert says(before, limit)
    assert not says(before, limit * JUST_ABOVE)
    # What is better than before is never held against a state.
    assert says(before, before, tolerance=0.0)
