"""A keyed trunk of any registered architecture, behind the calls a worker answers.

The counterpart of `ee.trunk` for stock checkpoints: it is given a stock configuration, keyed
tensors and rows, and has no place for a key, a token, a label or a head.  What it builds is
the stock class; a setting or a tensor that the architecture does not know is refused.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig

from ee import lora
from ee.arch.known import architecture_of
from ee.errors import EncryptionError
from ee.optim import Equivariant
from ee.spec import Arrays

TOKENS_LIMIT = 8192
"""Rows of one sequence; attention takes memory by their square."""
_BLOCK_RATE = 0.1
"""Of the matrices' rate, for biases: an entry of a Muon step has about the size 1 / sqrt(d),
one of an Adam step about 1."""


class HostedTrunk:
    """Forward, backward and the optimiser of one session."""

    def __init__(
        self,
        config: Mapping[str, Any],
        weights: Arrays,
        adapters: Mapping[str, Any] | None = None,
    ) -> None:
        """`config`: a stock configuration as a dictionary, with its `model_type`.

        `adapters`, where only those are trained: `layers`, `rank` and `scale`; their
        matrices are among `weights`.
        """
        try:
            stock = AutoConfig.for_model(**config)
        except (ValueError, TypeError, KeyError) as error:
            raise EncryptionError(f"no stock configuration: {error}") from error
        self._architecture = architecture_of(stock)
        self._architecture.check(stock)
        plain = self._architecture.plan(stock)
        self._plan = plain
        if adapters is not None:
            self._plan = plain.with_adapters(adapters["layers"], int(adapters["rank"]))
        tensors = {name: _tensor(array) for name, array in weights.items()}
        wanted = self._plan.shapes()
        if set(tensors) != set(wanted):
            odd = sorted(set(tensors) ^ set(wanted))
            raise EncryptionError(f"trunk and weights differ in {', '.join(odd[:3])}")
        for name, tensor in tensors.items():
            if tuple(tensor.shape) != wanted[name]:
                raise EncryptionError(
                    f"{name} is {tuple(tensor.shape)}, the trunk needs {wanted[name]}"
                )
        dtypes = {tensors[name].dtype for name in plain.keyed()}
        if len(dtypes) != 1:
            raise EncryptionError(f"weights are of {len(dtypes)} kinds, need one")
        self._model = self._architecture.build(stock).to(dtypes.pop()).eval()
        self._model.load_state_dict({n: tensors[n] for n in plain.shapes()})
        if adapters is None:
            learning = set(plain.keyed())
            for name, parameter in self._model.named_parameters():
                parameter.requires_grad_(name in learning)
        else:
            scale = float(adapters.get("scale", 1.0))
            lora.attach(self._model, self._plan, tensors, scale=scale)
        self._optimiser = Equivariant(self._model.named_parameters(), self._plan)
        self._pending: tuple[torch.Tensor, torch.Tensor] | None = None

    def forward(
        self, x: NDArray[Any], *, train: bool, mask: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """(batch, tokens, width) rows to rows; `mask`, (batch, tokens), is 0 at padding."""
        if x.ndim != 3 or x.shape[2] != self._plan.width or x.shape[1] > TOKENS_LIMIT:
            raise EncryptionError(
                f"rows are {x.shape}, the trunk is {self._plan.width} wide and takes"
                f" {TOKENS_LIMIT} tokens"
            )
        if mask is not None and mask.shape != x.shape[:2]:
            raise EncryptionError(f"the mask is {mask.shape} for rows of {x.shape}")
        rows = _tensor(x).requires_grad_(train)
        seen = None if mask is None else torch.from_numpy(np.array(mask)).long()
        with torch.set_grad_enabled(train):
            y = self._architecture.run(self._model, rows, seen)
        self._pending = (rows, y) if train else None
        return np.asarray(y.detach().numpy())

    def backward(self, gy: NDArray[Any]) -> NDArray[Any]:
        """Gradient at the rows that went in; weight gradients accumulate here."""
        if self._pending is None:
            raise EncryptionError("backward without a forward in training")
        rows, y = self._pending
        self._pending = None
        if gy.shape != tuple(y.shape):
            raise EncryptionError(
                f"gradient is {gy.shape}, the rows were {tuple(y.shape)}"
            )
        y.backward(_tensor(gy))
        if rows.grad is None:
            raise EncryptionError("no gradient reached the rows")
        return np.asarray(rows.grad.numpy())

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
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), clip)
        self._optimiser.step()
        self._optimiser.zero_grad()

    def export(self) -> Arrays:
        """What was trained, keyed as it is here."""
        return {
            name: parameter.detach().numpy().copy()
            for name, parameter in self._model.named_parameters()
            if parameter.requires_grad
        }


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    tensor = torch.from_numpy(np.array(array))
    if not tensor.is_floating_point():
        raise EncryptionError(f"a tensor is {tensor.dtype}, needs a float")
    return tensor
