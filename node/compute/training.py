"""The trusted child's part of a round that needs torch: local steps on own records."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ee.hyper import TrainHyper
from ee.session import train_local
from ee.spec import ModelSpec, size
from node.adapters.blob_dir import BlobDir
from node.compute import state, table
from node.worker.client import WorkerClient

Progress = Callable[[dict[str, Any]], None]


def local(params: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """One member's steps between two sums; the update becomes a blob.

    params: spec, task, train, folder, root, records, worker (socket path), key_seed,
    batch_seed, elapsed, blobs.
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
    blobs = BlobDir(params["blobs"])
    return {
        "update": blobs.put(result.delta.astype("<f4").tobytes()),
        "samples": result.samples,
        "loss_first": result.loss_first,
        "loss_last": result.loss_last,
        "norm": float(np.linalg.norm(result.delta)),
    }
