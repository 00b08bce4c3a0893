"""What integers cost in answers, and what the key's rotation does to rounding:
`python -m node.bench accuracy --json`.

Two tasks: chapters of ICD-10-CM by a MiniLM (`node.bench.accuracy_text`), and the demo's: the model is trained on the pooled records in the clear, then its held-out
patients are scored by the float model, by the integer trunk without a key, and by integer
trunks under several keys.  The rotation spreads large entries over the residual; the error
is that of the summary row after the trunk, relative to what the trunk changed.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ee import integer
from ee.keys import TrunkKey, key_trunk
from ee.spec import Arrays, ModelSpec, Vector, initial_state, part, split, trunk_config
from ee.table import final_norm, head_scores, stem_tokens
from node.bench import accuracy_text
from node.compute import table
from node.demo import opt

KEYS = 5


def run(quick: bool) -> dict[str, Any]:
    """Both tasks; `quick` has few texts and one pass over them."""
    size = accuracy_text.QUICK if quick else accuracy_text.FULL
    return {"table": of_the_demo(), "text": accuracy_text.run(size)}


def of_the_demo() -> dict[str, Any]:
    """AUC of each way, and relative errors without and under a key."""
    plan = opt.plan()
    spec, task = ModelSpec.from_dict(plan.spec), table.task(plan.task)
    records = table.records(spec, task, opt.csv_bytes(opt.CLINICS))
    state = _trained(spec, plan.train, *records.training())
    values, labels = records.testing()
    return compared(spec, state, values, labels)


def compared(
    spec: ModelSpec,
    state: Vector,
    values: NDArray[np.float64],
    labels: NDArray[np.float64],
) -> dict[str, Any]:
    """The report for a trained state and held-out records."""
    from ee.trunk import Trunk

    arrays = split(spec, state)
    rows = stem_tokens(spec, part(arrays, "stem"), values)
    weights = part(arrays, "trunk")
    exact = Trunk(trunk_config(spec), weights).forward(rows, train=False)[:, -1]
    plain = _last(spec, weights, rows)
    keyed = []
    for number in range(KEYS):
        key = TrunkKey.generate(number.to_bytes(32, "big"), spec)
        last = _last(spec, key_trunk(weights, key), key.enter(rows))
        keyed.append(key.leave(last))

    def auc(normed: NDArray[Any]) -> float:
        scores = head_scores(part(arrays, "head"), normed)
        found = table.auc(scores, labels)
        assert found is not None
        return round(found, 4)

    def error(last: NDArray[Any]) -> float:
        gap = final_norm(spec, last) - exact
        return float(np.linalg.norm(gap) / np.linalg.norm(exact))

    errors = [error(last) for last in keyed]
    return {
        "auc_fp32": auc(exact),
        "auc_int_plain": auc(final_norm(spec, plain)),
        "auc_int_keyed": [auc(final_norm(spec, last)) for last in keyed],
        "error_plain": round(error(plain), 5),
        "error_keyed": round(float(np.median(errors)), 5),
        "rotation_gain": round(error(plain) / float(np.median(errors)), 2),
        "held_out": len(labels),
    }


def _trained(
    spec: ModelSpec,
    train: dict[str, Any],
    values: NDArray[np.float64],
    labels: NDArray[np.float64],
) -> Vector:
    """The pooled yardstick's training, in the clear."""
    from ee.hyper import TrainHyper
    from ee.session import LocalTrunk, train_local

    state = initial_state(spec)
    for number in range(opt.ROUNDS):
        result = train_local(
            spec,
            state,
            values,
            labels,
            TrainHyper.from_dict(train),
            LocalTrunk(),
            number.to_bytes(32, "big"),
            batch_seed=number,
            elapsed=number / opt.ROUNDS,
        )
        state = state + result.delta
    return state


def _last(spec: ModelSpec, weights: Arrays, rows: NDArray[Any]) -> NDArray[np.float32]:
    """The summary row after an integer trunk of these weights."""
    trunk = integer.quantise(weights, trunk_config(spec), tokens=spec.tokens)
    output = trunk.forward(integer.encode_rows(rows)).output
    return integer.decode_rows(output[:, -1:])[:, 0]


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="rexis bench accuracy", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line instead of many")
    parser.add_argument("--quick", action="store_true", help="few texts, one pass")
    options = parser.parse_args(argv)
    print(json.dumps(run(options.quick), indent=None if options.json else 1))
