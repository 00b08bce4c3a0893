"""What the trusted child does after a rejected round: sketch the own update, weigh everyone's.

The rules are in `protocol.aggregate.sketch` and `protocol.aggregate.weighing`; this is blobs in,
blobs or numbers out.  Vectors are read where they lie.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from node.adapters.blob_dir import BlobDir
from node.disk import mapped
from node.errors import ComputeError
from protocol.aggregate import sketch
from protocol.aggregate.ring import Elements, Ring
from protocol.aggregate.weighing import Question, weigh
from protocol.types import Digest

Params = Mapping[str, Any]


def draw(params: Params, _progress: object) -> dict[str, Any]:
    """{shards, keys, length, seed, ring, blobs} -> {blob}: the own sketches, packed."""
    blobs, ring = BlobDir(params["blobs"]), Ring(*params["ring"])
    own = _vector(blobs, params["shards"], ring, params["length"])
    several = sketch.sketches(
        [own], params["keys"], params["length"], ring, params["seed"]
    )
    return {"blob": blobs.put(sketch.pack(several, ring), lasting=False)}


def answer(params: Params, _progress: object) -> dict[str, Any]:
    """{said, alone, sums, weights, opened, parts, length, seed, ring, blobs} -> an `Answer`."""
    blobs, ring = BlobDir(params["blobs"]), Ring(*params["ring"])
    length = params["length"]
    found = weigh(
        Question(
            length,
            ring,
            params["seed"],
            [_read(blobs, each) for each in params["said"]],
            params["alone"],
            _vector(blobs, params["sums"], ring, length),
            params["weights"],
            params["opened"],
            [_vector(blobs, parts, ring, length) for parts in params["parts"]],
        )
    )
    return {
        "malformed": found.malformed,
        "differ": found.differ,
        "false": found.false,
        "balanced": found.balanced,
        "times": found.times,
        "worst": found.worst,
    }


def _vector(
    blobs: BlobDir, names: list[bytes], ring: Ring, length: int
) -> list[Elements]:
    pieces = [_mapped(blobs, name, ring) for name in names]
    size = sum(piece.size for piece in pieces)
    if size != length:
        raise ComputeError(f"slices have {size} entries together, need {length}")
    return pieces


def _mapped(blobs: BlobDir, name: bytes, ring: Ring) -> Elements:
    blob = Digest(name)
    size = blobs.size(blob)
    if size % ring.bytes_each:
        raise ComputeError(
            f"shard {blob.hex()[:16]} has {size} bytes, which is no number of entries of"
            f" {ring.bytes_each}"
        )
    if not size:  # nothing to map; the last slices of a short vector
        return np.zeros(0, ring.dtype)
    with mapped(blob):
        return np.memmap(blobs.path(blob), ring.dtype, "r")


def _read(blobs: BlobDir, name: bytes) -> bytes:
    blob = Digest(name)
    return blobs.read(blob, 0, blobs.size(blob))
