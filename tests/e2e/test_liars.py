"""One of four real daemons lies; the other three end every round with one exact state.

The lies are the simulator's (`live.lies`), told over libp2p by a daemon whose machine, keys and
log are the shipped ones.  Each lie has a run of its own, since who was shown to have lied is left
out of the run from then on.  `forgets` is the negative control of the kill matrix as well: a
program whose log lacks what it promised is found out by the very laws that held there.
"""

import pytest
from live import laws
from live.federation import prepared

from node.demo.programs import until

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]

LIAR = "NY"
ROUNDS = 3


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    with prepared(tmp_path_factory.mktemp("x")) as live:
        live.start_all()
        live.publish_all()
        yield live


def honest(live):
    return [name for name in live.names if name != LIAR]


def told_of(live):
    """What the honest members hold against whom in this run, by their events."""
    found = {}
    for name in honest(live):
        for event in live.events(name, "round.evidence"):
            data = event["data"]
            if data["run"] == live.run:
                found.setdefault(data["member"], set()).add(name)
    return found


def lie(live, what, **times):
    """Start the liar as one, and a run with it; the run of the lie before ends."""
    if live.run:
        for name in honest(live):
            live.call(name, "runs.end", run=live.run)
    live.programs.kill(LIAR)
    live.start(LIAR, lie=what)
    live.connected()
    live.begin(10_000, **times)


def agreed(live):
    """How many rounds the honest members have, all with equal states."""
    rounds = min(live.done(name) for name in honest(live))
    roots = {}
    for row in (row for name in honest(live) for row in live.rounds(name)):
        roots.setdefault(row["round"], set()).add(row["state_root"])
    assert all(len(roots[number]) == 1 for number in range(rounds))
    return rounds


def exact(live):
    """And the states are the exact sums of what survivors recorded."""
    rounds = agreed(live)
    diaries = laws.read(live.watch, live.names, live.run)
    found, count = laws.broken(live.watch, diaries, live.run, live.spec)
    assert [each for each in found if LIAR not in each] == []
    assert count.recomputed >= rounds
    return found


@pytest.mark.parametrize("what", ["proposes two things", "uploads two things"])
def test_two_words_in_one_place_are_shown_to_everyone(live, what):
    lie(live, what)
    until(
        lambda: told_of(live) == {LIAR: set(honest(live))}, "evidence everywhere", 300
    )
    shown = max(live.done(name) for name in honest(live))
    live.until_round(shown + ROUNDS, honest(live))
    # Known to lie, it is left out wherever three others are ready.
    assert any(
        LIAR not in row["survivors"]
        for row in live.rounds("MN")
        if row["round"] > shown
    )
    assert any(LIAR in each for each in exact(live))


def test_an_owner_that_adds_wrongly_is_named_and_its_sum_replaced(live):
    lie(live, "sums wrongly")
    live.until_round(ROUNDS, honest(live))
    until(lambda: LIAR in told_of(live), "the liar to be named", 300)
    assert set(told_of(live)) == {LIAR}
    exact(live)


def test_a_flood_holds_nobody_up(live):
    lie(live, "floods")
    live.until_round(ROUNDS, honest(live))
    assert told_of(live) == {}
    assert all(row["accepted"] for name in honest(live) for row in live.rounds(name))
    exact(live)


def counts_the_liar(row):
    # A round that it came too late for shows nothing of its log.
    return row["accepted"] and LIAR in row["survivors"]


def test_a_log_that_lacks_what_was_said_is_caught_by_the_others_and_by_the_laws(live):
    # The others wait for the slice it was to sum longer than it takes to start.
    lie(live, "forgets", backup_ms=20_000)
    until(lambda: any(map(counts_the_liar, live.rounds("MN"))), "a sum with it", 300)
    others = set(honest(live))
    # At its release its upload has long been said; the restarted daemon rounds anew.
    live.trap("report", spares=others)
    live.start(LIAR, lie="forgets", wait=False)
    until(lambda: told_of(live) == {LIAR: others}, "evidence everywhere", 300)
    live.until_round(max(live.done(name) for name in others) + 1, list(others))
    assert agreed(live) > 1
    diaries = laws.read(live.watch, live.names, live.run)
    found, _ = laws.broken(live.watch, diaries, live.run, live.spec)
    # Two uploads in one place, and no sum can be computed anew: its log lacks what it rounded.
    assert any(LIAR in each and "'Upload'" in each for each in found)
    assert any("an update that nobody recorded" in each for each in found)
