"""Four real daemons on this machine: their homes, their chain, their small run.

The places are made by `node.demo.sites`, as an operator would; the daemons run under
`live.watched`, the workers and the chain as shipped.
"""

import csv
import io
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from ee.spec import Column, ModelSpec
from node.demo import sites
from node.demo.programs import Programs, until
from node.errors import NodeError
from protocol.runs import Plan, canonical_plan

NAMES = (
    *("MN", "KY", "MS", "NY", "IA", "WI", "OH", "AL", "AR", "CO"),
    *("CT", "GA", "ID", "IL", "IN", "KS", "LA", "MA", "MD"),
)
LONG_S = 300
"""Nothing here is about speed; this only ends a test that hangs."""
TESTS = Path(__file__).parents[2]

SPEC = ModelSpec(
    columns=(Column("age", 40.0, 10.0), Column("sex", levels=("F", "M"))),
    width=16,
    layers=1,
    heads=2,
    kv_heads=2,
    inner=16,
    seed=3,
)
TIMES = {
    "beat_ms": 300,
    "fresh_ms": 3_000,
    "patience_ms": 2_000,
    "view_ms": 1_500,
    "ask_ms": 600,
    "backup_ms": 1_000,
    "upload_floor_ms": 3_000,
    "grace_ms": 60_000,
    "idle_ms": 2_000,
}


def plan(spec, **times):
    """A model file whose rounds take a second, and whose hold-outs like every sum."""
    made = Plan(
        title="small",
        spec=spec.to_dict(),
        task={"id": "id", "label": "y", "above": 0.5, "held_out_percent": 30},
        train={"steps": 2, "batch": 8, "trunk_rate": 0.01, "ends_rate": 0.01},
        outer={"tolerance": 1000},
        sum={**TIMES, **times},
    )
    return canonical_plan(made).decode()


def table(seed, rows=60):
    """A table whose answer follows from age and sex."""
    draw = np.random.default_rng(seed)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["id", "age", "sex", "y"])
    for number in range(rows + 5 * seed):
        age, sex = draw.normal(40, 10), draw.integers(2)
        answer = int(age + 10 * sex + draw.normal(0, 3) > 45)
        writer.writerow([f"{seed}-{number}", f"{age:.1f}", "FM"[sex], answer])
    return out.getvalue()


