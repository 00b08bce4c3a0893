"""Does the federation learn what one place with all records would?

Real records, the training code of a run (`ee.session`, keyed), the rounding and the sum of a run
(`protocol.aggregate`), its outer step; only the network is left out, since masks vanish to the
last bit and rounds of real daemons give the same states (docs/protocol.md §5.11).  Ways to train, each for as many
rounds and local steps:

    pooled      all records in one place, and per step as many as the four look at together
    federation  four members, every one in every round
    dropping    the same, one of them away in every third round
    thin        the federation again, one entry of eight travelling in a round (§5.12)
    NAME        that member alone

or, with `--outer`, outer steps of the federation (§5.8):

    mean        every round's mean, as above
    rate        0.7 of it
    half        that with Nesterov's momentum 0.5
    momentum    that with momentum 0.9, as DiLoCo has it

Every member's held-out records together judge all of them.  Another seed draws other first
weights, batches and keys, and lets another member drop out.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import cpu_count, get_context
from pathlib import Path
from typing import Any

import numpy as np

from ee.hyper import TrainHyper
from ee.outer import look_ahead, outer_step
from ee.session import LocalTrunk, predict, train_local
from ee.spec import ModelSpec, Vector, initial_state
from node.bench import splicing
from node.compute import table
from node.compute.rounds import FIRST_EXPONENT
from node.demo import opt
from protocol.aggregate import coordinates
from protocol.aggregate.ring import blocks, mean_factor, weight_factor
from protocol.course import Outer
from protocol.rounds.policy import Policy

SEEDS = (1, 2, 3)
AWAY_EVERY = 3
ONE_IN = 8
PLAIN = Outer()
STEPS = {
    "mean": PLAIN,
    "rate": Outer(rate=0.7),
    "half": Outer(rate=0.7, momentum=0.5),
    "momentum": Outer(rate=0.7, momentum=0.9),
}
Told = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """One set of records, cut as its institutions hold it."""

    name: str
    title: str
    spec: Callable[[int], ModelSpec]
    question: Mapping[str, Any]
    tables: Callable[[], dict[str, bytes]]
    train: Mapping[str, Any]
    rounds: int


def _opt_spec(seed: int) -> ModelSpec:
    return ModelSpec(
        columns=opt.COLUMNS,
        width=32,
        layers=2,
        heads=4,
        kv_heads=4,
        inner=64,
        seed=seed,
    )


TASKS = (
    Task(
        name="opt",
        title="obstetric trial, four clinics",
        spec=_opt_spec,
        question=opt.plan().task,
        tables=lambda: {name: opt.csv_bytes([name]) for name in opt.CLINICS},
        train=opt.plan().train,
        rounds=8,
    ),
    Task(
        name="splicing",
        title="splice sites, four labs of another base each",
        spec=splicing.spec,
        question=splicing.TASK,
        tables=splicing.tables,
        train={"steps": 20, "batch": 48, "trunk_rate": 0.01, "ends_rate": 0.003},
        rounds=8,
    ),
)


class Trial:
    """One task under one seed."""

    def __init__(self, task: Task, seed: int) -> None:
        self._task = task
        self._seed = seed
        self._spec = task.spec(seed)
        question = table.task(task.question)
        self._tables = {
            name: table.records(self._spec, question, data)
            for name, data in task.tables().items()
        }
        tests = [records.testing() for records in self._tables.values()]
        self._values = np.concatenate([values for values, _ in tests])
        self._labels = np.concatenate([labels for _, labels in tests])
        self.members = tuple(self._tables)

    def curves(self, tell: Told) -> dict[str, list[dict[str, float]]]:
        """Way to what its state scores after each round, the first state's score first."""
        everyone = frozenset(self.members)
        leaver = self.members[self._seed % len(self.members)]

        def dropping(number: int) -> frozenset[str]:
            late = number % AWAY_EVERY == AWAY_EVERY - 1
            return everyone - {leaver} if late else everyone

        tell("pooled")
        found = {"pooled": self._alone(self.members)}
        tell("federation")
        found["federation"] = self._together(lambda _number: everyone)
        tell("dropping")
        found["dropping"] = self._together(dropping)
        tell("thin")
        found["thin"] = self._together(lambda _number: everyone, ONE_IN)
        for name in self.members:
            tell(f"{name} alone")
            found[name] = self._alone((name,))
        return found

    def steps(self, tell: Told) -> dict[str, list[dict[str, float]]]:
        """The same for outer steps, everyone in every round."""
        everyone = frozenset(self.members)
        found = {}
        for name, step in STEPS.items():
            tell(name)
            found[name] = self._together(lambda _number: everyone, step=step)
        return found

    def _alone(self, members: Sequence[str]) -> list[dict[str, float]]:
        parts = [self._tables[name].training() for name in members]
        values = np.concatenate([values for values, _ in parts])
        labels = np.concatenate([labels for _, labels in parts])
        state = initial_state(self._spec)
        scores = [self._score(state)]
        for number in range(self._task.rounds):
            batch = int(self._task.train["batch"]) * len(members)
            state = state + self._trained(state, values, labels, number, 0, batch)
            scores.append(self._score(state))
        return scores

    def _together(
        self,
        present: Callable[[int], frozenset[str]],
        one_in: int = 1,
        step: Outer = PLAIN,
    ) -> list[dict[str, float]]:
        """Rounds as a run has them: chosen, rounded, summed over who is there, stepped."""
        ring = Policy(1).ring()
        weights = {
            name: len(records.training()[1]) for name, records in self._tables.items()
        }
        whole, count = sum(weights.values()), len(weights)
        state = initial_state(self._spec)
        summed = coordinates.count(state.size, one_in)
        exponents = np.full(blocks(summed), FIRST_EXPONENT, np.int8)
        left = {name: np.zeros_like(state) for name in weights}
        velocity = np.zeros_like(state)
        chance = np.random.default_rng(self._seed)
        scores = [self._score(state)]
        for number in range(self._task.rounds):
            there = sorted(present(number))
            total = np.zeros(summed, ring.dtype)
            drawn = coordinates.seed(bytes([self._seed] * 32), number)
            places = coordinates.Chosen(drawn, state.size, one_in).places()
            for name in there:
                values, labels = self._tables[name].training()
                place = 1 + self.members.index(name)
                delta = self._trained(state, values, labels, number, place)
                delta += left[name]
                left[name] = coordinates.kept(delta, places)
                factor = weight_factor(weights[name], whole, count)
                total += ring.encode(delta[places], exponents, factor, chance).words
            here = sum(weights[name] for name in there)
            mean = ring.decode(total, exponents, mean_factor(here, whole, count))
            exponents = ring.next_exponents(total, exponents, len(there))
            state = state.copy()
            if step.momentum:
                velocity[places], mean = look_ahead(
                    velocity[places], mean, momentum=step.momentum
                )
            state[places] = outer_step(state[places], mean, rate=step.rate)
            scores.append(self._score(state))
        return scores

    def _trained(
        self,
        state: Vector,
        values: Any,
        labels: Any,
        number: int,
        place: int,
        batch: int | None = None,
    ) -> Vector:
        train = dict(self._task.train)
        if batch is not None:
            train["batch"] = batch
        drawn = 1_000_000 * self._seed + 1_000 * number + place
        result = train_local(
            self._spec,
            state,
            values,
            labels,
            TrainHyper.from_dict(train),
            LocalTrunk(),
            drawn.to_bytes(32, "big"),
            batch_seed=drawn,
            elapsed=number / self._task.rounds,
        )
        return result.delta.astype(np.float32)

    def _score(self, state: Vector) -> dict[str, float]:
        scores = predict(self._spec, state, self._values)
        signed = np.where(self._labels > 0.5, -scores, scores)
        auc = table.auc(scores, self._labels)
        assert auc is not None
        return {
            "auc": round(auc, 4),
            "loss": round(float(np.logaddexp(0.0, signed).mean()), 4),
        }


