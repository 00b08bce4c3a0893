"""Second act: four clinics train one transformer, and nobody sees anybody's update."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import trio

from ee.spec import Vector, size
from node.adapters.evm_chain import EvmChain
from node.compute import state
from node.demo import opt
from node.demo.claims import Claims
from node.demo.flows import Flows
from node.demo.programs import until
from node.demo.sites import CHAIN_ID, CLINICS, Place
from node.demo.yardstick import Yardstick
from protocol.runs import canonical_plan
from protocol.types import Digest

PROPOSER = "MN"
ROUND_LIMIT_S = 150.0
"""For each round by itself: a slow machine is not a run that stands still."""
WITHIN = 0.02
"""The federation may fall short of pooled records by this much AUC."""

Told = Callable[[str, int, int], None]
"""What is being done, steps done, steps in all."""


def run(
    place: Place, datasets: Mapping[str, int], claims: Claims, flows: Flows, tell: Told
) -> dict[str, Any]:
    """The report's `training`."""
    plan = opt.plan()
    proposed = place.sites[PROPOSER].call(
        "runs.propose",
        plan=canonical_plan(plan).decode(),
        rounds=opt.ROUNDS,
        members=list(CLINICS),
        dataset=datasets[PROPOSER],
    )
    run_id = str(proposed["run"])
    tell("every steward consents", 0, opt.ROUNDS * len(CLINICS))
    with ThreadPoolExecutor(len(CLINICS)) as stewards:
        joining = [
            stewards.submit(_join, place, name, run_id, datasets[name])
            for name in CLINICS
            if name != PROPOSER
        ]
        for one in joining:
            one.result()
    _watch(place, run_id, tell)
    rows = {
        name: place.sites[name].call("rounds.list", run=run_id)["rounds"]
        for name in CLINICS
    }
    roots = sorted({row["state_root"] for of in rows.values() for row in of[-1:]})
    everywhere = all(
        len({rows[name][number]["state_root"] for name in CLINICS}) == 1
        for number in range(opt.ROUNDS)
    )
    claims.check(
        "every round is the sum of all four clinics' masked updates, accepted by a quorum",
        f"{sum(len(row['survivors']) for row in rows[PROPOSER])} updates in"
        f" {opt.ROUNDS} rounds",
        holds=all(
            row["accepted"] and sorted(row["survivors"]) == sorted(CLINICS)
            for row in rows[PROPOSER]
        ),
    )
    claims.check(
        "after every round all four clinics hold the same bytes",
        f"{opt.ROUNDS} rounds, last root {roots[0][:16]}",
        holds=everywhere and len(roots) == 1,
    )
    _anchored(place, run_id, roots[0], claims)
    for name, of in rows.items():
        flows.add(name, "chain", "anchored roots", count=len(of), size=32 * len(of))
        for row in of:
            for sender, moved in row["received"].items():
                flows.add(
                    sender,
                    name,
                    "masked shards and sums",
                    count=moved["count"],
                    size=moved["bytes"],
                )
    auc = _auc(place, run_id, tell)
    claims.check(
        f"the federation is within {WITHIN} AUC of all records pooled",
        f"{auc['federated']:.3f} against {auc['pooled']:.3f}",
        holds=auc["federated"] >= auc["pooled"] - WITHIN,
    )
    claims.check(
        "the federation does better than the average clinic alone",
        f"{auc['federated']:.3f} against "
        + ", ".join(f"{name} {value:.3f}" for name, value in auc["local"].items()),
        holds=auc["federated"] > sum(auc["local"].values()) / len(auc["local"]),
    )
    shown = place.sites[PROPOSER].call("runs.show", run=run_id)
    return {
        "run": run_id,
        "samples": shown["samples"],
        "state_roots": roots,
        "rounds": [_round(rows, number) for number in range(opt.ROUNDS)],
        "auc": auc,
    }


def _join(place: Place, name: str, run_id: str, dataset: int) -> None:
    site = place.sites[name]

    def heard() -> bool:
        return any(row["run"] == run_id for row in site.call("runs.list")["runs"])

    until(heard, f"{name} to hear of the run", 20)
    site.call("runs.join", run=run_id, dataset=dataset)


