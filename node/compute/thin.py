"""A run over thin links: which entries travel, and what a member keeps of the others."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from node.adapters.blob_dir import BlobDir
from node.compute import state
from protocol.aggregate.coordinates import Chosen, kept
from protocol.types import Digest

Params = Mapping[str, Any]


def chosen(params: Params, size: int) -> Chosen | None:
    """The choice of `thin`, {seed, one_in}; None where it is null and all entries travel."""
    thin = params["thin"]
    if thin is None:
        return None
    made = Chosen(thin["seed"], size, thin["one_in"])
    made.check()
    return made


def keep(params: Params, _progress: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """{update, thin, folder, blobs} -> {root}: what of an update that was summed is left."""
    blobs, blob = BlobDir(params["blobs"]), Digest(params["update"])
    update = np.frombuffer(blobs.read(blob, 0, blobs.size(blob)), "<f4")
    choice = chosen(params, update.size)
    left = np.zeros_like(update) if choice is None else kept(update, choice.places())
    return {"root": state.write(Path(params["folder"]), left)}
