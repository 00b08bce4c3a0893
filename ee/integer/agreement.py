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
from ee.integer.rows import RESIDUAL_BITS
from ee.integer.stock import FloatLayer, float_layers, gain_of, stock_header
from ee.integer.trunk import Header, IntegerTrunk, Layer, TrunkConfig

TIE_SLACK = 1e-3
"""In integer units: float32 noise of a keyed weight is below 1e-4 of its step."""
NOISE = 1e-6
"""Relative: of a channel's largest weight, which is its scale."""
TABLE_SLACK = 1
"""Of a table's last unit: a library's cosine may round the other way."""


def check_agreement(
    trunk: IntegerTrunk,
    state: State,
    config: Mapping[str, Any],
    *,
    tokens: int,
    residual_bits: int = RESIDUAL_BITS,
    causal: bool = True,
) -> None:
    """Raise `IntegerModelError` unless `trunk` is what `quantise` makes of the same arguments.

    What a releaser may choose is nothing: the longest sequence, the residual's fraction bits
    and who sees whom are the caller's to say, and never read from the trunk.
    """
    _check_header(trunk.header, header_of(config, tokens, residual_bits, causal=causal))
    named = named_weights(state, trunk.config.layers)
    for index, layer in enumerate(trunk.layers):
        for name, weight, bits in layer_weights(named, index, trunk.config):
            what = f"layer {index} {name}"
            _check(what, getattr(layer, name), weight, bits, wide=name == "down")


def check_stock_agreement(
    trunk: IntegerTrunk,
    state: State,
    config: Mapping[str, Any],
    *,
    tokens: int,
    residual_bits: int = RESIDUAL_BITS,
) -> None:
    """The same for `quantise_stock`, where the architecture says who sees whom."""
    _check_header(trunk.header, stock_header(config, tokens, residual_bits))
    pairs = zip(trunk.layers, float_layers(state, config, trunk.config), strict=True)
    for index, (layer, floats) in enumerate(pairs):
        _check_stock(f"layer {index}", layer, floats, residual_bits)


def _check_header(found: Header, wanted: Header) -> None:
    for name in TrunkConfig.__dataclass_fields__:
        told, own = getattr(found.config, name), getattr(wanted.config, name)
        if told != own:
            raise IntegerModelError(f"trunk has {name} {told}, a release needs {own}")
    for name in ("cos", "sin", "activation"):
        told, own = getattr(found, name), getattr(wanted, name)
        if own is None and told is None:
            continue
        if own is None or told is None or own.shape != told.shape:
            raise IntegerModelError(f"{name} table is not that of the configuration")
        gap = np.abs(told.astype(np.int64) - own.astype(np.int64))
        if gap.max(initial=0) > TABLE_SLACK:
            raise IntegerModelError(f"{name} table is not that of the configuration")


def _check_stock(what: str, layer: Layer, floats: FloatLayer, bits: int) -> None:
    """One layer of op-spec 2: matrices, their biases, the gains on the residual."""
    for name, matrix in layer.named():
        own, here = floats.matrices[name], f"{what} {name}"
        _check(here, matrix, own.weight, own.bits, wide=name == "down")
        assert matrix.bias is not None
        # A folded shift is a sum over the inputs, and its float32 noise one of the matrix.
        noise = NOISE * float(np.abs(own.weight).sum(axis=1).max() + 1)
        _check_values(f"{here} bias", matrix.bias, own.bias, own.out_bits, noise)
    for number, (gain, (floats_gain, shift)) in enumerate(
        zip(layer.gains, floats.gains, strict=True)
    ):
        here, own_gain = f"{what} norm {number}", gain_of(floats_gain, shift, bits)
        if abs(gain.shift - own_gain.shift) > 1:
            raise IntegerModelError(
                f"{here} has shift {gain.shift}, not {own_gain.shift}"
            )
        units = bits - spec.NORM_BITS + gain.shift
        _check_values(f"{here} gain", gain.multiplier, floats_gain, units, NOISE)
        _check_values(f"{here} bias", gain.bias, shift, bits, NOISE)


def _check_values(what: str, found: Any, floats: Any, bits: int, noise: float) -> None:
    """Each of `found` is a nearest integer of its float times 2^bits."""
    exact = np.ldexp(floats, bits)
    gap = np.abs(found - exact)
    slack = 0.5 + TIE_SLACK + noise * np.ldexp(np.abs(floats) + 1, bits)
    if bool((gap > slack).any()):
        place = int((gap - slack).argmax())
        raise IntegerModelError(
            f"{what} {place} is {found[place]}, the weights give {exact[place]:.2f}"
        )


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