def _watch(place: Place, run_id: str, tell: Told) -> None:
    total = opt.ROUNDS * len(CLINICS)

    def have_done(rounds: int) -> bool:
        shown = [place.sites[n].call("runs.show", run=run_id) for n in CLINICS]
        doing = next((row["progress"] for row in shown if row["progress"]), None)
        what = f"round {shown[0]['round'] + 1}: {doing['what']}" if doing else "rounds"
        tell(what, sum(row["round"] for row in shown), total)
        return all(row["round"] >= rounds for row in shown)

    for rounds in range(1, opt.ROUNDS + 1):
        until(partial(have_done, rounds), f"round {rounds}", ROUND_LIMIT_S, pause_s=0.3)


def _anchored(place: Place, run_id: str, root: str, claims: Claims) -> None:
    """Read the last round's anchors from the chain, not from the nodes."""
    for name in CLINICS:

        def sent(name: str = name) -> bool:
            return int(place.sites[name].call("status.get")["chain"]["waiting"]) == 0

        until(sent, f"{name}'s anchors", 30)

    async def read() -> set[bytes]:
        chain = EvmChain(
            url=place.chain_url,
            chain_id=CHAIN_ID,
            contracts=place.contracts,
            account_key=place.owner_key,
        )
        found: set[bytes] = set()
        with trio.move_on_after(5):
            async for event in chain.follow(0):
                if (
                    event.kind == "RoundAnchored"
                    and event.data["run"] == bytes.fromhex(run_id)
                    and event.data["number"] == opt.ROUNDS - 1
                    and event.data["state"] == bytes.fromhex(root)
                ):
                    found.add(bytes(event.data["account"]))
                    if len(found) == len(CLINICS):
                        break
        return found

    found = trio.run(read)
    claims.check(
        "every clinic anchored the last state's root on the chain",
        f"{len(found)} accounts",
        holds=len(found) == len(CLINICS),
    )


def final_state(place: Place, run_id: str) -> Vector:
    """The trained state, from the folder of the clinic that proposed the run."""
    site = place.sites[PROPOSER]
    root = bytes.fromhex(site.call("runs.show", run=run_id)["state_root"])
    return state.read(site.home.states, Digest(root), size(opt.SPEC))


def _auc(place: Place, run_id: str, tell: Told) -> dict[str, Any]:
    yardstick = Yardstick(opt.plan())
    federated = yardstick.auc_of(final_state(place, run_id))
    local: dict[str, float] = {}
    for number, name in enumerate(CLINICS):
        tell(f"{name} alone, for comparison", number, len(CLINICS) + 1)
        local[name] = yardstick.trained_on([name], opt.ROUNDS)
    tell("all records pooled, for comparison", len(CLINICS), len(CLINICS) + 1)
    pooled = yardstick.trained_on(CLINICS, opt.ROUNDS)
    tell("done", len(CLINICS) + 1, len(CLINICS) + 1)
    return {
        "local": local,
        "federated": federated,
        "pooled": pooled,
        "logistic": yardstick.logistic(),
        "held_out": yardstick.held_out(),
    }


def _round(rows: Mapping[str, list[dict[str, Any]]], number: int) -> dict[str, Any]:
    mine = {name: of[number] for name, of in rows.items()}
    held = sum(row["held_out"] for row in mine.values() if row["auc"] is not None)
    weighted = sum(
        row["auc"] * row["held_out"] for row in mine.values() if row["auc"] is not None
    )
    return {
        "round": number + 1,
        "state_root": mine[PROPOSER]["state_root"],
        "attempts": max(row["attempts"] for row in mine.values()),
        "seconds": max(row["seconds"] for row in mine.values()),
        "loss": {name: row["loss_last"] for name, row in mine.items()},
        "auc": weighted / held if held else None,
        "auc_by_clinic": {name: row["auc"] for name, row in mine.items()},
    }
