"""Training methods of the trusted child: local steps and held-out scores; these need torch."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ee.hyper import TrainHyper
from ee.session import predict, train_local
from ee.spec import ModelSpec, size
from node.compute import state, table
from node.worker.client import WorkerClient

Progress = Callable[[dict[str, Any]], None]


def local(params: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """One member's steps between two sums; the update goes to the file `out`.

    params: spec, task, train, folder, root, records, worker (socket path), key_seed,
    batch_seed, elapsed, out.
    """
    import torch

    torch.set_num_threads(1)
    spec, question = ModelSpec.from_dict(params["spec"]), table.task(params["task"])
    records = table.records(spec, question, params["records"])
    values, labels = records.training()
    before = state.read(Path(params["folder"]), params["root"], size(spec))

    def tell(done: int, of: int, loss: float) -> None:
        progress({"step": done, "of": of, "loss": round(loss, 6)})

    with WorkerClient(params["worker"]) as worker:
        result = train_local(
            spec,
            before,
            values,
            labels,
            TrainHyper.from_dict(params["train"]),
            worker,
            params["key_seed"],
            batch_seed=params["batch_seed"],
            elapsed=params["elapsed"],
            progress=tell,
        )
    state.write_file(Path(params["out"]), result.delta.astype("<f4").tobytes())
    return {
        "samples": result.samples,
        "loss_first": result.loss_first,
        "loss_last": result.loss_last,
        "norm": float(np.linalg.norm(result.delta)),
    }


def evaluate(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{spec, task, folder, root, records} -> AUC and loss on this node's held-out records."""
    spec, question = ModelSpec.from_dict(params["spec"]), table.task(params["task"])
    values, labels = table.records(spec, question, params["records"]).testing()
    weights = state.read(Path(params["folder"]), params["root"], size(spec))
    scores = predict(spec, weights, values)
    signed = np.where(labels > 0.5, -scores, scores)
    return {
        "held_out": len(labels),
        "auc": table.auc(scores, labels),
        "loss": float(np.logaddexp(0.0, signed).mean()) if len(labels) else None,
    }
