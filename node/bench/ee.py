"""What a key costs and what it changes: `rexis bench ee --json`.

For every architecture, a stock model against its own keyed form:

    rel_error, argmax_agreement   the worst of three random keys, float32, and `_fp64`
    forward_ratio, step_ratio     keyed trunk over plain trunk, median over blocks of six
                                  in turn; a step is forward, backward and optimiser
    forward_noise, step_noise     the same for the plain trunk once more: what the two above
                                  would show of a key that costs nothing
    drift_ratio                   weights after 200 steps, keyed against plain, over what
                                  float32 differs from float64; median of three models
    drift_ratios                  the three
    drift_fp64                    keyed against plain after 200 steps in float64
    adamw_control                 `drift_ratio` for AdamW after 50 steps, of one model: far
                                  above 1, or the measure would show nothing

One ratio says little: two hundred steps multiply a rounding by a hundred to a million, and
how it falls is chance (docs/ee.md §7).  A key that did not commute would not shrink with
the precision; `drift_fp64` does.

`split.step_ratio` is a training step of a 12-layer trunk in a worker process, with stem,
head, key and both hops, over the same model in one process.

Ratios of trunks are of processor time, since other programs take turns on a machine.
`split` spans two processes: `step_ratio` is of wall time, `step_work_ratio` of the
processor time of both.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ee.keys.key import Key, state_keyed
from ee.optim import Equivariant
from ee.split import Split, split_model
from ee.testing import float64_throughout, relative_error
from node.bench import ee_models, ee_split

WIDTH, LAYERS, BATCH = 256, 3, 4
SMALL_WIDTH, SMALL_LAYERS = 32, 3
KEYS = 3
STEPS, ADAMW_STEPS = 200, 50
MODELS = 3
BLOCKS = 12
"""Of six runs each."""

SPLIT = "split"
NAMES = (*ee_models.MAKERS, "minilm", SPLIT)

Numbers = dict[str, float]


def run(quick: bool, names: Iterable[str] = NAMES) -> dict[str, Any]:
    """Architectures by name, and the split where it is among them."""
    blocks = 3 if quick else BLOCKS
    steps = (20, 10) if quick else (STEPS, ADAMW_STEPS)
    found: dict[str, Any] = {}
    split: dict[str, float] | None = None
    for name in names:
        sys.stderr.write(f"{name}\n")
        if name == SPLIT:
            split = ee_split.measure(pairs=3 if quick else 10)
            continue
        if name == "minilm":
            real = ee_models.minilm()
            if real is not None:
                # Muon takes seconds for a step of this size.
                found[name] = _whole(name, real, blocks // 3)
            continue
        model = ee_models.make(name, WIDTH, LAYERS, torch.float32)
        wide = ee_models.make(name, WIDTH, LAYERS, torch.float64)
        exact = _exactness(name, wide, torch.float64)
        found[name] = {
            **_whole(name, model, blocks),
            "rel_error_fp64": exact["rel_error"],
            "argmax_agreement_fp64": exact["argmax_agreement"],
            **_drift(name, 2 if quick else MODELS, *steps),
        }
    return {
        "architectures": found,
        "split": split,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
    }


def _whole(name: str, model: nn.Module, blocks: int) -> Numbers:
    return {
        **_exactness(name, model, torch.float32),
        **_cost(split_model(model, stem_layers=1), blocks),
    }


def _exactness(name: str, model: nn.Module, dtype: torch.dtype) -> Numbers:
    """Stem, keyed trunk and head against the stock model, for `KEYS` random keys."""
    inputs = ee_models.batch(name, BATCH, dtype)
    parts = split_model(model, stem_layers=1)
    stem, gain, run_trunk = parts.build_stem(), parts.build_gain(), _runner(parts)
    errors, agreements = [], []
    for number in range(KEYS):
        key = Key(bytes([number + 1]) * 32, parts.plan)
        trunk = parts.build_trunk(state_keyed(parts.trunk, key))
        with torch.no_grad(), _lifted(dtype):
            wanted = ee_models.base(model)(**inputs).last_hidden_state
            found = gain(key.leave(run_trunk(trunk, key.enter(stem(**inputs)))))
            one, two = (ee_models.answers(model, h) for h in (found, wanted))
        errors.append(relative_error(found, wanted))
        agreements.append(float((one == two).double().mean()))
    return {"rel_error": max(errors), "argmax_agreement": min(agreements)}


def _runner(parts: Split) -> Callable[[nn.Module, Tensor], Tensor]:
    return lambda trunk, rows: parts.cut.architecture.run(trunk, rows, None)


def _lifted(dtype: torch.dtype) -> AbstractContextManager[None]:
    return float64_throughout() if dtype is torch.float64 else nullcontext()


def _cost(parts: Split, blocks: int) -> Numbers:
    """Keyed over plain: forward, and a whole training step.

    All numbers are put into one trunk in turn, so that where in memory a copy came to lie is
    not measured.
    """
    states = {
        "plain": parts.trunk,
        "again": parts.trunk,
        "keyed": state_keyed(parts.trunk, Key(bytes(32), parts.plan)),
    }
    shape = (BATCH, ee_models.TOKENS, parts.plan.width)
    # Towards a target: the mean square of normed rows is a constant, without a gradient.
    rows, target = torch.randn(shape), torch.randn(shape)
    run_trunk, trunk = _runner(parts), parts.build_trunk()
    optimiser = Equivariant(trunk.named_parameters(), parts.plan, lr=1e-4)

    def become(kind: str) -> None:
        trunk.load_state_dict(states[kind])

    def forward() -> None:
        with torch.no_grad():
            run_trunk(trunk, rows)

    def step() -> None:
        (run_trunk(trunk, rows) - target).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()

    forward_ratio, forward_noise = _paired(become, forward, 2 * blocks)
    step_ratio, step_noise = _paired(become, step, blocks)
    return {
        "forward_ratio": forward_ratio,
        "forward_noise": forward_noise,
        "step_ratio": step_ratio,
        "step_noise": step_noise,
    }


def _paired(
    become: Callable[[str], None], work: Callable[[], None], blocks: int
) -> tuple[float, float]:
    """Medians over blocks of processor time: keyed over plain, and plain again over plain.

    A block is all three and then all three backwards, each block with another in front:
    whatever changes slowly (a clock's frequency, a neighbour in the caches) falls on all alike.
    """
    kinds = ["plain", "keyed", "again"]
    for kind in kinds:
        become(kind)
        work()
    ratios: dict[str, list[float]] = {"keyed": [], "again": []}
    for _ in range(blocks):
        kinds = [*kinds[1:], kinds[0]]
        took = dict.fromkeys(kinds, 0.0)
        for kind in (*kinds, *reversed(kinds)):
            become(kind)
            started = time.process_time()
            work()
            took[kind] += time.process_time() - started
        for kind, seen in ratios.items():
            seen.append(took[kind] / took["plain"])
    return statistics.median(ratios["keyed"]), statistics.median(ratios["again"])


def _drift(name: str, models: int, steps: int, adamw_steps: int) -> dict[str, Any]:
    """How far keyed training ends from plain training, in units of rounding."""
    ratios: list[float] = []
    exact: list[float] = []
    for seed in range(models):
        parts = _small(name, seed)
        key = Key(bytes([seed]) * 32, parts.plan)
        plain = _trained(parts, None, torch.float32, "equivariant", steps)
        wide = _trained(parts, None, torch.float64, "equivariant", steps)
        keyed = _trained(parts, key, torch.float32, "equivariant", steps)
        ratios.append(_distance(keyed, plain) / _distance(plain, wide))
        if not exact:
            again = _trained(parts, key, torch.float64, "equivariant", steps)
            exact.append(_distance(again, wide))
    return {
        "drift_ratio": statistics.median(ratios),
        "drift_ratios": ratios,
        "drift_fp64": exact[0],
        "adamw_control": _adamw_control(_small(name, 0), adamw_steps),
    }


def _small(name: str, seed: int) -> Split:
    model = ee_models.make(name, SMALL_WIDTH, SMALL_LAYERS, torch.float32, seed)
    return split_model(model, stem_layers=1)


def _adamw_control(parts: Split, steps: int) -> float:
    key = Key(bytes(32), parts.plan)
    plain = _trained(parts, None, torch.float32, "adamw", steps)
    wide = _trained(parts, None, torch.float64, "adamw", steps)
    keyed = _trained(parts, key, torch.float32, "adamw", steps)
    return _distance(keyed, plain) / _distance(plain, wide)


def _trained(
    parts: Split, key: Key | None, dtype: torch.dtype, make: str, steps: int
) -> dict[str, Tensor]:
    """Weights after `steps` steps towards a fixed target, brought home, in float64."""
    state = {name: tensor.to(dtype) for name, tensor in parts.trunk.items()}
    trunk = parts.build_trunk(state if key is None else state_keyed(state, key))
    learning = [p for p in trunk.parameters() if p.requires_grad]
    optimiser: torch.optim.Optimizer
    if make == "adamw":
        optimiser = torch.optim.AdamW(learning, lr=0.003, weight_decay=0.05)
    else:
        optimiser = Equivariant(
            trunk.named_parameters(), parts.plan, lr=0.01, weight_decay=0.05
        )
    generator = torch.Generator().manual_seed(2)
    shape = (3, 8, parts.plan.width)
    x, target = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for _ in range(2)
    )
    run_trunk = _runner(parts)
    for _ in range(steps):
        with _lifted(dtype):
            y = run_trunk(trunk, x if key is None else key.enter(x))
            home = y if key is None else key.leave(y)
            (home - target).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(learning, 0.5)
        optimiser.step()
        optimiser.zero_grad()
    weights = {
        n: p.detach().clone() for n, p in trunk.named_parameters() if p.requires_grad
    }
    if key is not None:
        weights = {name: key.unkey(name, tensor) for name, tensor in weights.items()}
    return {name: tensor.double() for name, tensor in weights.items()}


def _distance(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    over = sum(float((left[n] - right[n]).square().sum()) for n in right)
    return (over / sum(float(t.square().sum()) for t in right.values())) ** 0.5


def main(argv: Sequence[str]) -> int:
    """Print what `run` found."""
    parser = argparse.ArgumentParser(prog="rexis bench ee", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--quick", action="store_true", help="fewer pairs and steps")
    parser.add_argument(
        "--only",
        metavar="NAME",
        action="append",
        choices=NAMES,
        help=f"repeated; of {', '.join(NAMES)}",
    )
    options = parser.parse_args(argv)
    started = time.perf_counter()
    answer = run(options.quick, options.only or NAMES)
    answer["seconds"] = round(time.perf_counter() - started, 1)
    if options.json:
        print(json.dumps(answer))
        return 0
    for name, numbers in answer["architectures"].items():
        print(name)
        for what, value in numbers.items():
            shown = value if isinstance(value, list) else [value]
            print(f"  {what:22} {' '.join(f'{number:.3g}' for number in shown)}")
    if answer["split"] is not None:
        print(f"split step ratio {answer['split']['step_ratio']}")
    return 0
