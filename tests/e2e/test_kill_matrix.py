"""Every record of a round, and a daemon killed at it: the run goes on, and its diaries agree.

One federation of real daemons, one run without an end.  A trap ends the next member that
writes a given record, with -9, at that very record; it is started again and nothing else is done
for it.  Boundaries are visited one after the other, by turns with a member that was to propose
and with one that was not; every member owns a slice, and `report` is the owner's record.  At the end the diaries of
the whole run are held against the laws of docs/protocol.md §5.6, and every round is computed
anew from what its survivors had recorded.

`REXIS_E2E_MEMBERS=7` and `REXIS_E2E_KILLS=all` make it larger (CONTRIBUTING.md).
"""

import logging
import os
from collections import Counter

import pytest
from live import laws
from live.boundaries import BOUNDARIES, ONLY_PROPOSER, RARE, label
from live.federation import prepared

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(3600)]

log = logging.getLogger(__name__)
MEMBERS = int(os.environ.get("REXIS_E2E_MEMBERS", "4"))
ALL = os.environ.get("REXIS_E2E_KILLS") == "all"


def visits():
    """(label, when, is it the proposer) in the order of a round.

    Each boundary once, the roles taking turns; or every boundary, role and side of the write.
    """
    for number, boundary in enumerate(BOUNDARIES):
        roles = (True,) if boundary in ONLY_PROPOSER else (False, True)
        if not ALL:
            yield boundary, "after", roles[number % len(roles)]
            continue
        for proposes in roles:
            yield boundary, "after", proposes
            yield boundary, "before", proposes


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    """A run through all kills, and who was killed where."""
    with prepared(tmp_path_factory.mktemp("k"), MEMBERS) as live:
        live.start_all()
        live.publish_all()
        live.begin(10_000)
        live.until_round(1)
        killed, last = [], ()
        for boundary, when, proposes in visits():
            victim = live.trap(boundary, when, proposes=proposes, spares=last)
            others = [name for name in live.names if name != victim]
            under_way = max(live.done(name) for name in others)
            live.start(victim, wait=False)
            # The round of the kill and one more, by all: nobody is asked for anything.
            seconds = live.until_round(under_way + 1)
            killed.append((boundary, when, proposes, victim))
            told = boundary, when, "proposer" if proposes else "member", victim
            log.info("%s, %s, %s %s: all on after %.1f s", *told, seconds)
            last = (victim,)
        # A member that missed a round is killed once more where it learns of it.
        (late,) = {live.trap("opened", spares=last)}
        others = [name for name in live.names if name != late]
        live.until_round(max(live.done(name) for name in others) + 1, others)
        live.start(late, wait=False)
        assert live.trap("syncing") == late
        live.start(late)
        live.until_round(max(live.done(name) for name in live.names) + 2)
        rows = {name: live.rounds(name) for name in live.names}
        evidence = [live.events(name, "round.evidence") for name in live.names]
        yield live, killed, rows, evidence


@pytest.fixture(scope="module")
def diaries(matrix):
    live = matrix[0]
    return laws.read(live.watch, live.names, live.run)


def test_every_boundary_was_visited_by_a_kill(matrix, diaries):
    _, killed, _, _ = matrix
    met = {label(key, value) for one in diaries.values() for key, value in one.records}
    assert met - set(RARE) <= set(BOUNDARIES), (
        "a record of a new kind: put it on the list"
    )
    told = Counter(where for one in diaries.values() for where in one.killed)
    assert told == Counter((b, when) for b, when, _, _ in killed) + Counter(
        [("opened", "after"), ("syncing", "after")]
    )
    lives = sum(one.lives for one in diaries.values())
    assert lives == len(killed) + 2 + MEMBERS
    assert {victim for _, _, _, victim in killed} == set(diaries)


def test_every_round_ended_with_one_state_everywhere_and_by_itself(matrix):
    _, killed, rows, evidence = matrix
    ends = {}
    for row in (row for of in rows.values() for row in of):
        ends.setdefault(row["round"], []).append(row)
    last = min(max(row["round"] for row in of) for of in rows.values())
    assert last > len(killed)
    for number in range(last + 1):
        # Who was away for a whole round has the state of a later one, and no row of this.
        assert len({row["state_root"] for row in ends[number]}) == 1, f"round {number}"
        assert all(row["accepted"] for row in ends[number])
        assert len(ends[number]) >= MEMBERS - 1
    assert len(ends[last]) == MEMBERS
    # By itself: a kill costs the attempt it falls into at most.
    assert max(row["attempt"] for of in ends.values() for row in of) <= 1
    assert evidence == [[]] * MEMBERS  # a restart looks like no lie to anybody


def test_nothing_is_said_twice_differently_lost_or_counted_twice(matrix, diaries):
    live, killed, _, _ = matrix
    found, count = laws.broken(live.watch, diaries, live.run, live.spec)
    assert found == []
    assert count.recomputed == count.rounds > len(killed)
    assert count.repeated > 0
    assert count.shares > count.rounds
