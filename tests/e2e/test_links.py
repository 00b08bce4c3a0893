"""Real daemons behind bad links, and with no chain: the failure matrix of docs/protocol.md §5.11.

Every byte between two members passes a relay (`live.relays`): no privileges are needed, and the
kernel need not have netem.  One federation, in turn: without a chain, with links of 200 ms and
30 Mbit/s, with stalls and cuts on top, parted 2 + 2, parted 1 + 3, healed.
"""

import logging
import time

import pytest
import trio
from live import laws
from live.federation import LONG_S, prepared
from live.relays import relayed

from ee.spec import Column, ModelSpec, size
from node.adapters.evm_chain import EvmChain
from node.demo.programs import until
from node.demo.sites import CHAIN_ID

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]

log = logging.getLogger(__name__)
CHAINLESS_ROUNDS = 3
WIDE = ModelSpec(
    columns=(Column("age", 40.0, 10.0), Column("sex", levels=("F", "M"))),
    width=96,
    layers=2,
    heads=4,
    kv_heads=4,
    inner=384,
    seed=3,
)
"""A megabyte in the ring: a third of a second on one of the links, over and over."""
STILL_S = 8.0
"""Longer than any deadline of a round here but that for giving an attempt up."""


@pytest.fixture(scope="module")
def weather(tmp_path_factory):
    with prepared(tmp_path_factory.mktemp("l")) as live, relayed(live) as links:
        live.start_all()
        live.publish_all()
        yield live, links


def states(live, rounds):
    """The set of roots of each round, as the members show them."""
    found = [set() for _ in range(rounds)]
    for name in live.names:
        for row in live.rounds(name):
            if row["round"] < rounds:
                found[row["round"]].add(row["state_root"])
    return found


def held(live):
    """Rounds with a verdict, by member."""
    return {name: live.done(name) for name in live.names}


def one_history(live, spec):
    """Nobody forked: equal states everywhere, and each the exact sum of what went in."""
    rounds = max(held(live).values())
    live.until_round(rounds)
    assert [len(roots) for roots in states(live, rounds)] == [1] * rounds
    diaries = laws.read(live.watch, live.names, live.run)
    found, count = laws.broken(live.watch, diaries, live.run, spec)
    assert found == []
    assert count.recomputed >= rounds


def test_rounds_go_on_without_a_chain_and_anchors_follow_once_each(weather):
    live, _ = weather
    victim = live.names[1]
    live.kill_chain()
    live.begin(CHAINLESS_ROUNDS)
    # Who is started while the chain is dead knows the members from its own records.
    assert live.trap("upload", spares=set(live.names) - {victim}) == victim
    live.start(victim)
    live.until_round(CHAINLESS_ROUNDS)
    assert all(
        live.call(name, "runs.show", run=live.run)["phase"] == "finished"
        for name in live.names
    )
    one_history(live, live.spec)

    def waiting():
        return [
            live.call(name, "status.get")["chain"]["waiting"] for name in live.names
        ]

    # The negative control of what follows: with the chain dead nothing was anchored.
    assert waiting() == [CHAINLESS_ROUNDS] * len(live.names)
    live.revive_chain()
    until(lambda: not any(waiting()), "every anchor", LONG_S)
    said = trio.run(anchored, live)
    expected = {
        (number, root)
        for number, roots in enumerate(states(live, CHAINLESS_ROUNDS))
        for root in roots
    }
    assert {(number, state) for _, number, state in said} == expected
    assert len(said) == len(set(said)) == CHAINLESS_ROUNDS * len(live.names)


async def anchored(live):
    """Who anchored which state of which round, as the chain itself says; all of it."""
    chain = EvmChain(
        url=live.place.chain_url,
        chain_id=CHAIN_ID,
        contracts=live.place.contracts,
        account_key=live.place.owner_key,
    )
    found = []
    with trio.move_on_after(4):  # it follows for ever; what there is comes at once
        async for event in chain.follow(0):
            data = event.data
            if event.kind == "RoundAnchored" and data["run"].hex() == live.run:
                found.append(
                    (bytes(data["account"]), data["number"], data["state"].hex())
                )
    return found


def test_rounds_over_slow_narrow_links_that_stall_and_break(weather):
    live, links = weather
    live.begin(10_000, spec=WIDE)
    links.shape(round_trip_s=0.2, bits_per_s=30e6)
    before = links.carried()
    seconds = live.until_round(3)
    rounds = min(held(live).values())
    # What the relays carried is what the sum is made of: parts and sums of every member.
    assert links.carried() - before > rounds * 4 * size(WIDE)
    log.info("200 ms, 30 Mbit/s: %s rounds in %.1f s", rounds, seconds)
    links.shape(round_trip_s=0.2, bits_per_s=30e6, share=0.05)
    seconds = live.until_round(rounds + 2)
    log.info("5 %% stalled, cut (%s cuts): 2 rounds in %.1f s", links.cuts, seconds)
    assert sum(relay.stalled for relay in links.relays.values()) > 0
    links.shape()
    one_history(live, WIDE)


def test_two_halves_decide_nothing_and_go_on_together(weather):
    live, links = weather
    a, b, c, d = live.names
    links.part({a, b}, {c, d})
    # What was certified in that instant may still arrive at its own side.
    time.sleep(STILL_S / 2)
    stood = held(live)
    time.sleep(STILL_S)
    assert held(live) == stood
    assert max(stood.values()) - min(stood.values()) <= 1
    links.heal()
    live.until_round(max(stood.values()) + 2)
    one_history(live, WIDE)


def test_three_go_on_without_the_one_they_cannot_reach(weather):
    live, links = weather
    alone, *others = live.names
    links.part({alone}, set(others))
    time.sleep(STILL_S / 2)
    stood = live.done(alone)
    live.until_round(stood + 3, others)
    assert live.done(alone) == stood
    links.heal()
    live.until_round(stood + 4)
    rows = live.rounds(others[0])
    assert any(alone not in r["survivors"] for r in rows if r["round"] >= stood)
    one_history(live, WIDE)
