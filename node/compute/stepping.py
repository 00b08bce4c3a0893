"""From masked sums to the next state, in one pass over the vector.

A stretch is read from the sums, unmasked, looked at, decoded, added to the base, hashed and
written while it lies in the core's cache, so no vector is ever in memory as a whole.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ee.outer import outer_step
from node.adapters.blob_dir import BlobDir
from node.compute import scoring, state, thin
from node.compute.kinds import model_of
from node.compute.models import NOTHING_HELD
from node.compute.rounds import scales_of
from node.compute.velocities import Places, Velocities
from node.disk import mapped
from node.errors import ComputeError
from protocol.aggregate import coordinates
from protocol.aggregate.coordinates import Chosen
from protocol.aggregate.masks import Masks
from protocol.aggregate.ring import (
    BLOCK,
    WORD_BYTES,
    Elements,
    Exponents,
    Ring,
    mean_factor,
)
from protocol.types import Digest

Params = Mapping[str, Any]

_STEP = 16 * BLOCK
"""Entries worked on at a time (measured: 8 to 32 blocks are equal)."""


def apply(params: Params, _progress: object) -> dict[str, Any]:
    """Unmask the sums, step from the base by the weighted mean, try the result.

    {sums, slices [[start, stop]], plus, minus, base, scales, here, weight, members,
    survivors, rate, momentum, tolerance, thin, ring, spec, task, records, folder, models, blobs} ->
    {strays, state, scales, accept, held_out, auc, loss}, or {strays} alone where slices have
    an entry out of range: then no state is made.  `thin` is null, or {seed, one_in}: the sums
    are of the entries that it chooses, and the others stay as they are, their velocities too.
    Without records nothing is tried, and the state is accepted.

    The base is not hashed again: training has done that this round, and whatever the disk
    changed since ends in a state that nobody else claims.
    """
    folder, model = Path(params["folder"]), model_of(params, params["task"])
    stepped = _stepped(params, folder, model.size)
    if stepped.strays:
        return {"strays": sorted(stepped.strays)}
    data = params["records"]
    tests = model.tests(data) if data else lambda _: NOTHING_HELD
    old, new = (
        tests(state.mapped(folder, root, model.size))
        for root in (params["base"], stepped.root)
    )
    return {
        "strays": [],
        "state": stepped.root,
        "scales": stepped.scales,
        "accept": scoring.acceptable(old, new, params["tolerance"]),
        **new,
    }


@dataclass
class _Stepped:
    """What one pass found."""

    following: Exponents
    root: bytes = b""
    scales: bytes = b""
    strays: set[int] = field(default_factory=set)


def _stepped(params: Params, folder: Path, length: int) -> _Stepped:
    ring = Ring(*params["ring"])
    factor = mean_factor(params["here"], params["weight"], params["members"])
    chosen = thin.chosen(params, length)
    summed = length if chosen is None else coordinates.count(length, chosen.one_in)
    exponents = scales_of(folder, params["scales"], summed)
    found = _Stepped(exponents.copy())
    masks = Masks(ring.dtype, 0, params["plus"], params["minus"])
    with (
        state.open_state(folder, params["base"], length) as base,
        state.StateFile(folder, WORD_BYTES * length) as out,
        _velocities(params, folder, length, exponents.size) as moving,
    ):
        before = np.empty(_STEP * (1 if chosen is None else chosen.one_in), "<f4")
        for at, words in _summed(params, ring, summed):
            masks.apply(words)
            found.strays |= _strays(words, at, params["slices"], ring, params)
            if found.strays:
                continue  # to the end all the same: every such slice is to be named
            part = slice(at // BLOCK, -(-(at + words.size) // BLOCK))
            mean = ring.decode(words, exponents[part], factor)
            count, places = _span(chosen, at, words.size)
            if moving is not None:
                mean = moving.ahead(mean, count, places)
            after = state.filled(base, before[:count])
            after[places] = outer_step(after[places], mean, rate=params["rate"])
            out.write(after.data.cast("B"))
            found.following[part] = ring.next_exponents(
                words, exponents[part], params["survivors"]
            )
        if not found.strays:
            found.root = out.commit()
            found.scales = (
                state.write_bytes(folder, found.following.tobytes())
                if moving is None
                else moving.commit(found.following)
            )
    return found


def _velocities(
    params: Params, folder: Path, length: int, exponents: int
) -> AbstractContextManager[Velocities | None]:
    if not params["momentum"]:
        return nullcontext()
    return Velocities(folder, params["scales"], length, exponents, params["momentum"])


def _span(chosen: Chosen | None, at: int, summed: int) -> tuple[int, Places]:
    """Of how many entries of the state these of the sum are, and at which places in them."""
    if chosen is None:
        return summed, slice(None)
    start, stop = chosen.span(at, summed)
    return stop - start, chosen.places(at, summed) - start


def _summed(params: Params, ring: Ring, length: int) -> Iterator[tuple[int, Elements]]:
    """The masked sum of the vector in stretches, always in the same buffer."""
    blobs, buffer = BlobDir(params["blobs"]), np.empty(_STEP, ring.dtype)
    with ExitStack() as stack:
        files = []
        for name, (start, stop) in zip(params["sums"], params["slices"], strict=True):
            blob = Digest(name)
            if blobs.size(blob) != (stop - start) * ring.bytes_each:
                raise ComputeError(
                    f"sum {blob.hex()[:16]} has {blobs.size(blob)} bytes, needs"
                    f" {(stop - start) * ring.bytes_each}"
                )
            with mapped(blob):
                files.append(stack.enter_context(blobs.path(blob).open("rb", 0)))
        for at in range(0, length, _STEP):
            words = buffer[: min(_STEP, length - at)]
            view = words.data.cast("B")
            while view:
                count = files[0].readinto(view)
                view = view[count:]
                if not count:
                    del files[0]
            yield at, words


def _strays(
    words: Elements, at: int, slices: list[list[int]], ring: Ring, params: Params
) -> set[int]:
    """Which slices have an entry in this stretch that its members cannot have made."""
    if not ring.strays(words, params["survivors"]):
        return set()
    found = set()
    for index, (start, stop) in enumerate(slices):
        part: NDArray[Any] = words[max(0, start - at) : max(0, stop - at)]
        if part.size and ring.strays(part, params["survivors"]):
            found.add(index)
    return found
