"""A verdict says what the sums on its base were, and nobody votes for one that says it wrongly."""

from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from protocol.rounds.judgement import Judgement
from protocol.rounds.messages import Opening
from protocol.rounds.policy import Cohort, Epoch, Policy, Seat

MEMBERS = [bytes([i]) * 32 for i in range(4)]
COHORT = Cohort(
    Epoch(bytes(32), 0, tuple(Seat(m, bytes([9]) * 32, 1) for m in MEMBERS), Policy(16))
)
BASE, NEW, SCALES = b"b" * 32, b"n" * 32, b"s" * 32
OPENING = Opening(
    bytes(32), COHORT.name, 0, 0, BASE, SCALES, bytes(32), tuple(MEMBERS), ()
)


class Run:
    """A run in which a sum of all was opened before."""

    def next_epoch(self, *, moves):
        return b"next" * 8 if moves else COHORT.name

    def opened_with(self, survivors):
        return (0b1111, COHORT.bitmap(survivors))


JUDGEMENT = Judgement(Run(), COHORT, OPENING, OPENING.context())


def settled(state, *, accept):
    """What a member made of the sum of the first three, and all claim the same."""
    outcome = SimpleNamespace(state=state, scales=SCALES, accept=accept)
    return SimpleNamespace(
        members=tuple(MEMBERS[:3]),
        outcome=outcome,
        claims=dict.fromkeys(MEMBERS, outcome),
        claimed_at=0,
        since=0,
        broken=False,
        settled=lambda: True,
        covered=lambda: 0,
        every_slice=0,
    )


@pytest.mark.parametrize(
    ("state", "accept", "opened", "epoch"),
    [
        (NEW, True, (), b"next" * 8),
        (NEW, False, (0b1111, 0b0111), COHORT.name),
        # Accepted, but not one bit of the state moved: what was opened still tells.
        (BASE, True, (0b1111, 0b0111), COHORT.name),
    ],
)
def test_the_verdict_that_is_offered(state, accept, opened, epoch):
    verdict = JUDGEMENT.offer(settled(state, accept=accept), frozenset(), 0)
    assert (verdict.accept, verdict.survivors) == (accept, 0b0111)
    assert (verdict.opened, verdict.epoch) == (opened, epoch)


@pytest.mark.parametrize(
    "lie", [{"opened": ()}, {"opened": (0b1111,)}, {"survivors": 0b1111}]
)
def test_nobody_votes_for_a_verdict_that_hides_a_sum(lie):
    mine = settled(NEW, accept=False)
    verdict = JUDGEMENT.offer(mine, frozenset(), 0)
    assert JUDGEMENT.judge(mine, verdict, frozenset(), 0) is True
    assert JUDGEMENT.judge(mine, replace(verdict, **lie), frozenset(), 0) is None
