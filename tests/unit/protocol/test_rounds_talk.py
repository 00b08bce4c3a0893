"""When a member asks what it missed: not while it goes on, and not never."""

import pytest

from protocol.rounds.desk import Desk
from protocol.rounds.policy import Cohort, Epoch, Policy, Seat
from protocol.rounds.talk import PATIENT_ASKS, Talk
from protocol.types import Millis, PublicKey

ASK_MS = 100


@pytest.fixture
def cohort() -> Cohort:
    seats = tuple(Seat(bytes([i]) * 32, bytes([9 + i]) * 32, 1) for i in range(4))
    return Cohort(Epoch(bytes(32), 0, seats, Policy(8, ask_ms=ASK_MS)))


@pytest.fixture
def talk(cohort: Cohort, keys) -> Talk:
    me = PublicKey(cohort.members[0])
    return Talk(Desk(me, bytes(32), keys, lambda *_: True, {}))


def asked(talk: Talk, cohort: Cohort, until: int, *, news_every: int) -> list[int]:
    """When a member asks that hears news so often, from 0 on."""
    times = []
    for now in range(0, until, 10):
        if now % news_every == 0:
            talk.progress(cohort, Millis(now))
        if talk.asks(cohort, Millis(now)):
            times.append(now)
    return times


def test_news_put_a_question_off(talk, cohort):
    talk.step(cohort, Millis(0))
    assert asked(talk, cohort, PATIENT_ASKS * ASK_MS, news_every=50) == []


def test_without_news_a_member_asks_at_once(talk, cohort):
    talk.step(cohort, Millis(0))
    assert asked(talk, cohort, 200, news_every=1_000)[0] == ASK_MS


def test_news_do_not_put_it_off_for_ever(talk, cohort):
    """In a large federation the one statement that is missing is not among the news."""
    talk.step(cohort, Millis(0))
    times = asked(talk, cohort, 20 * ASK_MS, news_every=50)
    assert len(times) >= 2
    assert times[0] <= (PATIENT_ASKS + 1) * ASK_MS
    # Slower and slower, as without news.
    assert times[1] - times[0] > ASK_MS


def test_a_step_starts_over(talk, cohort):
    talk.step(cohort, Millis(0))
    talk.step(cohort, Millis(1_000))
    talk.progress(cohort, Millis(1_050))
    assert not talk.asks(cohort, Millis(1_140))
