"""Is this trunk the quantised form of these weights?  For members that vouch for a release.

A member keys the state it trained with the release key and compares.  Keying multiplies
dense float matrices, whose last bits differ from machine to machine, so the integers cannot
be made again and compared as bytes; but every one of them must be a nearest integer to what
it stands for.  The slack covers the float32 noise of keying, and leaves a releaser nothing but
which way a number on a tie is rounded.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ee.integer import spec
from ee.integer.errors import IntegerModelError
from ee.integer.linear import Matrix
from ee.integer.quantise import (
    State,
    header_of,
    layer_weights,
    matrix_of,
    named_weights,
)
from ee.integer.trunk import IntegerTrunk

TIE_SLACK = 1e-3
"""In integer units: float32 noise of a keyed weight is below 1e-4 of its step."""
NOISE = 1e-6
"""Relative: of a channel's largest weight, which is its scale."""
TABLE_SLACK = 1
"""Units of 2^-14: a library's cosine may round the other way."""


def check_agreement(
    trunk: IntegerTrunk, state: State, config: Mapping[str, Any]
) -> None:
    """Raise `IntegerModelError` at the first matrix that `state` does not explain."""
    numbers = trunk.config
    header = header_of(
        config, numbers.tokens, numbers.residual_bits, causal=numbers.causal
    )
    if header.config != numbers:
        raise IntegerModelError(f"trunk has {numbers}, the weights {header.config}")
    for name in ("cos", "sin"):
        found = getattr(trunk.header, name).astype(np.int32)
        if np.abs(found - getattr(header, name)).max() > TABLE_SLACK:
            raise IntegerModelError(f"{name} table is not that of the configuration")
    named = named_weights(state, numbers.layers)
    for index, layer in enumerate(trunk.layers):
        for name, weight, bits in layer_weights(named, index, numbers):
            what = f"layer {index} {name}"
            _check(what, getattr(layer, name), weight, bits, wide=name == "down")


def _check(what: str, matrix: Matrix, weight: Any, bits: int, *, wide: bool) -> None:
    own = matrix_of(weight, bits, wide=wide)
    # The largest shift that fits is a floor of a logarithm: it may sit on an edge.
    if abs(matrix.shift - own.shift) > 1:
        raise IntegerModelError(f"{what} has shift {matrix.shift}, not {own.shift}")
    step = np.abs(weight).max(axis=1) / spec.WEIGHT_LIMIT
    scale = np.ldexp(step, bits + matrix.shift)
    gap = np.abs(matrix.multiplier - scale)
    if bool((gap > 0.5 + TIE_SLACK + NOISE * scale).any()):
        channel = int(gap.argmax())
        raise IntegerModelError(
            f"{what} channel {channel} has multiplier {matrix.multiplier[channel]},"
            f" its weights give {scale[channel]:.2f}"
        )
    steps = weight / np.where(step > 0, step, 1.0)[:, None]
    far = np.abs(matrix.weight - steps)
    if float(far.max()) > 0.5 + TIE_SLACK:
        row, column = (int(axis) for axis in np.unravel_index(far.argmax(), far.shape))
        raise IntegerModelError(
            f"{what}[{row}][{column}] is {matrix.weight[row, column]},"
            f" its weight is {steps[row, column]:.3f}"
        )
