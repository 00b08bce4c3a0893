"""A keyed trunk of any registered architecture, behind the calls a worker answers.

The counterpart of `ee.trunk` for stock checkpoints: it is given a stock configuration, keyed
tensors and rows, and has no place for a key, a token, a label or a head.  What it builds is
the stock class; a setting or a tensor that the architecture does not know is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from ee import lora
from ee.arch.base import Architecture
from ee.arch.known import architecture_of
from ee.arch.plan import Plan
from ee.economy import NO_ECONOMY, Economy
from ee.errors import EncryptionError
from ee.optim import Equivariant, shared_like, whole
from ee.spec import Arrays

TOKENS_LIMIT = 8192
"""Rows of one sequence; attention takes memory by their square."""
_BLOCK_RATE = 0.1
"""Of the matrices' rate, for biases: an entry of a Muon step has about the size 1 / sqrt(d),
one of an Adam step about 1."""
_MOMENTS = ("momentum", "first", "second", "count")


@dataclass(frozen=True)
class Outline:
    """What a trunk is, before there is a weight."""

    architecture: Architecture
    stock: PreTrainedConfig
    plain: Plan
    plan: Plan
    """With the adapters, where there are any."""
    scale: float | None
    """Of the adapters; None where the trunk's own matrices are trained."""


def outline(config: Mapping[str, Any], adapters: Mapping[str, Any] | None) -> Outline:
    """`config`: a stock configuration as a dictionary, with its `model_type`.

    `adapters`, where only those are trained: `layers`, `rank` and `scale`; their matrices
    are among the weights.
    """
    try:
        stock = AutoConfig.for_model(**config)
    except (ValueError, TypeError, KeyError) as error:
        raise EncryptionError(f"no stock configuration: {error}") from error
    architecture = architecture_of(stock)
    architecture.check(stock)
    plain = architecture.plan(stock)
    if adapters is None:
        return Outline(architecture, stock, plain, plain, None)
    plan = plain.with_adapters(adapters["layers"], int(adapters["rank"]))
    scale = float(adapters.get("scale", 1.0))
    return Outline(architecture, stock, plain, plan, scale)


