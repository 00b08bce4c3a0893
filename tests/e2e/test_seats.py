"""Real daemons that join a run under way and leave it, with -9 in between (docs/protocol.md §7.4).

Four begin; the fifth asks for a seat and is admitted, and is ended at the very record that gives
it one, as is a member of the four; then one of the first leaves, all are ended at once, and the
run goes on by itself with the members it has.
"""

import pytest
from live.federation import LONG_S, SPEC, plan, prepared

from node.demo.programs import until

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    with prepared(tmp_path_factory.mktemp("s"), 5) as live:
        live.start_all()
        live.publish_all()
        yield live


def show(live, name):
    return live.call(name, "runs.show", run=live.run)


def wish(live, name, method, *about):
    params = {"member": about[0]} if about else {}
    return live.call(name, method, run=live.run, **params)


def in_epoch(live, number, names):
    for name in names:
        until(
            lambda name=name: _at(live, name, number),
            f"{name} in epoch {number}",
            LONG_S,
        )


def _at(live, name, number):
    return live.done(name) >= 0 and show(live, name)["epoch"] >= number


def go_on(live, names, rounds=2):
    """The run does so many rounds more, and all of these have the same states in them."""
    since = max(live.done(name) for name in names)
    live.until_round(since + rounds, names)
    roots = {}
    for name in names:
        for row in live.rounds(name):
            roots.setdefault(row["round"], set()).add(row["state_root"])
    assert {len(each) for each in roots.values()} == {1}
    last = live.rounds(names[0])[-1]
    assert set(last["survivors"]) <= set(names)
    return last


def test_members_come_and_go_through_kills_and_the_run_goes_on(live):
    *first, late = live.names
    leaver, stay = first[3], [*first[:3], late]
    row = live.call(
        first[0],
        "runs.propose",
        plan=plan(SPEC),
        rounds=10_000,
        members=first,
        dataset=live.datasets[first[0]],
    )
    live.run = row["run"]
    for name in live.names[1:]:
        until(lambda name=name: live._knows(name), f"{name} to hear of it", LONG_S)
    for name in first[1:]:
        live.call(name, "runs.join", run=live.run, dataset=live.datasets[name])
    live.until_round(1, first)

    asked = live.call(late, "runs.join", run=live.run, dataset=live.datasets[late])
    assert asked["mine"] is False
    assert late not in asked["members"]
    for name in first[:3]:
        until(lambda name=name: show(live, name)["seats"], f"{name} to hear", LONG_S)
        wish(live, name, "runs.admit", late)
    # The fifth at the record of its first verdict, then one of the four at its next.
    assert live.trap("head", spares=first) == late
    live.start(late, wait=False)
    killed = live.trap("head", spares=[late, leaver])
    live.start(killed, wait=False)
    in_epoch(live, 1, live.names)
    last = go_on(live, live.names)
    assert set(show(live, late)["members"]) == set(live.names)
    assert late in last["survivors"]

    wish(live, leaver, "runs.leave")
    in_epoch(live, 2, stay)
    go_on(live, stay)
    until(lambda: not show(live, leaver)["mine"], "the leaver to know", LONG_S)

    for name in live.names:
        live.programs.kill(name)
    for name in live.names:
        live.start(name, wait=False)
    for name in live.names:
        live.answers(name)
    assert go_on(live, stay)["survivors"]
    assert leaver not in show(live, late)["members"]
    assert show(live, leaver)["epoch"] == 2
    assert (
        show(live, leaver)["reason"] == "this node has left the run; the others go on"
    )
    evidence = [live.events(name, "round.evidence") for name in live.names]
    assert (
        evidence == [[]] * 5
    )  # neither a kill nor a change looks like a lie to anybody