def _one(number: int, seed: int, outer: bool) -> dict[str, list[dict[str, float]]]:
    """A process's part: one task under one seed."""
    import torch

    torch.set_num_threads(1)
    task = TASKS[number]

    def tell(way: str) -> None:
        sys.stderr.write(f"{task.name}, seed {seed}: {way}\n")

    trial = Trial(task, seed)
    return trial.steps(tell) if outer else trial.curves(tell)


def run(
    quick: bool = False,
    folder: Path | None = None,
    processes: int | None = None,
    *,
    outer: bool = False,
) -> dict[str, Any]:
    """Task to its curves, seed by seed, and what they end with; `outer`: of `STEPS`."""
    found: dict[str, Any] = {}
    seeds = SEEDS[:1] if quick else SEEDS
    pairs = [(number, seed) for number in range(len(TASKS)) for seed in seeds]
    for task in TASKS:
        task.tables()  # fetched once, not by each process
    fresh = get_context("spawn")  # a fork of a process with threads may hang
    with ProcessPoolExecutor(processes or cpu_count(), mp_context=fresh) as pool:
        all_runs = dict(
            zip(
                pairs,
                pool.map(partial(_one, outer=outer), *zip(*pairs, strict=True)),
                strict=True,
            )
        )
    for place, task in enumerate(TASKS):
        runs = [all_runs[place, seed] for seed in seeds]
        ways = list(runs[0])
        found[task.name] = {
            "title": task.title,
            "rounds": task.rounds,
            "seeds": len(seeds),
            "curves": {way: [one[way] for one in runs] for way in ways},
            "last": {way: _last([one[way] for one in runs]) for way in ways},
        }
        if outer:
            found[task.name]["reached"] = {
                way: [_reached(one, way) for one in runs] for way in ways
            }
    if folder is not None:
        from node.bench.curves import draw

        for name, one in found.items():
            (folder / f"convergence-{name}.svg").write_text(draw(one))
        text = json.dumps(found, separators=(",", ":"))
        (folder / "convergence.json").write_text(text + "\n")
    return found


