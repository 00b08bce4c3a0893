"""Does this machine compute the op-spec?  Asked before it serves or audits.

The reference rests on IEEE arithmetic and on a BLAS that adds in some order.  A BLAS that
rounds inputs (bfloat16, TF32), a flushed subnormal or a saturating kernel would break it
without a word, so known answers are computed first: products and roots over their whole
range, and two small trunks whose weights and rows are drawn from SHA-256 and whose outputs
are known.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ee.integer import arith, bounds, spec
from ee.integer.codec import model_root
from ee.integer.errors import SelfTestError
from ee.integer.linear import Matrix
from ee.integer.rows import pack_rows
from ee.integer.trunk import Header, IntegerTrunk, Layer, TrunkConfig

KNOWN_ANSWER = "4205d6deab745c303f4a0faa69f13498f0a5d972da314afc4400a09855fc8ee4"


def self_test() -> None:
    """Raise `SelfTestError` unless every answer is the known one; some milliseconds."""
    _check_products()
    _check_steps()
    found = known_answer()
    if found != KNOWN_ANSWER:
        raise SelfTestError(
            f"this machine computes {found[:16]} where the op-spec gives"
            f" {KNOWN_ANSWER[:16]}; it must not serve or audit"
        )


def known_answer() -> str:
    """Hex digest over the roots and every boundary of two small trunks."""
    total = hashlib.sha256(spec.op_spec_digest())
    for causal in (True, False):
        trunk = drawn_trunk(causal=causal)
        total.update(model_root(trunk))
        for rows in trunk.forward(drawn_rows(trunk.config)).boundaries:
            total.update(pack_rows(rows))
    return total.hexdigest()


def drawn_trunk(*, causal: bool) -> IntegerTrunk:
    """Two layers with weights out of SHA-256: no generator of a library has a say."""
    config = TrunkConfig(
        layers=2,
        width=24,
        inner=40,
        heads=4,
        kv_heads=2,
        head_dim=6,
        tokens=7,
        residual_bits=12,
        norm_bias=403,
        score_multiplier=2_470_374,
        causal=causal,
    )
    unit = 1 << spec.ROPE_BITS
    cos, sin = (
        (_stream(name, (7, 3)) % (2 * unit + 1) - unit).astype(np.int16)
        for name in ("cos", "sin")
    )
    layers = tuple(_drawn_layer(config, index) for index in range(config.layers))
    trunk = IntegerTrunk(Header(config, cos, sin), layers)
    bounds.check_trunk(trunk)
    return trunk


def drawn_rows(config: TrunkConfig) -> NDArray[np.int32]:
    """Three sequences: ordinary rows, rows at the limit, and rows of zeros and ones."""
    shape = (3, config.tokens, config.width)
    rows = _stream("rows", shape) % (1 << 15) - (1 << 14)
    rows[1] = np.where(rows[1] < 0, -spec.RESIDUAL_LIMIT, spec.RESIDUAL_LIMIT)
    rows[2] &= 1
    return rows.astype(np.int32)


def _drawn_layer(config: TrunkConfig, index: int) -> Layer:
    matrices = []
    for name, shape in config.matrix_shapes().items():
        drawn = _stream(f"{index} {name}", shape)
        weight = drawn % (2 * spec.WEIGHT_LIMIT + 1) - spec.WEIGHT_LIMIT
        limit = bounds.multiplier_limit(shape[1], wide=name == "down")
        multiplier = limit - _stream(f"{index} {name} m", shape[:1]) % (limit // 2)
        # Entries of order one in, entries of order one out: no step sits at its clamp.
        shift = 46 if name == "down" else 31
        matrices.append(
            Matrix(weight.astype(np.int8), multiplier.astype(np.int32), shift)
        )
    return Layer(*matrices)


def _stream(name: str, shape: Sequence[int]) -> NDArray[np.int64]:
    """32-bit numbers of SHA-256 in counter mode."""
    count = int(np.prod(shape))
    blocks = [
        hashlib.sha256(f"rexis self-test {name} {number}".encode()).digest()
        for number in range(-(-count // 8))
    ]
    words = np.frombuffer(b"".join(blocks), "<u4")[:count]
    return words.astype(np.int64).reshape(shape)


def _check_products() -> None:
    """Both kernels against 64-bit integers, at the limits and all over the range."""
    inner = 4500  # more than one block of either kernel
    right = _stream("right", (5, inner)) % (2 * spec.WEIGHT_LIMIT + 1)
    right -= spec.WEIGHT_LIMIT
    right[0], right[1] = spec.WEIGHT_LIMIT, -spec.WEIGHT_LIMIT
    short = _stream("short", (4, inner)) % 255 - 127
    short[0], short[1] = 127, -127
    wide = _stream("wide", (4, inner)) % 16385 - 8192
    wide[0], wide[1] = 8192, -8192
    right32 = right.astype(np.float32)
    found = arith.products(short.astype(np.float32), right32, 127)
    found_wide = arith.limb_products(wide.astype(np.float64), right32)
    exact = np.array_equal(found, short @ right.T)
    if not exact or not np.array_equal(found_wide, wide @ right.T):
        raise SelfTestError(
            "products of small integers are not exact on this machine's BLAS;"
            " it must not serve or audit"
        )


def _check_steps() -> None:
    """Rounding, square root and quotient against Python's integers, near every edge."""
    roots = _stream("roots", (64,)) >> 1
    squares = np.concatenate([roots * roots, roots * roots - 1, roots * roots + 1])
    exact = arith.isqrt(squares).tolist() == [math.isqrt(n) for n in squares.tolist()]
    # Ties, and their neighbours, of either sign.
    odd = (_stream("odd", (64,)) | 1) * np.where(np.arange(64) % 2, 1, -1)
    halves = np.concatenate([odd << 15, (odd << 15) - 1, (odd << 15) + 1])
    found = arith.half(halves.astype(np.float64), 16).tolist()
    exact &= found == [(n + (1 << 15)) >> 16 for n in halves.tolist()]
    below = (_stream("below", (64,)) >> 6) + 1
    above = (
        np.concatenate([odd * below, odd * below + below // 2, odd * below - 1]) >> 8
    )
    below = np.tile(below, 3)
    ratio = arith.quotient(above.astype(np.float64), below.astype(np.float64)).tolist()
    pairs = zip(above.tolist(), below.tolist(), strict=True)
    exact &= ratio == [(2 * n + d) // (2 * d) for n, d in pairs]
    if not exact:
        raise SelfTestError(
            "rounding of floats is not IEEE's on this machine; it must not serve or audit"
        )
