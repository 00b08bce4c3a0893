"""The stock configuration that a model file spells out, held to limits before it is believed.

A proposal comes from another member, and whoever joins builds what it says.  So numbers are
looked at before a class of the stock library sees them, and the size of the whole before
anything is allocated.
"""

from collections.abc import Iterator
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from ee.arch.base import Architecture
from ee.arch.known import architecture_of
from ee.errors import EncryptionError
from ee.recipe import StockSpec
from ee.spec import LAYERS_AT_MOST

NUMBER_AT_MOST = 1 << 20
"""Of any whole number: the largest vocabularies have a quarter of it, positions less."""
FLOAT_AT_MOST = 1e9
"""Of any other number: RoPE bases reach ten millions."""
PARAMETERS_AT_MOST = 1 << 30
"""Of a base that is drawn, with its buffers: four GiB in float32."""
_MOST = dict.fromkeys(
    ("num_hidden_layers", "n_layer", "num_layers", "n_layers"), LAYERS_AT_MOST
)
"""A stock configuration may list its layers one by one as soon as it is made."""
VALUES_AT_MOST, NESTED_AT_MOST, TEXT_AT_MOST = 4096, 4, 256


def stock_config(spec: StockSpec) -> PreTrainedConfig:
    """The configuration of a base that is drawn.

    `EncryptionError` names a value and its limit, or a setting that no key is known for.
    """
    _check_values(spec.config)
    try:
        config = AutoConfig.for_model(**spec.config)
    except Exception as error:
        # The stock classes check themselves, by errors of many kinds.
        raise EncryptionError(f"no stock configuration: {_line(error)}") from error
    architecture = architecture_of(config)
    _check_sizes(architecture, config, given=tuple(spec.config))
    architecture.check(config)
    _check_whole(architecture, config)
    return config


def _check_values(config: dict[str, Any]) -> None:
    for number, (name, value) in enumerate(_leaves(config, "", NESTED_AT_MOST)):
        if number >= VALUES_AT_MOST:
            raise EncryptionError(
                f"the configuration has more than {VALUES_AT_MOST} values"
            )
        if value is None or isinstance(value, bool):
            continue
        if isinstance(value, str):
            if len(value) > TEXT_AT_MOST:
                raise EncryptionError(
                    f"{name} has {len(value)} characters, limit is {TEXT_AT_MOST}"
                )
        elif isinstance(value, int):
            _require(name, value, _MOST.get(name, NUMBER_AT_MOST))
        elif isinstance(value, float):
            _require(name, value, FLOAT_AT_MOST)
        else:
            raise EncryptionError(f"{name} is a {type(value).__name__}, not a setting")


def _leaves(value: Any, name: str, left: int) -> Iterator[tuple[str, Any]]:
    """Every value that holds no others, with the path to it."""
    if not isinstance(value, dict | list | tuple):
        yield name or "config", value
        return
    if not left:
        raise EncryptionError(f"{name} is nested more than {NESTED_AT_MOST} deep")
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in pairs:
        yield from _leaves(inner, f"{name}.{key}" if name else str(key), left - 1)


def _require(name: str, value: float, most: float) -> None:
    # A comparison with NaN is false, so it is refused with the rest.
    if not 0 <= value <= most:
        raise EncryptionError(f"{name} is {value}, need 0 to {most}")


def _check_sizes(
    architecture: Architecture, config: PreTrainedConfig, given: tuple[str, ...]
) -> None:
    """Where the stock class has a whole number, so has this; none is zero."""
    usual = type(config)()
    sizes = architecture.sizes | {architecture.depth, "vocab_size"}
    # What was given first: other sizes follow from it, and would be blamed for it.
    for name in (*(n for n in given if n in sizes), *sorted(sizes)):
        default, value = getattr(usual, name, None), getattr(config, name, None)
        whole = isinstance(default, int) and not isinstance(default, bool)
        if not whole and not (default is None and isinstance(value, int | float)):
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise EncryptionError(
                f"{name} is {value!r}, need a whole number from 1 to {NUMBER_AT_MOST}"
            )


def _check_whole(architecture: Architecture, config: PreTrainedConfig) -> None:
    """Built without storage, to be counted."""
    try:
        skeleton = architecture.skeleton(config)
    except Exception as error:
        raise EncryptionError(f"no stock model: {_line(error)}") from error
    size = sum(tensor.numel() for tensor in skeleton.parameters())
    size += sum(tensor.numel() for tensor in skeleton.buffers())
    if size > PARAMETERS_AT_MOST:
        raise EncryptionError(
            f"the model has {size} parameters, limit is {PARAMETERS_AT_MOST}"
        )


def _line(error: Exception) -> str:
    told = " ".join(str(error).split()) or type(error).__name__
    return told if len(told) <= 300 else f"{told[:300]} ..."
