"""Whole federations from a seed: whatever goes wrong, the laws of the specification hold."""

import pytest
from federation_sim.invariants import BrokenError
from federation_sim.mutants import caught_by
from federation_sim.scenario import draw

QUICK = range(8, 16)
"""Small ones; seed 7 has 32 members and takes two minutes."""


@pytest.mark.parametrize("seed", QUICK)
def test_every_law_holds_whatever_goes_wrong(seed):
    draw(seed).run()


@pytest.mark.slow
@pytest.mark.parametrize("start", range(16, 216, 40))
def test_every_law_holds_in_many_more_federations(start):
    for seed in range(start, start + 40):
        try:
            draw(seed).run()
        except BrokenError as error:
            raise AssertionError(f"SEED={seed}: {error}") from error


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_the_same_laws_under_real_signatures(seed):
    draw(seed, members=4, real=True).run()


def test_a_seed_is_a_whole_run():
    one, other = draw(3), draw(3)
    one.run()
    other.run()
    assert one.world.counts == other.world.counts
    assert one.world.now == other.world.now


@pytest.mark.parametrize("name", ["signs anew after a restart", "keeps its secrets"])
def test_the_laws_notice_a_machine_that_breaks_one(name):
    """The control; all mutants are `python tests/sim --mutants`."""
    found = caught_by(name)
    assert found is not None
