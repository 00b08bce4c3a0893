"""The trusted child's part of a round that needs torch: local steps on own records."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ee.hyper import TrainHyper
from node.adapters.blob_dir import BlobDir
from node.compute import state
from node.compute.kinds import model_of
from node.compute.models import Steps

Progress = Callable[[dict[str, Any]], None]


def local(params: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """One member's steps between two sums; the update becomes a blob.

    params: spec, task, train, folder, models, root, records, worker (socket path), key_seed,
    batch_seed, elapsed, left (root of what earlier rounds kept back, or empty), blobs.
    """
    import torch

    torch.set_num_threads(1)
    model = model_of(params, params["task"])
    before = state.read(Path(params["folder"]), params["root"], model.size)

    def tell(done: int, of: int, loss: float) -> None:
        progress({"step": done, "of": of, "loss": round(loss, 6)})

    steps = Steps(
        TrainHyper.from_dict(params["train"]),
        worker=params["worker"],
        key_seed=params["key_seed"],
        batch_seed=params["batch_seed"],
        elapsed=params["elapsed"],
        tell=tell,
    )
    result = model.train(before, params["records"], steps)
    delta = result.delta
    if params["left"]:
        delta = delta + state.read(Path(params["folder"]), params["left"], before.size)
    blobs = BlobDir(params["blobs"])
    return {
        "update": blobs.put(delta.astype("<f4").tobytes()),
        "samples": result.samples,
        "loss_first": result.loss_first,
        "loss_last": result.loss_last,
        "norm": float(np.linalg.norm(delta)),
    }
