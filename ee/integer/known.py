"""Does this machine compute the op-spec?  Asked before it serves or audits.

The reference rests on IEEE arithmetic and on a BLAS that adds in some order.  A BLAS that
rounds inputs (bfloat16, TF32), a flushed subnormal or a saturating kernel would break it
without a word, so known answers are computed first: products and roots over their whole
range, and five small trunks, two of op-spec 1 and three of op-spec 2, whose weights and rows are
drawn from SHA-256 and whose outputs are known.
"""

import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ee.integer import arith, bounds, spec
from ee.integer.block import LLAMA, Style
from ee.integer.codec import model_root
from ee.integer.errors import SelfTestError
from ee.integer.linear import Gain, Matrix
from ee.integer.rows import pack_rows
from ee.integer.trunk import (
    Header,
    IntegerTrunk,
    Layer,
    RowArray,
    Trace,
    TrunkConfig,
)

ENCODER = Style(centred=True, post=True, rotary=False, gated=False)
"""Shaped as BERT."""
DECODER = Style(centred=True, post=False, rotary=False, gated=False)
"""Shaped as GPT-2."""
STOCK: tuple[tuple[Style, bool], ...] = (
    (ENCODER, False),
    (DECODER, True),
    (Style(centred=False, post=False, rotary=True, gated=True), True),
)
"""Blocks of op-spec 2 and whether they are causal; the last is shaped as Qwen2."""
KNOWN_STOCK = "7406615a4dbb38eb9574493ac7b786ec94a6ad31dcbdb259aa0acdb5ea357afe"
KNOWN_ANSWER = "4205d6deab745c303f4a0faa69f13498f0a5d972da314afc4400a09855fc8ee4"


def self_test() -> None:
    """Raise `SelfTestError` unless every answer is the known one; some milliseconds."""
    _check_products()
    _check_steps()
    for found, wanted in (
        (known_answer(), KNOWN_ANSWER),
        (stock_answer(), KNOWN_STOCK),
    ):
        if found != wanted:
            raise SelfTestError(
                f"this machine computes {found[:16]} where the op-spec gives"
                f" {wanted[:16]}; it must not serve or audit"
            )


def known_answer() -> str:
    """Hex digest over the roots and every boundary of two small trunks of op-spec 1."""
    trunks = [drawn_trunk(causal=causal) for causal in (True, False)]
    return answer_of(1, trunks, IntegerTrunk.forward)


def stock_answer() -> str:
    """The same of three of op-spec 2."""
    trunks = [drawn_stock(style, causal=causal) for style, causal in STOCK]
    return answer_of(2, trunks, IntegerTrunk.forward)


def answer_of(
    number: int,
    trunks: Sequence[IntegerTrunk],
    forward: Callable[[IntegerTrunk, RowArray], Trace],
) -> str:
    """What `forward` makes of these trunks, as one digest."""
    total = hashlib.sha256(spec.op_spec_digest(number))
    for trunk in trunks:
        total.update(model_root(trunk))
        for rows in forward(trunk, drawn_rows(trunk.config)).boundaries:
            total.update(pack_rows(rows))
    return total.hexdigest()


def drawn_trunk(*, causal: bool) -> IntegerTrunk:
    """Two layers with weights out of SHA-256: no generator of a library has a say."""
    return _drawn(_config(causal=causal, op_spec=1, style=LLAMA), None)


def drawn_stock(style: Style, *, causal: bool) -> IntegerTrunk:
    """The same for op-spec 2, with biases, a table and what the style asks for."""
    table = _stream("activation", (spec.ACTIVATION_SIZE,)) % (
        (1 << spec.SIGMOID_BITS) + 1
    )
    own = table.astype(np.uint32)
    return _drawn(_config(causal=causal, op_spec=2, style=style), own)


def _config(*, causal: bool, op_spec: int, style: Style) -> TrunkConfig:
    return TrunkConfig(
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
        op_spec=op_spec,
        style=style,
    )


def _drawn(config: TrunkConfig, own: NDArray[np.uint32] | None) -> IntegerTrunk:
    unit = 1 << spec.ROPE_BITS
    cos, sin = (
        (_stream(name, config.table_shape) % (2 * unit + 1) - unit).astype(np.int16)
        for name in ("cos", "sin")
    )
    layers = tuple(_drawn_layer(config, index) for index in range(config.layers))
    trunk = IntegerTrunk(Header(config, cos, sin, own), layers)
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
    matrices = {}
    for name, shape in config.matrix_shapes().items():
        drawn = _stream(f"{index} {name}", shape)
        weight = drawn % (2 * spec.WEIGHT_LIMIT + 1) - spec.WEIGHT_LIMIT
        limit = bounds.multiplier_limit(shape[1], wide=name == "down")
        multiplier = limit - _stream(f"{index} {name} m", shape[:1]) % (limit // 2)
        # Entries of order one in, entries of order one out: no step sits at its clamp.
        shift = 46 if name == "down" and config.style.gated else 31
        bias = None
        if config.op_spec > 1:
            bias = _signed(f"{index} {name} b", shape[:1], 1 << 14)
        matrices[name] = Matrix(
            weight.astype(np.int8), multiplier.astype(np.int32), shift, bias
        )
    gains = tuple(
        Gain(
            _signed(f"{index} gain {number}", (config.width,), 1 << 20),
            24,
            _signed(f"{index} gain {number} b", (config.width,), 1 << 12),
        )
        for number in range(config.norms)
    )
    return Layer.of(matrices, gains)


def _signed(name: str, shape: Sequence[int], limit: int) -> NDArray[np.int32]:
    return (_stream(name, shape) % (2 * limit + 1) - limit).astype(np.int32)


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
    inner = 4500  # more than one block
    right = _stream("right", (5, inner)) % (2 * spec.WEIGHT_LIMIT + 1)
    right -= spec.WEIGHT_LIMIT
    right[0], right[1] = spec.WEIGHT_LIMIT, -spec.WEIGHT_LIMIT
    short = _stream("short", (4, inner)) % 255 - 127
    short[0], short[1] = 127, -127
    wide = _stream("wide", (4, inner)) % 16385 - 8192
    wide[0], wide[1] = 8192, -8192
    right32 = right.astype(np.float32)
    found = arith.products(short.astype(np.float32), right32, 127)
    exact = np.array_equal(found, short @ right.T)
    # Rows of large numbers, and of few among small ones, which come in float32.
    sparse = np.where(_stream("sparse", wide.shape) % 64 == 0, wide, wide // 64)
    for rows in (wide, sparse):
        made = arith.wide_products(
            rows.astype(np.float64), right32, lambda: right.astype(np.float64)
        )
        exact &= np.array_equal(made, rows @ right.T)
    if not exact:
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
