"""From a keyed float trunk to an integer trunk.

Quantise after keying: a dense orthogonal key does not commute with rounding, so the
keyed integer model is the reference and this module never sees a key.  What cannot be
represented is refused by name; nothing is dropped in silence.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ee.integer import bounds, spec
from ee.integer.constants import norm_bias, rope_base, rope_tables, score_multiplier
from ee.integer.errors import IntegerModelError
from ee.integer.linear import Matrix
from ee.integer.rows import RESIDUAL_BITS
from ee.integer.trunk import Header, IntegerTrunk, Layer, TrunkConfig

State = Mapping[str, NDArray[Any]]

_NAMES = {
    "q": ("self_attn.q_proj", "input_layernorm"),
    "k": ("self_attn.k_proj", "input_layernorm"),
    "v": ("self_attn.v_proj", "input_layernorm"),
    "o": ("self_attn.o_proj", None),
    "gate": ("mlp.gate_proj", "post_attention_layernorm"),
    "up": ("mlp.up_proj", "post_attention_layernorm"),
    "down": ("mlp.down_proj", None),
}
_OUTSIDE = ("embed_tokens.weight", "norm.weight", "lm_head.weight")
"""Names of a stock checkpoint that belong to the stem and the head, not to the trunk."""


def quantise(
    state: State,
    config: Mapping[str, Any],
    *,
    tokens: int,
    residual_bits: int = RESIDUAL_BITS,
    causal: bool = True,
) -> IntegerTrunk:
    """The integer trunk of a Llama-architecture state dict, Hugging Face names.

    `config` is the checkpoint's own `config.json`; `tokens` the longest sequence to
    serve; not `causal` makes an encoder, in which every row sees its whole sequence.  Norm
    gains, where there are any, are folded into the matrices behind them.  The final norm is
    the head's: the trunk ends with the residual.
    """
    header = header_of(config, tokens, residual_bits, causal=causal)
    named = named_weights(state, header.config.layers)
    layers = tuple(
        _layer(named, index, header.config) for index in range(header.config.layers)
    )
    trunk = IntegerTrunk(header, layers)
    bounds.check_trunk(trunk)
    return trunk


def header_of(
    config: Mapping[str, Any], tokens: int, residual_bits: int, *, causal: bool
) -> Header:
    """The numbers and tables of a trunk with this configuration."""
    integers = _integer_config(config, tokens, residual_bits, causal=causal)
    bounds.check_config(integers)
    cos, sin = rope_tables(integers, rope_base(config))
    return Header(integers, cos, sin)


def named_weights(state: State, layers: int) -> State:
    """`state` by the names of a bare trunk; what has no place in one is refused."""
    named = {name.removeprefix("model."): value for name, value in state.items()}
    extra = sorted(name for name in named if not _is_known(name, layers))
    if extra:
        raise IntegerModelError(f"trunk has no place for {', '.join(extra[:3])}")
    return named


def _integer_config(
    config: Mapping[str, Any], tokens: int, residual_bits: int, *, causal: bool
) -> TrunkConfig:
    wanted = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
    for name, value in wanted.items():
        if config.get(name, value) != value:
            raise IntegerModelError(f"{name} is {config[name]!r}, need {value!r}")
    try:
        width, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        head_dim = int(config.get("head_dim") or width // heads)
        epsilon = float(config["rms_norm_eps"])
        return TrunkConfig(
            layers=int(config["num_hidden_layers"]),
            width=width,
            inner=int(config["intermediate_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=head_dim,
            tokens=tokens,
            residual_bits=residual_bits,
            norm_bias=norm_bias(epsilon, width, residual_bits),
            score_multiplier=score_multiplier(head_dim),
            causal=causal,
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise IntegerModelError(f"not the configuration of a Llama: {error}") from error


def _layer(state: State, index: int, config: TrunkConfig) -> Layer:
    parts = {
        name: matrix_of(weight, bits, wide=name == "down")
        for name, weight, bits in layer_weights(state, index, config)
    }
    return Layer.of(parts)


def layer_weights(
    state: State, index: int, config: TrunkConfig
) -> Iterator[tuple[str, NDArray[np.float64], int]]:
    """Name, weight with its norm's gain, and fraction bits gained by each matrix."""
    # Fraction bits in and out of each matrix; the gated product of two 14-bit numbers
    # has 28.
    bits = dict.fromkeys(_NAMES, spec.MID_BITS - spec.NORM_BITS)
    bits["o"] = config.residual_bits - spec.MID_BITS
    bits["down"] = config.residual_bits - 2 * spec.MID_BITS
    for name, shape in config.matrix_shapes().items():
        weight = _weight(state, index, name)
        if weight.shape != shape:
            raise IntegerModelError(
                f"layer {index} {name} has shape {weight.shape}, needs {shape}"
            )
        yield name, weight, bits[name]


def _weight(state: State, index: int, name: str) -> NDArray[np.float64]:
    module, norm = _NAMES[name]
    weight = array_of(state, f"layers.{index}.{module}.weight")
    gain = f"layers.{index}.{norm}.weight"
    # A trunk keyed by a dense rotation has no gains: they were folded before it was keyed.
    return weight * array_of(state, gain) if gain in state else weight


def array_of(state: State, name: str) -> NDArray[np.float64]:
    """A tensor of `state` in float64; refused if it is missing or not finite."""
    if name not in state:
        raise IntegerModelError(f"trunk lacks {name}")
    value = np.asarray(state[name], dtype=np.float64)
    if not bool(np.all(np.isfinite(value))):
        raise IntegerModelError(f"{name} holds a value that is not finite")
    return value


def matrix_of(weight: NDArray[np.float64], bits: int, *, wide: bool) -> Matrix:
    """Weights with one scale per output channel, scales with one shift per matrix."""
    scale = np.abs(weight).max(axis=1) / spec.WEIGHT_LIMIT
    safe = np.where(scale > 0, scale, 1.0)
    short = np.clip(
        np.rint(weight / safe[:, None]), -spec.WEIGHT_LIMIT, spec.WEIGHT_LIMIT
    )
    largest = bounds.multiplier_limit(weight.shape[1], wide=wide)
    scale = np.ldexp(scale, bits)
    top = float(scale.max())
    # The largest shift that keeps the largest multiplier in range.
    shift = math.floor(math.log2(largest / top)) if top > 0 else 0
    shift = min(max(shift, 0), bounds.SHIFT_LIMIT)
    multiplier = np.rint(np.ldexp(scale, shift))
    if float(multiplier.max()) > largest:
        raise IntegerModelError(
            f"a weight of {float(np.abs(weight).max()):g} is too large"
        )
    return Matrix(short.astype(np.int8), multiplier.astype(np.int32), shift)


def _is_known(name: str, layers: int) -> bool:
    if name in _OUTSIDE:
        return True
    match = re.fullmatch(r"layers\.(\d+)\.(.+)\.weight", name)
    modules = {module for module, _ in _NAMES.values()}
    norms = {norm for _, norm in _NAMES.values()}
    return match is not None and int(match[1]) < layers and match[2] in modules | norms