class HostedTrunk:
    """Forward, backward and the optimiser of one session."""

    def __init__(
        self,
        config: Mapping[str, Any],
        weights: Arrays,
        adapters: Mapping[str, Any] | None = None,
        *,
        moments: Arrays | None = None,
        device: str = "cpu",
        economy: Economy = NO_ECONOMY,
    ) -> None:
        """`config` and `adapters` as `outline` has them.

        `moments`: what `moments()` gave when the session was left; none starts it anew.
        """
        drawn = outline(config, adapters)
        self._architecture, self._plan = drawn.architecture, drawn.plan
        self._device, self._economy = torch.device(device), economy
        model = _assembled(drawn, weights).to(self._device)
        if economy.gradient_checkpointing:
            _recomputed(model)
        self._model = self._placed(model)
        self._learning = {
            name: parameter
            for name, parameter in self._model.named_parameters()
            if parameter.requires_grad
        }
        self._optimiser = Equivariant(self._learning.items(), self._plan)
        self._remember(moments or {})
        self._pending: tuple[Tensor, Tensor] | None = None

    def _placed(self, model: nn.Module) -> nn.Module:
        """Where the parameters lie; `ee.sharded` spreads them over processes."""
        return model

    def forward(
        self, x: NDArray[Any], *, train: bool, mask: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """(batch, tokens, width) rows to rows; `mask`, (batch, tokens), is 0 at padding."""
        self._pending = None
        if x.ndim != 3 or x.shape[2] != self._plan.width or x.shape[1] > TOKENS_LIMIT:
            raise EncryptionError(
                f"rows are {x.shape}, the trunk is {self._plan.width} wide and takes"
                f" {TOKENS_LIMIT} tokens"
            )
        if mask is not None and mask.shape != x.shape[:2]:
            raise EncryptionError(f"the mask is {mask.shape} for rows of {x.shape}")
        rows = _tensor(x).to(self._device).requires_grad_(train)
        seen = None
        if mask is not None:
            seen = torch.from_numpy(np.array(mask)).long().to(self._device)
        narrow = torch.autocast(
            self._device.type, torch.bfloat16, enabled=self._economy.bf16
        )
        with torch.set_grad_enabled(train), narrow:
            y = self._architecture.run(self._model, rows, seen).to(rows.dtype)
        self._pending = (rows, y) if train else None
        return np.asarray(y.detach().cpu().numpy())

    def backward(self, gy: NDArray[Any]) -> NDArray[Any]:
        """Gradient at the rows that went in; weight gradients accumulate here."""
        if self._pending is None:
            raise EncryptionError("backward without a forward in training")
        rows, y = self._pending
        if gy.shape != tuple(y.shape):
            raise EncryptionError(
                f"gradient is {gy.shape}, the rows were {tuple(y.shape)}"
            )
        self._pending = None
        y.backward(_tensor(gy).to(self._device))
        if rows.grad is None:
            raise EncryptionError("no gradient reached the rows")
        return np.asarray(rows.grad.cpu().numpy())

    def step(self, lr: float, hyper: Mapping[str, Any]) -> None:
        """One step on what has accumulated; `hyper`: momentum, decay, clip, block_rate."""
        block = lr * float(hyper.get("block_rate", _BLOCK_RATE))
        for group in self._optimiser.param_groups:
            muon = group["kind"] == "muon"
            group["lr"] = lr if muon else block
            group["weight_decay"] = float(hyper.get("decay", 0.0))
            if muon:
                group["momentum"] = float(hyper.get("momentum", 0.9))
        clip = float(hyper.get("clip", 0.0))
        if clip > 0:
            torch.nn.utils.clip_grad_norm_(self._learning.values(), clip)
        self._optimiser.step()
        self._optimiser.zero_grad()

    def export(self) -> Arrays:
        """What was trained, keyed as it is here."""
        return {name: _array(parameter) for name, parameter in self._learning.items()}

    def moments(self) -> Arrays:
        """The optimiser's memory, keyed as the weights are; empty before a first step."""
        return {
            f"{kind}.{name}": _array(self._optimiser.state[parameter][kind])
            for name, parameter in self._learning.items()
            for kind in _MOMENTS
            if kind in self._optimiser.state[parameter]
        }

    def _remember(self, moments: Arrays) -> None:
        for full, array in moments.items():
            kind, _, name = full.partition(".")
            parameter = self._learning.get(name)
            if parameter is None or kind not in _MOMENTS:
                raise EncryptionError(f"{full} is no moment of this trunk")
            tensor = _tensor(array).to(self._device)
            if kind in ("momentum", "first"):
                if tensor.shape != parameter.shape:
                    raise EncryptionError(
                        f"{full} is {tuple(tensor.shape)}, needs {tuple(parameter.shape)}"
                    )
                tensor = shared_like(tensor, parameter)
            self._optimiser.state[parameter][kind] = tensor


def _assembled(drawn: Outline, weights: Arrays) -> nn.Module:
    """The stock module with the weights in it; what does not fit is refused by name."""
    tensors = {name: _tensor(array) for name, array in weights.items()}
    dtype = _checked(drawn, tensors)
    model = drawn.architecture.build(drawn.stock).to(dtype).eval()
    model.load_state_dict({name: tensors[name] for name in drawn.plain.shapes()})
    if drawn.scale is not None:
        lora.attach(model, drawn.plan, tensors, scale=drawn.scale)
        return model
    learning = set(drawn.plain.keyed())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in learning)
    return model


def _checked(drawn: Outline, tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The one dtype of a state that has every tensor of the plan and no other."""
    wanted = drawn.plan.shapes()
    if set(tensors) != set(wanted):
        odd = sorted(set(tensors) ^ set(wanted))
        raise EncryptionError(f"trunk and weights differ in {', '.join(odd[:3])}")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != wanted[name]:
            raise EncryptionError(
                f"{name} is {tuple(tensor.shape)}, the trunk needs {wanted[name]}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise EncryptionError(f"{name} has entries that are no numbers")
    dtypes = {tensors[name].dtype for name in drawn.plain.keyed()}
    if len(dtypes) != 1:
        raise EncryptionError(f"weights are of {len(dtypes)} kinds, need one")
    return dtypes.pop()


def _recomputed(model: nn.Module) -> None:
    """The stock class's own checkpointing; it works in training mode alone.

    A trunk drops nothing, so for everything else that mode is the other.
    """
    stock = cast(PreTrainedModel, model)
    stock.config.use_cache = False
    stock.activation_checkpointing_enable({"use_reentrant": False})
    stock.train()


def _array(tensor: Tensor) -> NDArray[Any]:
    return np.array(whole(tensor.detach()).cpu().numpy())


def _tensor(array: NDArray[Any]) -> Tensor:
    tensor = torch.from_numpy(np.array(array))
    if not tensor.is_floating_point():
        raise EncryptionError(f"a tensor is {tensor.dtype}, needs a float")
    return tensor
