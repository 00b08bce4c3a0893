"""Models of every kind to dispute about, hosts that lie, and what is made of it."""

import numpy as np
import pytest

from ee import integer
from ee.integer import (
    LLAMA,
    Gain,
    Header,
    IntegerTrunk,
    Layer,
    Matrix,
    Style,
    TrunkConfig,
    bounds,
    known,
    spec,
)
from node.bench.disputes import BOND, SALT, DisputeWorld, flipped
from node.bench.federation import Reverted, first
from node.bench.machines import Revm
from protocol import dispute
from protocol.dispute import PARTS, Part, Trace

UPHELD, REJECTED = 1, 2
LAYER, CASE, TOKEN = 1, 0, 5
STAKE, HALF = 3 * BOND, BOND // 2
SHORT = {Part.NORM: 1, Part.MIXED_ROW: 1, Part.NORM2: 1, Part.WIDE: 2}
SIZES = {
    **SHORT,
    Part.BASE: 3,
    Part.BASE2: 3,
    Part.MIXED_TOP: 8,
    Part.PRODUCT: 8,
    Part.PRODUCT_TOP: 8,
}
MADE = list(Part)[:PARTS]


def refused(name: str) -> object:
    return pytest.raises(Reverted, match=rf"^{name}\(")


def small(*, causal: bool = True, style: Style | None = None) -> DisputeWorld:
    if style is None:
        trunk = known.drawn_trunk(causal=causal)
    else:
        trunk = known.drawn_stock(style, causal=causal)
    made = DisputeWorld(Revm(), trunk, known.drawn_rows(trunk.config))
    made.anchor()
    return made


GPT = Style(centred=True, post=False, rotary=False, gated=False)
ESM = Style(centred=True, post=False, rotary=True, gated=False)
QWEN = Style(centred=False, post=False, rotary=True, gated=True)
BERT = Style(centred=True, post=True, rotary=False, gated=False)
LAST = Style(centred=False, post=True, rotary=True, gated=True)
"""Norms last, and all else as it is not in BERT."""

STYLES = {
    "plain": None,
    "gpt": GPT,
    "esm": ESM,
    "qwen": QWEN,
    "bert": BERT,
    "last": LAST,
}
"""Op-spec 1, and blocks of op-spec 2 that differ from it in everything they can."""

OF_BASES = (Part.BASE, Part.NORM, Part.MIDDLE, Part.BASE2, Part.NORM2)
"""Bases, and what is made of them."""


def there(part: Part, style: Style | None) -> bool:
    """Do blocks of this style have this part?"""
    style = style or LLAMA
    return {Part.UP: style.gated, Part.BASE: style.post, Part.BASE2: style.post}.get(
        part, True
    )


def drawn(seed: int, *, causal: bool, style: Style | None = None) -> DisputeWorld:
    """Rows that are cut into several blocks, trees of more than 32 leaves, every size of number."""
    chance = np.random.default_rng(seed)
    config = TrunkConfig(
        layers=1,
        width=int(chance.integers(3, 40)),
        inner=int(chance.integers(65, 200)),
        heads=6,
        kv_heads=3,
        head_dim=14 if style is None or style.rotary else 13,
        tokens=13,
        residual_bits=12,
        norm_bias=int(chance.choice([1, 403, 1 << 60])),
        score_multiplier=int(chance.choice([1, 2_470_374, 1 << 23])),
        causal=causal,
        op_spec=1 if style is None else 2,
        style=style or LLAMA,
    )
    matrices = {}
    for name, shape in config.matrix_shapes().items():
        limit = bounds.multiplier_limit(shape[1], wide=name == "down")
        matrices[name] = Matrix(
            chance.integers(-63, 64, shape, np.int8),
            chance.integers(0, limit + 1, shape[0], np.int32),
            # From numbers that all vanish to numbers that all stand at their limit.
            int(chance.integers(20, 50)),
            None if style is None else drawn_biases(chance, shape[0]),
        )
    gains = tuple(
        # From gains that leave nothing to gains with which all stands at its limit.
        Gain(*drawn_gains(chance, config.width), drawn_biases(chance, config.width, 23))
        for _ in range(config.norms)
    )
    unit = 1 << 14
    tables = chance.integers(-unit, unit + 1, (2, *config.table_shape))
    cos, sin = tables.astype(np.int16)
    own = None
    if style is not None:
        own = chance.integers(0, (1 << 16) + 1, spec.ACTIVATION_SIZE).astype(np.uint32)
    trunk = IntegerTrunk(Header(config, cos, sin, own), (Layer.of(matrices, gains),))
    integer.encode(trunk)  # refuses what the op-spec does not cover
    shape = (3, config.tokens, config.width)
    bits = chance.integers(0, 24, (3, config.tokens, 1))
    rows = chance.integers(-(1 << bits) + 1, 1 << bits, shape).astype(np.int32)
    rows[1, 2], rows[2, 3] = spec.RESIDUAL_LIMIT, -spec.RESIDUAL_LIMIT
    made = DisputeWorld(Revm(), trunk, rows)
    made.anchor()
    return made


def drawn_biases(chance, count, most=24):
    """Of every size, and of either sign."""
    bits = chance.integers(0, most, count)
    return chance.integers(-(1 << bits), 1 << bits).astype(np.int32)


def drawn_gains(chance, count):
    """Multipliers of every size, and how far they are shifted."""
    return drawn_biases(chance, count, 23), int(chance.integers(10, 40))


def outcome(sent) -> int:
    return first(sent.events, "DisputeClosed")["outcome"]


def numbers(part: Part, leaf: bytes, tokens: int) -> int:
    if part is Part.COLUMN:
        return tokens
    return (len(leaf) - (part in SHORT)) // SIZES.get(part, 4)


def told(world, claim, part, index, leaf) -> Trace:
    """The host's answer with one leaf of one part another."""
    entries = world.entries(claim)
    entries[part][index] = leaf
    return Trace(claim, SALT, entries)


def salting(part, index):
    """`leaf_salt` of a host that gives one leaf a salt nobody else can make."""

    def salt(own, claim, *place):
        made = true_salt(own, claim, *place)
        return flipped(made, 0) if place == (part, index) else made

    true_salt = dispute.leaf_salt
    return salt


def convicted(world, number, claim, host) -> int:
    """The contract takes the host's bond; how often it had to be asked."""
    proof, asks = world.play(number, claim, host)
    assert outcome(world.prove(number, claim, host.roots, proof)) == UPHELD
    return asks