def _reached(ways: Mapping[str, Sequence[Mapping[str, float]]], way: str) -> int | None:
    """The first round after which `way` has the loss that the rate alone ends with."""
    aim = ways["rate"][-1]["loss"]
    rounds = (number for number, at in enumerate(ways[way]) if at["loss"] <= aim)
    return next(rounds, None)


def _last(runs: Sequence[Sequence[Mapping[str, float]]]) -> dict[str, list[float]]:
    """Mean and spread (least, most) over the seeds, after the last round."""
    out = {}
    for figure in ("auc", "loss"):
        ends = [one[-1][figure] for one in runs]
        mean = round(float(np.mean(ends)), 4)
        out[figure] = [mean, min(ends), max(ends)]
    return out


def main(arguments: Sequence[str]) -> None:
    """`--quick`: one seed; `--outer`: of outer steps; `--into DIR` keeps the figures and their drawings there."""
    import argparse

    parser = argparse.ArgumentParser(prog="rexis bench convergence")
    parser.add_argument("--json", action="store_true", help="one line instead of many")
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--outer", action="store_true", help="outer steps instead")
    parser.add_argument("--into", type=Path, metavar="DIR", help="write drawings there")
    parser.add_argument("--processes", type=int, metavar="N", help="default: the cores")
    options = parser.parse_args(arguments)
    if options.outer and options.into:
        parser.error("--outer has figures and no drawing: leave --into out")
    found = run(options.quick, options.into, options.processes, outer=options.outer)
    shown = {name: {**one, "curves": None} for name, one in found.items()}
    print(json.dumps(shown, indent=None if options.json else 2))
