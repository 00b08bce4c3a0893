"""What a trunk may be, so that every step stays in the ranges of `arith` (docs/verify.md §3).

One place for all limits: the quantiser checks what it made, the decoder what it was sent.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ee.integer import spec
from ee.integer.block import LLAMA
from ee.integer.errors import IntegerModelError
from ee.integer.linear import Gain, Matrix
from ee.integer.trunk import Header, IntegerTrunk, Layer, TrunkConfig

LIMITS = {
    "layers": 1024,
    "width": 16_384,
    "inner": 65_536,
    "heads": 1024,
    "kv_heads": 1024,
    "head_dim": 1024,
    "tokens": 4096,
    "residual_bits": 20,
    "norm_bias": 1 << 60,
    "score_multiplier": 1 << 23,
}
"""Upper bounds, the lower ones are 1; in the order of the header's bytes.  width * 2^46 + norm_bias <= 2^61, inside the 2^62 of
the square root; 127^2 * head_dim < 2^24 for the scores; 2^14 * tokens * 127 * 2^17 < 2^51
for the weighted values.  Larger models need a wider op-spec."""

SHIFT_LIMIT = 127
GAIN_LIMIT = spec.RESIDUAL_LIMIT
"""Of a norm's multipliers and biases: 2^23 times the 2^23 of a normalised entry is far below
2^52."""


def multiplier_limit(inputs: int, *, wide: bool) -> int:
    """The largest multiplier with which a sum of `inputs` terms stays exact."""
    largest = (1 << spec.WIDE_BITS) if wide else 127
    return min(
        (1 << 23) - 1,
        (spec.ACCUMULATOR_LIMIT - 1) // (inputs * spec.WEIGHT_LIMIT * largest),
    )


def check_trunk(trunk: IntegerTrunk) -> None:
    """Raise `IntegerModelError` unless the op-spec covers `trunk`."""
    check_header(trunk.header)
    if len(trunk.layers) != trunk.config.layers:
        raise IntegerModelError(
            f"trunk has {len(trunk.layers)} layers, its header says {trunk.config.layers}"
        )
    for layer in trunk.layers:
        check_layer(layer, trunk.config)


def check_config(config: TrunkConfig) -> None:
    """Sizes within `LIMITS` that fit together."""
    for name, limit in LIMITS.items():
        value = getattr(config, name)
        if not 1 <= value <= limit:
            raise IntegerModelError(f"{name} is {value}, must be 1 to {limit}")
    if config.heads % config.kv_heads:
        raise IntegerModelError(
            f"{config.heads} heads do not divide among {config.kv_heads} key-value heads"
        )
    if config.style.rotary and config.head_dim % 2:
        raise IntegerModelError(f"head_dim is {config.head_dim}, must be even for RoPE")
    if config.op_spec not in (1, 2):
        raise IntegerModelError(f"op-spec {config.op_spec}, there are 1 and 2")
    if config.op_spec == 1 and config.style != LLAMA:
        raise IntegerModelError(f"op-spec 1 has no blocks of {config.style}")


def check_header(header: Header) -> None:
    """The numbers, and tables of the right size with entries up to 1."""
    check_config(header.config)
    shape = header.config.table_shape
    for name, table in (("cos", header.cos), ("sin", header.sin)):
        if table.dtype != np.int16 or table.shape != shape:
            raise IntegerModelError(
                f"{name} table is {table.dtype} {table.shape}, needs int16 {shape}"
            )
        if table.size:
            one = 1 << spec.ROPE_BITS
            _check_range(f"{name} table", table, -one, one)
    own = header.activation
    if (own is None) != (header.config.op_spec == 1):
        raise IntegerModelError(
            "a trunk of op-spec 2 needs an activation table, of 1 has none"
        )
    if own is not None:
        if own.dtype != np.uint32 or own.shape != (spec.ACTIVATION_SIZE,):
            raise IntegerModelError(
                f"activation table is {own.dtype} {own.shape},"
                f" needs uint32 ({spec.ACTIVATION_SIZE},)"
            )
        _check_range("activation table", own, 0, 1 << spec.SIGMOID_BITS)


def check_layer(layer: Layer, config: TrunkConfig) -> None:
    """Every matrix in shape and in range."""
    shapes = config.matrix_shapes()
    named = dict(layer.named())
    if named.keys() != shapes.keys():
        raise IntegerModelError(
            f"layer has {', '.join(named)}, needs {', '.join(shapes)}"
        )
    for name, matrix in named.items():
        _check_matrix(name, matrix, shapes[name], biased=config.op_spec > 1)
    if len(layer.gains) != config.norms:
        raise IntegerModelError(
            f"layer has {len(layer.gains)} gains, needs {config.norms}"
        )
    for number, gain in enumerate(layer.gains):
        _check_gain(f"gain {number}", gain, config.width)


def _check_gain(name: str, gain: Gain, width: int) -> None:
    for what, values in (("multipliers", gain.multiplier), ("biases", gain.bias)):
        if values.dtype != np.int32 or values.shape != (width,):
            raise IntegerModelError(f"{name} needs {width} int32 {what}")
        _check_range(f"{name} {what}", values, -GAIN_LIMIT, GAIN_LIMIT)
    _check_shift(name, gain.shift)


def _check_shift(name: str, shift: int) -> None:
    if not 0 <= shift <= SHIFT_LIMIT:
        raise IntegerModelError(f"{name} shift is {shift}, must be 0 to {SHIFT_LIMIT}")


def _check_matrix(
    name: str, matrix: Matrix, shape: tuple[int, int], *, biased: bool
) -> None:
    if matrix.weight.dtype != np.int8 or matrix.weight.shape != shape:
        raise IntegerModelError(
            f"{name} is {matrix.weight.dtype} {matrix.weight.shape}, needs int8 {shape}"
        )
    if matrix.multiplier.dtype != np.int32 or matrix.multiplier.shape != shape[:1]:
        raise IntegerModelError(f"{name} needs {shape[0]} int32 multipliers")
    _check_shift(name, matrix.shift)
    if (matrix.bias is not None) != biased:
        raise IntegerModelError(
            f"{name} {'needs a bias' if biased else 'has a bias, op-spec 1 has none'}"
        )
    if matrix.bias is not None:
        if matrix.bias.dtype != np.int32 or matrix.bias.shape != shape[:1]:
            raise IntegerModelError(f"{name} needs {shape[0]} int32 biases")
        _check_range(f"{name} bias", matrix.bias, -spec.MID_LIMIT, spec.MID_LIMIT)
    _check_range(f"{name} weight", matrix.weight, -spec.WEIGHT_LIMIT, spec.WEIGHT_LIMIT)
    limit = multiplier_limit(shape[1], wide=name == "down")
    _check_range(f"{name} multiplier", matrix.multiplier, 0, limit)


def _check_range(
    what: str,
    values: NDArray[Any],
    low: int,
    high: int,
) -> None:
    least, most = int(values.min()), int(values.max())
    if least < low or most > high:
        worst = least if least < low else most
        raise IntegerModelError(f"{what} holds {worst}, must be {low} to {high}")
