"""The untrusted half: a stock Llama body run on rows it cannot read.

This object has no place for a key, a token, a label or a head.  It is what a worker holds;
the key holder's side is `ee.session`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaModel

from ee.errors import EncryptionError
from ee.optim import Muon
from ee.spec import Arrays, ModelSpec, trunk_config

Floats = NDArray[np.float32]
TOKENS_LIMIT = 8192


class Trunk:
    """A keyed trunk, forward and backward, with its own optimiser state."""

    def __init__(self, config: Mapping[str, Any], weights: Arrays) -> None:
        dtype = _one_dtype(weights)
        self._model = _build(config, dtype)
        self._named = {
            name: parameter
            for name, parameter in self._model.named_parameters()
            if name.startswith("layers.") and "norm" not in name
        }
        if set(self._named) != set(weights):
            odd = sorted(set(self._named) ^ set(weights))
            raise EncryptionError(f"trunk and weights differ in {', '.join(odd[:3])}")
        for parameter in self._model.parameters():
            parameter.requires_grad_(False)
        for name, parameter in self._named.items():
            if tuple(parameter.shape) != weights[name].shape:
                raise EncryptionError(
                    f"{name} is {weights[name].shape}, the trunk needs {tuple(parameter.shape)}"
                )
            parameter.data.copy_(torch.from_numpy(np.array(weights[name])))
            parameter.requires_grad_(True)
        self._muon = Muon(self._named.values())
        self._pending: tuple[torch.Tensor, torch.Tensor] | None = None

    def forward(self, x: NDArray[Any], *, train: bool) -> NDArray[Any]:
        """(batch, tokens, width) rows to rows after the final norm."""
        if x.ndim != 3 or x.shape[2] != self._model.config.hidden_size:
            raise EncryptionError(
                f"rows are {x.shape}, the trunk is {self._model.config.hidden_size} wide"
            )
        rows = torch.from_numpy(np.array(x)).requires_grad_(train)
        with torch.set_grad_enabled(train):
            y = self._model(inputs_embeds=rows, use_cache=False).last_hidden_state
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
        y.backward(torch.from_numpy(np.array(gy)))
        if rows.grad is None:
            raise EncryptionError("no gradient reached the rows")
        return np.asarray(rows.grad.numpy())

    def step(self, lr: float, hyper: Mapping[str, Any]) -> None:
        """One Muon step on what has accumulated."""
        self._muon.step(lr, hyper)

    def export(self) -> Arrays:
        """The keyed weights as they are now."""
        return {n: p.detach().numpy().copy() for n, p in self._named.items()}


def _one_dtype(weights: Arrays) -> torch.dtype:
    kinds = {str(array.dtype) for array in weights.values()}
    known = {"float32": torch.float32, "float64": torch.float64}
    if len(kinds) != 1 or next(iter(kinds)) not in known:
        raise EncryptionError(f"weights are {sorted(kinds)}, need float32 or float64")
    return known[next(iter(kinds))]


def _build(config: Mapping[str, Any], dtype: torch.dtype) -> LlamaModel:
    tokens = int(config.get("max_position_embeddings", 0))
    if not 1 <= tokens <= TOKENS_LIMIT:
        raise EncryptionError(f"{tokens} tokens, limit is {TOKENS_LIMIT}")
    allowed = set(trunk_config(_ANY))
    if set(config) != allowed:
        odd = sorted(set(config) ^ allowed)
        raise EncryptionError(f"trunk configuration differs in {', '.join(odd)}")
    # The vocabulary is one unused row: rows come in as embeddings, tokens never do.
    stock = LlamaConfig(
        **config,
        vocab_size=1,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="sdpa",
    )
    model = LlamaModel(stock).to(dtype)
    model.eval()
    return model


_ANY = ModelSpec((), 4, 1, 1, 1, 4, 0)
