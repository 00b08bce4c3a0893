"""Aggregation methods of the trusted child: the vector work behind a round's effects.

The rules are in `protocol.aggregate`; this is blobs in, blobs out around them.  Each method
is one effect of `protocol.rounds.events` and says in its docstring what it takes and gives.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.adapters.blob_dir import BlobDir
from node.compute import state, thin, velocities
from node.disk import mapped
from node.errors import ComputeError
from protocol.aggregate import checks, masks, noise
from protocol.aggregate.ring import (
    WORD_BYTES,
    Elements,
    Exponents,
    Floats,
    Ring,
    blocks,
    weight_factor,
)
from protocol.types import Digest

Params = Mapping[str, Any]
Progress = Callable[[dict[str, Any]], None]

FIRST_EXPONENT = -12
"""Scale of every block before the first sum tells better: with 24-bit entries an update may
reach 2^11, with 8-bit entries 2^-5, and is rounded to 2^-12."""


def scales(params: Params, _progress: Progress) -> dict[str, Any]:
    """{length, velocities, folder} -> {root}: write the scales a run begins with.

    `velocities`: how many stand before them, all zero.
    """
    first = np.full(blocks(params["length"]), FIRST_EXPONENT, np.int8)
    folder = Path(params["folder"])
    return {"root": velocities.write_first(folder, first, params["velocities"])}


def mask(params: Params, _progress: Progress) -> dict[str, Any]:
    """Round an update by a recipe, mask it, and cut it.

    {update, scales, weight, total, members, noise, thin, seed, noise_seed,
    slices [[start, stop]], plus, minus, ring, folder, blobs} -> {shards, cut}.

    `noise` is null, or {clip, multiplier, largest_factor, shares}; `cut` counts entries that
    rounding or noise took beyond their scale.  `thin`: null, or which entries travel.
    Nothing else than the arguments decides: the same call gives the same bytes.
    """
    blob_dir, ring = BlobDir(params["blobs"]), Ring(*params["ring"])
    words, cut = _rounded(params, blob_dir, ring)
    masks.apply(words, 0, params["plus"], params["minus"])
    shards = [
        blob_dir.put(_bytes(words[start:stop]), lasting=False)
        for start, stop in params["slices"]
    ]
    return {"shards": shards, "cut": cut}


def _rounded(params: Params, blobs: BlobDir, ring: Ring) -> tuple[Elements, int]:
    update = _mapped(blobs, params["update"])
    factor = weight_factor(params["weight"], params["total"], params["members"])
    choice = thin.chosen(params, update.size)
    if choice is not None:
        update = update[choice.places()]
    exponents = scales_of(Path(params["folder"]), params["scales"], update.size)
    added = None if params["noise"] is None else noise.Noise(**params["noise"])
    if added is not None:
        update = noise.clipped(update, added.clip)
    encoded = ring.encode(update, exponents, factor, masks.Coins(params["seed"]))
    cut = encoded.cut
    if added is not None:
        seed = params["noise_seed"]
        cut += noise.add_noise(encoded.words, exponents, ring, added, seed)
    return encoded.words, cut


def add_up(params: Params, _progress: Progress) -> dict[str, Any]:
    """{inputs, size, carry, ring, blobs} -> {sum, carry}."""
    blob_dir, ring = BlobDir(params["blobs"]), Ring(*params["ring"])
    parts = (_words(blob_dir, part, ring, params["size"]) for part in params["inputs"])
    total, carry = checks.add(parts, ring, carry=params["carry"])
    packed = b"" if carry is None else checks.pack(carry, len(params["inputs"]))
    return {
        # What is reported lasts: members may lock on it, and then nothing else will do.
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


def scales_of(folder: Path, root: bytes, length: int) -> Exponents:
    """The exponents of `length` entries that travel, checked with all that stands before them."""
    return np.frombuffer(state.read_last(folder, root, blocks(length)), np.int8)


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


def _mapped(blobs: BlobDir, name: bytes) -> Floats:
    """An update, read where it lies."""
    blob = Digest(name)
    count, rest = divmod(blobs.size(blob), WORD_BYTES)
    if rest or not count:
        raise ComputeError(
            f"update {blob.hex()[:16]} has {blobs.size(blob)} bytes, which is no number"
            f" of entries of {WORD_BYTES}"
        )
    with mapped(blob):
        return np.memmap(blobs.path(blob), "<f4", "r")


def _read(blobs: BlobDir, name: bytes) -> bytes:
    blob = Digest(name)
    return blobs.read(blob, 0, blobs.size(blob))
