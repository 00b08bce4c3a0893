"""What a trunk may be, so that every step stays in the ranges of `arith` (docs/verify.md §3).

One place for all limits: the quantiser checks what it made, the decoder what it was sent.
"""

import numpy as np
from numpy.typing import NDArray

from ee.integer import spec
from ee.integer.errors import IntegerModelError
from ee.integer.linear import Matrix
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
    if config.head_dim % 2:
        raise IntegerModelError(f"head_dim is {config.head_dim}, must be even for RoPE")


def check_header(header: Header) -> None:
    """The numbers, and RoPE tables of the right size with entries up to 1."""
    check_config(header.config)
    shape = (header.config.tokens, header.config.head_dim // 2)
    for name, table in (("cos", header.cos), ("sin", header.sin)):
        if table.dtype != np.int16 or table.shape != shape:
            raise IntegerModelError(
                f"{name} table is {table.dtype} {table.shape}, needs int16 {shape}"
            )
        _check_range(
            f"{name} table", table, -(1 << spec.ROPE_BITS), 1 << spec.ROPE_BITS
        )


def check_layer(layer: Layer, config: TrunkConfig) -> None:
    """Every matrix in shape and in range."""
    shapes = config.matrix_shapes().items()
    for (name, shape), matrix in zip(shapes, layer.matrices(), strict=True):
        _check_matrix(name, matrix, shape)


def _check_matrix(name: str, matrix: Matrix, shape: tuple[int, int]) -> None:
    if matrix.weight.dtype != np.int8 or matrix.weight.shape != shape:
        raise IntegerModelError(
            f"{name} is {matrix.weight.dtype} {matrix.weight.shape}, needs int8 {shape}"
        )
    if matrix.multiplier.dtype != np.int32 or matrix.multiplier.shape != shape[:1]:
        raise IntegerModelError(f"{name} needs {shape[0]} int32 multipliers")
    if not 0 <= matrix.shift <= SHIFT_LIMIT:
        raise IntegerModelError(
            f"{name} shift is {matrix.shift}, must be 0 to {SHIFT_LIMIT}"
        )
    _check_range(f"{name} weight", matrix.weight, -spec.WEIGHT_LIMIT, spec.WEIGHT_LIMIT)
    limit = multiplier_limit(shape[1], wide=name == "down")
    _check_range(f"{name} multiplier", matrix.multiplier, 0, limit)


def _check_range(
    what: str,
    values: NDArray[np.int8] | NDArray[np.int16] | NDArray[np.int32],
    low: int,
    high: int,
) -> None:
    least, most = int(values.min()), int(values.max())
    if least < low or most > high:
        worst = least if least < low else most
        raise IntegerModelError(f"{what} holds {worst}, must be {low} to {high}")
