"""A split training session of a stock model: stem and head here, the trunk behind a port.

What `ee.session` is to table models.  The trunk is keyed under a fresh key before it leaves,
rows and gradients cross keyed, and what comes home is unkeyed before it becomes an update.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from ee.errors import EncryptionError
from ee.hyper import TrainHyper
from ee.keys import Key, state_keyed
from ee.session import Floats, LocalResult, Progress, losses_of
from ee.spec import Arrays, Vector
from ee.stock import Rows, StockModel


class HostPort(Protocol):
    """A hosted trunk somewhere else; `node.worker.client` or, in tests, `LocalHost`."""

    def load(
        self,
        config: Mapping[str, Any],
        weights: Mapping[str, Any],
        adapters: Mapping[str, Any] | None = None,
    ) -> None: ...
    def forward(
        self, x: Floats, *, train: bool, mask: NDArray[np.int32] | None = None
    ) -> Floats: ...
    def backward(self, gy: Floats) -> Floats: ...
    def step(self, lr: float, hyper: Mapping[str, Any]) -> None: ...
    def export(self) -> Arrays: ...
    def unload(self) -> None: ...


def train_stock(
    model: StockModel,
    state: Vector,
    rows: Rows,
    labels: NDArray[np.int64],
    hyper: TrainHyper,
    trunk: HostPort,
    key_seed: bytes,
    *,
    batch_seed: int,
    elapsed: float = 0.0,
    progress: Progress | None = None,
) -> LocalResult:
    """Train from `state` on this member's texts; `elapsed` is the run's done fraction."""
    if len(rows) != len(labels) or len(rows) < 1:
        raise EncryptionError(f"{len(rows)} texts with {len(labels)} labels")
    before = model.tensors(state)
    holder = _KeyHolder(model, before, hyper, trunk, Key(key_seed, model.plan))
    rate = 1.0 - hyper.cool * elapsed

    def step(batch: NDArray[np.int64]) -> float:
        return holder.step(rows.part(batch), labels[batch], rate)

    losses = losses_of(step, len(rows), hyper, batch_seed, progress)
    delta = model.difference(holder.home(), before)
    return LocalResult.of(delta, losses, len(rows))


class _KeyHolder:
    """Stem, head, key and loss of one session; the trunk is only reached through its port."""

    def __init__(
        self,
        model: StockModel,
        tensors: Mapping[str, Tensor],
        hyper: TrainHyper,
        trunk: HostPort,
        key: Key,
    ) -> None:
        self._model, self._hyper, self._trunk, self._key = model, hyper, trunk, key
        self._stem, self._head = model.stem(tensors), model.head(tensors)
        own = [
            parameter
            for part in (self._stem, self._head)
            for parameter in part.parameters()
            if parameter.requires_grad
        ]
        self._adam = torch.optim.AdamW(
            own, lr=hyper.ends_rate, weight_decay=hyper.decay
        )
        stock = model.parts.cut.trunk_config
        keyed = state_keyed(model.trunk_state(tensors), key)
        trunk.load(
            {"model_type": stock.model_type, **stock.to_diff_dict()},
            {name: tensor.numpy() for name, tensor in keyed.items()},
            _adapters(model),
        )

    def step(self, rows: Rows, labels: NDArray[np.int64], rate: float) -> float:
        """Rows there, hidden states back, gradients there, gradients back, everyone steps."""
        key, hyper = self._key, self._hyper
        ids, mask = torch.from_numpy(rows.ids), torch.from_numpy(rows.mask).long()
        x = self._stem(input_ids=ids, attention_mask=mask)
        y = self._trunk.forward(_out(key.enter(x.detach())), train=True, mask=rows.mask)
        hidden = key.leave(torch.from_numpy(y)).requires_grad_()
        loss = cross_entropy(self._head(hidden, mask), torch.from_numpy(labels))
        loss.backward()
        if hidden.grad is None:
            raise EncryptionError("no gradient reached the trunk's output")
        slope = self._trunk.backward(_out(key.enter(hidden.grad)))
        if x.requires_grad:
            x.backward(key.leave(torch.from_numpy(slope)))
        settings = {
            "momentum": hyper.momentum,
            "decay": hyper.decay,
            "clip": hyper.clip,
        }
        self._trunk.step(rate * hyper.trunk_rate, settings)
        for group in self._adam.param_groups:
            group["lr"] = rate * hyper.ends_rate
        self._adam.step()
        self._adam.zero_grad()
        return float(loss.detach())

    def home(self) -> dict[str, Tensor]:
        """All that learnt, in the common basis; the host forgets its part."""
        found = {
            f"trunk.{name}": self._key.unkey(name, torch.from_numpy(np.array(array)))
            for name, array in self._trunk.export().items()
        }
        self._trunk.unload()
        for name, parameter in self._stem.base.named_parameters():
            if parameter.requires_grad:
                found[f"stem.{name}"] = parameter.detach()
        return {**found, **self._head.learnt()}


def _adapters(model: StockModel) -> dict[str, Any] | None:
    if not model.layers:
        return None
    spec = model.spec
    return {"layers": list(model.layers), "rank": spec.rank, "scale": spec.scale}


def _out(rows: Tensor) -> Floats:
    return np.asarray(rows.contiguous().numpy())
