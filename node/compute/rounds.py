"""Aggregation methods of the trusted child: the vector work behind a round's effects.

The rules are in `protocol.aggregate`; this is files in, files out around them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ee.outer import outer_step
from node.adapters.blob_dir import BlobDir
from node.compute import state
from node.errors import ComputeError
from protocol.aggregate import masks, ring
from protocol.types import Digest

Progress = Callable[[dict[str, Any]], None]
Words = NDArray[np.uint32]


def mask(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """Round, mask and cut an update; the shards become blobs.

    params: update (path), weight, members (how many), me, context, secrets {key: secret},
    seed, bounds [[start, stop]], blobs (path).  -> {shards: [digest], cut}
    """
    update = np.frombuffer(Path(params["update"]).read_bytes(), "<f4")
    encoded = ring.encode(update, params["weight"], params["members"])
    masked = masks.mask(
        encoded.words,
        params["me"],
        params["context"],
        params["secrets"],
        params["seed"],
    )
    blobs = BlobDir(params["blobs"])
    shards = [blobs.put(_bytes(masked[start:stop])) for start, stop in params["bounds"]]
    return {"shards": shards, "cut": encoded.cut}


def sum_shard(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """Add every member's part of one shard and take the self masks off.

    params: inputs [digest], start, words, context, seeds {key: seed}, blobs. -> {blob}
    """
    blobs = BlobDir(params["blobs"])
    parts = (_words(blobs, blob, params["words"]) for blob in params["inputs"])
    total = masks.unmask(
        masks.add(parts), params["start"], params["context"], params["seeds"]
    )
    return {"blob": blobs.put(_bytes(total))}


def apply(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """Join the shards' sums, step, write the new state.

    params: results [digest], words [count], folder, root, size, rate, blobs. -> {root}
    """
    blobs = BlobDir(params["blobs"])
    pairs = zip(params["results"], params["words"], strict=True)
    mean = ring.decode(np.concatenate([_words(blobs, *pair) for pair in pairs]))
    folder = Path(params["folder"])
    before = state.read(folder, params["root"], params["size"])
    return {"root": state.write(folder, outer_step(before, mean, rate=params["rate"]))}


def _words(blobs: BlobDir, blob: bytes, count: int) -> Words:
    name = Digest(blob)
    if blobs.size(name) != ring.WORD_BYTES * count:
        raise ComputeError(
            f"shard {blob.hex()[:16]} has {blobs.size(name)} bytes,"
            f" needs {ring.WORD_BYTES * count}"
        )
    return np.frombuffer(blobs.read(name, 0, ring.WORD_BYTES * count), "<u4")


def _bytes(words: Words) -> bytes:
    return np.ascontiguousarray(words, "<u4").tobytes()
