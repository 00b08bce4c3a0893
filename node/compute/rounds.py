"""Aggregation methods of the trusted child: the vector work behind a round's effects.

The rules are in `protocol.aggregate`; this is blobs in, blobs out around them.  Each method
is one effect of `protocol.rounds.events` and says in its docstring what it takes and gives.
"""

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.adapters.blob_dir import BlobDir, mapped
from node.compute import state, thin
from node.errors import ComputeError
from protocol.aggregate import checks, masks, noise
from protocol.aggregate.ring import (
    Elements,
    Exponents,
    Ring,
    blocks,
    weight_factor,
)
from protocol.types import KEY_BYTES, Digest

Params = Mapping[str, Any]
Progress = Callable[[dict[str, Any]], None]

FIRST_EXPONENT = -12
"""Scale of every block before the first sum tells better: with 24-bit entries an update may
reach 2^11, with 8-bit entries 2^-5, and is rounded to 2^-12."""


def scales(params: Params, _progress: Progress) -> dict[str, Any]:
    """{length, folder} -> {root}: write the scales a run begins with."""
    first = np.full(blocks(params["length"]), FIRST_EXPONENT, np.int8)
    return {"root": state.write_bytes(Path(params["folder"]), first.tobytes())}


def quantise(params: Params, _progress: Progress) -> dict[str, Any]:
    """{update, scales, weight, total, members, noise, thin, ring, folder, blobs} -> {blob, cut}.

    `noise` is null, or {clip, multiplier, largest_factor, shares}; `cut` counts entries that
    rounding or noise took beyond their scale.  `thin`: null, or which entries travel.
    """
    blob_dir, ring = BlobDir(params["blobs"]), Ring(*params["ring"])
    update = _loaded(blob_dir, params["update"], np.dtype("<f4"))
    exponents = _scales(params["folder"], params["scales"])
    factor = weight_factor(params["weight"], params["total"], params["members"])
    choice = thin.chosen(params, update.size)
    if choice is not None:
        update = update[choice.places()]
    added = None if params["noise"] is None else noise.Noise(**params["noise"])
    if added is not None:
        update = noise.clipped(update, added.clip)
    # Which way an entry is rounded must be nobody's to foresee.
    chance = np.random.Generator(np.random.PCG64(secrets.randbits(256)))
    encoded = ring.encode(update, exponents, factor, chance)
    cut = encoded.cut
    if added is not None:
        seed = secrets.token_bytes(KEY_BYTES)
        cut += noise.add_noise(encoded.words, exponents, ring, added, seed)
    return {"blob": blob_dir.put(_bytes(encoded.words)), "cut": cut}


def mask(params: Params, _progress: Progress) -> dict[str, Any]:
    """{quantised, slices [[start, stop]], plus, minus, ring, blobs} -> {shards}."""
    blob_dir, ring = BlobDir(params["blobs"]), Ring(*params["ring"])
    out = _words(blob_dir, params["quantised"], ring)
    masks.apply(out, 0, params["plus"], params["minus"])
    shards = [blob_dir.put(_bytes(out[start:stop])) for start, stop in params["slices"]]
    return {"shards": shards}


def add_up(params: Params, _progress: Progress) -> dict[str, Any]:
    """{inputs, size, carry, ring, blobs} -> {sum, carry}."""
    blob_dir, ring = BlobDir(params["blobs"]), Ring(*params["ring"])
    parts = (_words(blob_dir, part, ring, params["size"]) for part in params["inputs"])
    total, carry = checks.add(parts, ring, carry=params["carry"])
    packed = b"" if carry is None else checks.pack(carry, len(params["inputs"]))
    return {
        "sum": blob_dir.put(_bytes(total)),
        "carry": b"" if carry is None else blob_dir.put(packed),
    }


def tag(params: Params, _progress: Progress) -> dict[str, Any]:
    """{slices, shards, seed, ring, blobs} -> {values}."""
    blob_dir, ring = BlobDir(params["blobs"]), Ring(*params["ring"])
    pairs = zip(params["slices"], params["shards"], strict=True)
    values = [
        checks.combination(_words(blob_dir, shard, ring), start, params["seed"])
        for (start, _), shard in pairs
    ]
    return {"values": values}


def check(params: Params, _progress: Progress) -> dict[str, Any]:
    """{sum, carry, start, members, seed, tag, ring, blobs} -> {good}."""
    blob_dir, ring = BlobDir(params["blobs"]), Ring(*params["ring"])
    total = _words(blob_dir, params["sum"], ring)
    packed = _read(blob_dir, params["carry"])
    if len(packed) != checks.packed_bytes(total.size, params["members"]):
        return {"good": False}
    carry = checks.unpack(packed, total.size, params["members"])
    good = checks.holds(
        total,
        carry,
        ring,
        params["start"],
        params["seed"],
        members=params["members"],
        tag=params["tag"],
    )
    return {"good": good}


def _scales(folder: str | Path, root: bytes) -> Exponents:
    return np.frombuffer(state.read_bytes(Path(folder), root), np.int8)


def _words(blobs: BlobDir, name: bytes, ring: Ring, count: int = -1) -> Elements:
    words: Elements = _loaded(blobs, name, ring.dtype, count)
    return words


def _loaded(
    blobs: BlobDir, name: bytes, kind: np.dtype[Any], count: int = -1
) -> NDArray[Any]:
    """A blob as an array that may be written to; no second copy of it is made."""
    blob = Digest(name)
    length = blobs.size(blob)
    if length % kind.itemsize or count not in (-1, length // kind.itemsize):
        raise ComputeError(
            f"shard {name.hex()[:16]} has {length} bytes, needs {count} entries of"
            f" {kind.itemsize}"
        )
    with mapped(blob):
        return np.fromfile(blobs.path(blob), kind)


def _bytes(words: Elements) -> memoryview:
    return np.ascontiguousarray(words).data.cast("B")


def _read(blobs: BlobDir, name: bytes) -> bytes:
    blob = Digest(name)
    return blobs.read(blob, 0, blobs.size(blob))
