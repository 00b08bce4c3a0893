"""From a keyed trunk of a stock architecture to an integer trunk of op-spec 2.

The state is what `ee.split` or a checkpoint has: tensors by the stock class's names, keyed or
not; `config` is its `config.json`.  Gains that were not folded before are folded here, except
those that a post-norm model has on its residual.

A trunk ends where its last block's sum stands: the norm behind it is the head's.  A post-norm
trunk begins before the norm of its embeddings, which its first block does, as `ee.arch.bert`
cuts it; so the rows that go in are sums that no norm has seen.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ee.integer import bounds, spec
from ee.integer.block import Style
from ee.integer.constants import norm_bias, rope_base, rope_tables, score_multiplier
from ee.integer.errors import IntegerModelError
from ee.integer.linear import Gain, Matrix
from ee.integer.quantise import State, array_of, matrix_of
from ee.integer.rows import RESIDUAL_BITS
from ee.integer.stock_names import FAMILIES, Family
from ee.integer.trunk import Header, IntegerTrunk, Layer, TrunkConfig

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FloatMatrix:
    """One projection before it is rounded: (outputs, inputs), (outputs,), bits it gains."""

    weight: Floats
    bias: Floats
    bits: int
    """Fraction bits of what comes out less those of what goes in."""
    out_bits: int


@dataclass(frozen=True)
class FloatLayer:
    """What a block is rounded from."""

    matrices: dict[str, FloatMatrix]
    gains: tuple[tuple[Floats, Floats], ...]
    """(gain, shift) of each norm on the residual."""


def quantise_stock(
    state: State,
    config: Mapping[str, Any],
    *,
    tokens: int,
    residual_bits: int = RESIDUAL_BITS,
) -> IntegerTrunk:
    """The integer trunk of `state`; what cannot be represented is refused by name.

    `tokens` is the longest sequence to serve.
    """
    header = stock_header(config, tokens, residual_bits)
    layers = [
        _rounded(layer, residual_bits)
        for layer in float_layers(state, config, header.config)
    ]
    trunk = IntegerTrunk(header, tuple(layers))
    bounds.check_trunk(trunk)
    return trunk


def stock_header(config: Mapping[str, Any], tokens: int, residual_bits: int) -> Header:
    """The numbers and tables of a trunk with this configuration."""
    family = family_of(config)
    numbers = _numbers(family, config, tokens, residual_bits)
    bounds.check_config(numbers)
    cos, sin = (np.zeros((0, 0), np.int16),) * 2
    if numbers.style.rotary:
        cos, sin = rope_tables(numbers, rope_base(config))
    name = str(family.setting(config, "activation"))
    return Header(numbers, cos, sin, activation_table(name))


def family_of(config: Mapping[str, Any]) -> Family:
    """By `model_type`."""
    kind = str(config.get("model_type"))
    if kind not in FAMILIES:
        raise IntegerModelError(
            f"model_type is {kind!r}, op-spec 2 knows {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[kind]


def _numbers(
    family: Family, config: Mapping[str, Any], tokens: int, residual_bits: int
) -> TrunkConfig:
    family.check(config)
    try:
        width = int(family.setting(config, "width"))
        heads = int(family.setting(config, "heads"))
        head_dim = int(config.get("head_dim") or width // heads)
        epsilon = float(family.setting(config, "epsilon"))
        return TrunkConfig(
            layers=int(family.setting(config, "layers")),
            width=width,
            inner=int(family.setting(config, "inner") or 4 * width),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=head_dim,
            tokens=tokens,
            residual_bits=residual_bits,
            norm_bias=norm_bias(epsilon, width, residual_bits),
            score_multiplier=score_multiplier(head_dim),
            causal=family.causal,
            op_spec=2,
            style=Style(
                centred=family.centred,
                post=family.post,
                rotary=family.is_rotary(config),
                gated=family.gated,
            ),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise IntegerModelError(
            f"not the configuration of a {config.get('model_type')}: {error}"
        ) from error


def activation_table(name: str) -> NDArray[np.uint32]:
    """ACT: act(x) / x in units of 2^-16 for x = -16 to 16 in steps of 1/256.

    Committed as bytes, so a last-bit difference of an `exp` here harms nobody.
    """
    if name not in _ACTIVATIONS:
        raise IntegerModelError(
            f"activation {name!r}, op-spec 2 knows {', '.join(sorted(_ACTIVATIONS))}"
        )
    steps = range(-spec.TABLE_SIZE, spec.TABLE_SIZE + 1)
    found = [_ACTIVATIONS[name](step / 256) for step in steps]
    return np.rint(np.ldexp(found, spec.SIGMOID_BITS)).astype(np.uint32)


def _sigmoid(x: float) -> float:
    return 0.5 * (1.0 + math.tanh(0.5 * x))


def _tanh_gelu(x: float) -> float:
    return _sigmoid(2.0 * math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))


_ACTIVATIONS: Mapping[str, Callable[[float], float]] = {
    "gelu": lambda x: 0.5 * (1.0 + math.erf(x / math.sqrt(2.0))),
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "gelu_fast": _tanh_gelu,
    "quick_gelu": lambda x: _sigmoid(1.702 * x),
    "relu": lambda x: 0.5 * (1.0 + math.copysign(1.0, x)) if x else 0.5,
    "silu": _sigmoid,
    "swish": _sigmoid,
}
"""act(x) / x, which runs from 0 to 1 in every one; tanh does not, and is refused."""


def float_layers(
    state: State, config: Mapping[str, Any], numbers: TrunkConfig
) -> Iterator[FloatLayer]:
    """Every block of `state`, its norms folded; refuses what has no place in a block."""
    family = family_of(config)
    named = family.bare(state)
    _refuse_unknown(named, family, numbers)
    shapes = numbers.matrix_shapes()
    for index in range(numbers.layers):
        matrices, norms = (
            _projections(named, family, index),
            _norms(named, family, index),
        )
        found = {}
        for name, shape in shapes.items():
            weight, bias = matrices[name]
            if weight.shape != shape:
                raise IntegerModelError(
                    f"layer {index} {name} has shape {weight.shape}, needs {shape}"
                )
            norm = {"o": None, "down": None}.get(name, int(name in ("gate", "up")))
            if norm is not None and not family.post:
                gain, shift = norms[norm]
                bias, weight = bias + weight @ shift, weight * gain
            found[name] = FloatMatrix(weight, bias, *_bits(name, numbers))
        yield FloatLayer(found, tuple(norms) if family.post else ())


def _bits(name: str, numbers: TrunkConfig) -> tuple[int, int]:
    """Fraction bits gained, and of what comes out."""
    residual = numbers.residual_bits
    if name == "o":
        return residual - spec.MID_BITS, residual
    if name == "down":
        given = spec.MID_BITS * (2 if numbers.style.gated else 1)
        return residual - given, residual
    given = residual if numbers.style.post else spec.NORM_BITS
    return spec.MID_BITS - given, spec.MID_BITS


def _projections(
    named: State, family: Family, index: int
) -> dict[str, tuple[Floats, Floats]]:
    """Name to (outputs, inputs) weight and bias, zero where the class has none."""
    found: dict[str, tuple[Floats, Floats]] = {}
    for module, names in family.modules.items():
        place = family.block(index, module)
        weight = array_of(named, f"{place}.weight")
        weight = weight.T if family.transposed else weight
        bias = np.zeros(len(weight))
        if f"{place}.bias" in named:
            bias = array_of(named, f"{place}.bias")
        # One matrix may hold several, one below the other.
        parts = zip(
            names,
            np.split(weight, len(names)),
            np.split(bias, len(names)),
            strict=True,
        )
        found |= {name: (part, short) for name, part, short in parts}
    return found


def _norms(named: State, family: Family, index: int) -> Sequence[tuple[Floats, Floats]]:
    """(gain, shift) of the norm before attention and of the one before the activation."""
    found = []
    for module in family.norms_of(index):
        gain = array_of(named, f"{module}.weight")
        shift = np.zeros(len(gain))
        if f"{module}.bias" in named:
            shift = array_of(named, f"{module}.bias")
        found.append((gain, shift))
    return found


def _refuse_unknown(named: State, family: Family, numbers: TrunkConfig) -> None:
    known = set()
    for index in range(numbers.layers):
        places = [family.block(index, module) for module in family.modules]
        places += [*family.norms_of(index), *family.norms_of(index + 1)[:1]]
        known |= {f"{place}.{end}" for place in places for end in ("weight", "bias")}
    extra = sorted(
        name
        for name in named
        if name not in known and not re.match(family.outside, name)
    )
    if extra:
        raise IntegerModelError(f"trunk has no place for {', '.join(extra[:3])}")


def _rounded(layer: FloatLayer, residual_bits: int) -> Layer:
    matrices = {}
    for name, one in layer.matrices.items():
        short = matrix_of(one.weight, one.bits, wide=name == "down")
        bias = _bias(name, one.bias, one.out_bits, spec.MID_LIMIT)
        matrices[name] = Matrix(short.weight, short.multiplier, short.shift, bias)
    gains = tuple(gain_of(*one, residual_bits) for one in layer.gains)
    return Layer.of(matrices, gains)


def gain_of(gain: Floats, shift: Floats, residual_bits: int) -> Gain:
    """The gain of a norm on the residual, with one shift for all its entries."""
    scaled = np.ldexp(gain, residual_bits - spec.NORM_BITS)
    top = float(np.abs(scaled).max())
    right = math.floor(math.log2(bounds.GAIN_LIMIT / top)) if top > 0 else 0
    right = min(max(right, 0), bounds.SHIFT_LIMIT)
    multiplier = np.rint(np.ldexp(scaled, right))
    if float(np.abs(multiplier).max()) > bounds.GAIN_LIMIT:
        raise IntegerModelError(f"a norm's gain of {np.abs(gain).max():g} is too large")
    bias = _bias("norm", shift, residual_bits, bounds.GAIN_LIMIT)
    return Gain(multiplier.astype(np.int32), right, bias)


def head_norm(rows: Any, state: State, config: Mapping[str, Any]) -> Floats:
    """What the head does first: the norm behind the trunk, of canonical float rows.

    `state` is the canonical trunk.  The gain is there only if the model is post-norm; any other
    has it at its ends (`ee.split.Split.build_gain`).
    """
    family = family_of(config)
    wide = np.asarray(rows, dtype=np.float64)
    if family.centred:
        wide = wide - wide.mean(-1, keepdims=True)
    epsilon = float(family.setting(config, "epsilon"))
    normed: Floats = wide / np.sqrt((wide * wide).mean(-1, keepdims=True) + epsilon)
    if not family.post:
        return normed
    last, _ = family.norms_of(int(family.setting(config, "layers")))
    named = family.bare(state)
    gain, shift = (array_of(named, f"{last}.{end}") for end in ("weight", "bias"))
    return normed * gain + shift


def _bias(name: str, bias: Floats, bits: int, limit: int) -> NDArray[np.int32]:
    rounded = np.rint(np.ldexp(bias, bits))
    if float(np.abs(rounded).max()) > limit:
        raise IntegerModelError(
            f"a bias of {name} is {np.abs(bias).max():g}, limit is {limit / 2**bits:g}"
        )
    return rounded.astype(np.int32)
