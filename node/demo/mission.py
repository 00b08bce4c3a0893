"""The whole mission, act by act, and the one report over all of it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from node.demo import data_level, evaluation_level, model_level, restart, sites
from node.demo.claims import Claims
from node.demo.flows import Flows
from node.demo.programs import Programs
from node.demo.stage import Stage


def run(folder: Path, programs: Programs, stage: Stage) -> dict[str, Any]:
    """Everything the demo shows; the programs are left running."""
    begun = time.monotonic()
    seconds: dict[str, float] = {}
    claims, flows = Claims(stage.claim), Flows()

    @contextmanager
    def act(name: str) -> Iterator[None]:
        started = time.monotonic()
        with stage.act(name):
            yield
        seconds[name] = round(time.monotonic() - started, 1)

    with act("start"):
        stage.tell("keys, chain, contracts, members", 0, 2)
        place = sites.prepare(folder, programs)
        stage.tell("workers and daemons", 1, 2)
        sites.start(place, programs)
        processes = programs.pids()
        claims.check(
            "four institutions, a worker for each, a researcher, a verifier and a chain"
            " run as separate processes",
            f"{len(set(processes.values()))} processes",
            holds=len(set(processes.values())) == 2 * len(sites.CLINICS) + 3,
        )
    with act("data"):
        data = data_level.run(place, claims, flows)
    with act("model"):
        training = model_level.run(place, data["datasets"], claims, flows, stage.tell)
    with act("evaluation"):
        inference = evaluation_level.run(
            place, training["run"], claims, flows, stage.tell
        )
    with act("restart"):
        stage.tell(f"kill -9 {restart.VICTIM}, start it again", 0, 1)
        restart.run(place, programs, claims)
    seconds["total"] = round(time.monotonic() - begun, 1)
    return {
        "checks": claims.rows,
        "data": data,
        "training": training,
        "inference": inference,
        "flows": flows.report([*place.sites, "chain"]),
        "processes": processes,
        "seconds": seconds,
    }
