"""Four daemons train while one is killed in a round, and the chain is dead all along."""

from dataclasses import replace
from urllib.parse import urlsplit

import msgspec
import pytest
import trio

from node.adapters.evm_chain import EvmChain
from node.demo import opt
from node.demo.data_level import publish
from node.demo.programs import Programs, until
from node.demo.sites import (
    CHAIN_ID,
    CLINICS,
    prepare,
    start,
    start_chain,
    start_daemon,
    wait_ready,
)
from protocol.runs import canonical_plan

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROUNDS, VICTIM = 3, "KY"
LONG_S = 240
"""Nothing here is about speed; this only ends a test that hangs."""


def model_file():
    plan = opt.plan()
    quick = {**plan.train, "steps": 2}
    # Whoever was killed is missed after five seconds and not waited for after three more.
    made = msgspec.structs.replace(
        plan, train=quick, sum={"patience_ms": 3_000, "upload_floor_ms": 5_000}
    )
    return canonical_plan(made).decode()


@pytest.fixture
def place(tmp_path):
    with Programs(tmp_path / "logs") as programs:
        whole = prepare(tmp_path, programs)
        made = replace(whole, sites={name: whole.sites[name] for name in CLINICS})
        start(made, programs)
        yield made, programs


def shown(place, run):
    return {name: site.call("runs.show", run=run) for name, site in place.sites.items()}


def test_rounds_go_on_through_a_kill_and_a_dead_chain_and_anchors_follow(place):
    place, programs = place
    datasets = {name: publish(place, name) for name in CLINICS}
    programs.kill("chain")

    first, *others = CLINICS
    row = place.sites[first].call(
        "runs.propose",
        plan=model_file(),
        rounds=ROUNDS,
        members=list(CLINICS),
        dataset=datasets[first],
    )
    run = row["run"]
    for name in others:
        site = place.sites[name]
        until(
            lambda site=site: run in {r["run"] for r in site.call("runs.list")["runs"]},
            f"{name} to hear of the run",
            LONG_S,
        )
        site.call("runs.join", run=run, dataset=datasets[name])

    # In a round: it trains, or masks, or sums, whatever the instant finds it at.
    until(
        lambda: place.sites[VICTIM].call("runs.show", run=run)["progress"] is not None,
        "the first round to begin",
        LONG_S,
        pause_s=0.01,
    )
    programs.kill(VICTIM)
    rest = [name for name in CLINICS if name != VICTIM]
    until(
        lambda: all(
            place.sites[name].call("runs.show", run=run)["round"] >= 1 for name in rest
        ),
        "the others to close a round without it",
        LONG_S,
    )
    start_daemon(place, programs, VICTIM)
    wait_ready(place, programs, VICTIM, LONG_S)
    until(
        lambda: {row["phase"] for row in shown(place, run).values()} == {"finished"},
        "all four to finish",
        LONG_S,
    )
    roots = {
        (row["round"], row["state_root"])
        for site in place.sites.values()
        for row in site.call("rounds.list", run=run)["rounds"]
    }
    assert sorted(number for number, _ in roots) == list(range(ROUNDS))

    def waiting():
        return [
            site.call("status.get")["chain"]["waiting"] for site in place.sites.values()
        ]

    # The negative control of what follows: with the chain dead nothing was anchored.
    assert waiting() == [ROUNDS] * len(CLINICS)
    start_chain(place.folder, urlsplit(place.chain_url).port, programs)
    until(lambda: not any(waiting()), "every anchor", LONG_S)
    said = trio.run(anchored, place, run, ROUNDS * len(CLINICS))
    assert {(number, state.hex()) for _, number, state in said} == roots
    assert len({account for account, _, _ in said}) == len(CLINICS)


async def anchored(place, run, count):
    """Who anchored which state of which round, as the chain itself says."""
    chain = EvmChain(
        url=place.chain_url,
        chain_id=CHAIN_ID,
        contracts=place.contracts,
        account_key=place.owner_key,
    )
    found = set()
    with trio.fail_after(LONG_S):
        async for event in chain.follow(0):
            data = event.data
            if event.kind == "RoundAnchored" and data["run"].hex() == run:
                found.add((bytes(data["account"]), data["number"], data["state"]))
                if len(found) == count:
                    break
    return found