class Live:
    """A federation of processes and the one run they have."""

    def __init__(self, place, programs, names):
        self.place = place
        self.programs = programs
        self.names = names
        self.watch = place.folder / "watch"
        self.watch.mkdir()
        self.datasets = {}
        self.run, self.spec = "", SPEC
        self._traps = 0

    # Processes -----------------------------------------------------------------------

    def start(self, name, *, lie="", wait=True):
        path = os.pathsep.join([str(TESTS / "e2e"), str(TESTS / "sim")])
        self.programs.start(
            name,
            "live.watched",
            *("--home", str(self.place.sites[name].home.path)),
            env={
                **self.place.environment(),
                "PYTHONPATH": os.pathsep.join(
                    [path, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
                ),
                "REXIS_LIVE_FOLDER": str(self.watch),
                "REXIS_LIVE_NAME": name,
                "REXIS_LIVE_LIE": lie,
            },
        )
        if wait:
            self.answers(name)

    def answers(self, name):
        """Until the node answers its operator."""

        def ready():
            self.programs.check(name)
            try:
                self.call(name, "status.get")
            except NodeError:
                return False  # the socket is not there yet
            return True

        until(ready, f"{name} to answer", LONG_S)

    def start_all(self, lies=()):
        for name in self.names:
            worker = str(self.place.sites[name].home.worker_socket)
            self.programs.start(f"{name}-worker", "node.worker", "--socket", worker)
            self.start(name, lie=dict(lies).get(name, ""), wait=False)
        for name in self.names:
            self.answers(name)
        self.connected()

    def connected(self):
        def all_here():
            return all(
                self.call(name, "status.get")["connected"] >= len(self.names) - 1
                for name in self.names
            )

        until(all_here, "all to find each other", LONG_S)

    def kill_chain(self):
        self.programs.kill("chain")

    def revive_chain(self):
        port = urlsplit(self.place.chain_url).port
        sites.start_chain(self.place.folder, port, self.programs)

    # Operators -----------------------------------------------------------------------

    def call(self, name, method, **params):
        return self.place.sites[name].call(method, **params)

    def publish_all(self):
        """A dataset of each member, while the chain is there."""

        def publish(name):
            path = self.place.folder / f"{name}.csv"
            path.write_text(table(self.names.index(name)))
            path.chmod(0o600)
            texts = {"licence": "CC0-1.0", "duo": ["DUO:0000042"], "source": "drawn"}
            shown = self.call(
                name, "datasets.publish", paths=[str(path)], title=name, **texts
            )
            return shown["dataset"]

        with ThreadPoolExecutor(len(self.names)) as stewards:
            tokens = list(stewards.map(publish, self.names))
        self.datasets = dict(zip(self.names, tokens, strict=True))

    def begin(self, rounds, *, spec=SPEC, **times):
        """The first member proposes a run, the others join."""
        self.spec = spec
        first, *others = self.names
        row = self.call(
            first,
            "runs.propose",
            plan=plan(spec, **times),
            rounds=rounds,
            members=list(self.names),
            dataset=self.datasets[first],
        )
        self.run = row["run"]
        for name in others:
            until(lambda name=name: self._knows(name), f"{name} to hear of it", LONG_S)
            self.call(name, "runs.join", run=self.run, dataset=self.datasets[name])

    def _knows(self, name):
        return any(r["run"] == self.run for r in self.call(name, "runs.list")["runs"])

    def done(self, name):
        """Rounds with a verdict at this node; -1 where it does not answer."""
        self.programs.check(name)
        try:
            return int(self.call(name, "runs.show", run=self.run)["round"])
        except NodeError:
            return -1

    def until_round(self, number, names=None):
        """Until all of these have a verdict on `number` rounds; the seconds it took."""
        names, since = names or self.names, time.monotonic()
        until(
            lambda: all(self.done(name) >= number for name in names),
            f"{', '.join(names)} to finish {number} rounds",
            LONG_S,
        )
        return time.monotonic() - since

    def rounds(self, name):
        return self.call(name, "rounds.list", run=self.run)["rounds"]

    def events(self, name, kind):
        found, after = [], 0
        while page := self.call(name, "events.list", after=after, limit=500)["events"]:
            found += [each for each in page if each["kind"] == kind]
            after = page[-1]["number"]
        return found

    # Traps ---------------------------------------------------------------------------

    def trap(self, label, when="after", *, proposes=None, spares=()):
        """End the next member that writes such a record; who it was.

        `proposes`: only one whose turn it is, or is not, in the decision it spoke in last.
        """
        self._traps += 1
        trap = {
            "number": self._traps,
            "label": label,
            "when": when,
            "proposes": proposes,
            "spares": list(spares),
        }
        aside = self.watch / "trap.new"
        aside.write_text(json.dumps(trap))
        aside.replace(self.watch / "trap.json")
        until(lambda: self._fallen() is not None, f"a kill {when} {label!r}", LONG_S)
        victim = self._fallen()
        self.programs.kill(victim)  # it is dead; this only takes it off the list
        (self.watch / "trap.json").unlink()
        return victim

    def _fallen(self):
        for name in self.names:
            if not _is_alive(self.programs.pids()[name]):
                return name
        return None


def _is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except FileNotFoundError:
        return False


@contextmanager
def prepared(folder, count=4):
    """Homes, chain and registry of `count` members; nothing of theirs runs yet."""
    names = NAMES[:count]
    with pytest.MonkeyPatch.context() as patch, Programs(folder / "logs") as programs:
        patch.setattr(sites, "CLINICS", names)
        roles = dict.fromkeys(names, sites._ROLES["MN"])
        patch.setattr(sites, "_ROLES", {**sites._ROLES, **roles})
        kinds = dict.fromkeys(names, "institution")
        patch.setattr(sites, "_KINDS", {**sites._KINDS, **kinds})
        whole = sites.prepare(folder, programs)
        members = {name: whole.sites[name] for name in names}
        yield Live(replace(whole, sites=members), programs, names)
