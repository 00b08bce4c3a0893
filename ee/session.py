"""A split training session: stem and head here, the trunk behind a port.

One local training run of a member within a round.  The trunk is keyed under a fresh key
before it leaves, and what comes back is unkeyed before anyone else sees it, so the
federation's updates meet in one common basis while every host works in a basis of its own.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits

from ee import table
from ee.errors import EncryptionError
from ee.hyper import TrainHyper
from ee.keys import TrunkKey, key_trunk, unkey_trunk
from ee.spec import Arrays, ModelSpec, Vector, join, part, split, trunk_config
from ee.trunk import Trunk

Floats = NDArray[np.float32]
Progress = Callable[[int, int, float], None]
"""Steps done, steps in all, loss of the last step."""


@dataclass(frozen=True)
class LocalResult:
    """What a member brings to the sum, and what it tells its operator."""

    delta: Vector
    loss_first: float
    loss_last: float
    samples: int

    @classmethod
    def of(cls, delta: Vector, losses: Sequence[float], samples: int) -> "LocalResult":
        """With means over the first and the last five losses."""
        first, last = np.mean(losses[:5]), np.mean(losses[-5:])
        return cls(delta, float(first), float(last), samples)


class TrunkPort(Protocol):
    """A trunk somewhere else; `node.worker.client` or, in tests, `LocalTrunk`."""

    def load(self, config: Mapping[str, Any], weights: Arrays) -> None: ...
    def forward(self, x: Floats, *, train: bool) -> Floats: ...
    def backward(self, gy: Floats) -> Floats: ...
    def step(self, lr: float, hyper: Mapping[str, Any]) -> None: ...
    def export(self) -> Arrays: ...
    def unload(self) -> None: ...


class LocalTrunk:
    """The port without a wire: the same calls, in this process."""

    def __init__(self) -> None:
        self._trunk: Trunk | None = None

    def load(self, config: Mapping[str, Any], weights: Arrays) -> None:
        self._trunk = Trunk(config, weights)

    def forward(self, x: Floats, *, train: bool) -> Floats:
        return self._loaded().forward(x, train=train)

    def backward(self, gy: Floats) -> Floats:
        return self._loaded().backward(gy)

    def step(self, lr: float, hyper: Mapping[str, Any]) -> None:
        self._loaded().step(lr, hyper)

    def export(self) -> Arrays:
        return self._loaded().export()

    def unload(self) -> None:
        self._trunk = None

    def _loaded(self) -> Trunk:
        if self._trunk is None:
            raise EncryptionError("no trunk is loaded")
        return self._trunk


def train_local(
    spec: ModelSpec,
    state: Vector,
    values: table.Values,
    labels: NDArray[np.float64],
    hyper: TrainHyper,
    trunk: TrunkPort,
    key_seed: bytes,
    *,
    batch_seed: int,
    elapsed: float = 0.0,
    progress: Progress | None = None,
) -> LocalResult:
    """Train from `state` on this member's records; `elapsed` is the run's done fraction."""
    if len(values) != len(labels) or len(values) < 1:
        raise EncryptionError(f"{len(values)} records with {len(labels)} labels")
    arrays = split(spec, state)
    key = TrunkKey.generate(key_seed, spec)
    trunk.load(trunk_config(spec), key_trunk(part(arrays, "trunk"), key))
    ends = _Ends(spec, arrays, values, labels, hyper)
    rate = 1.0 - hyper.cool * elapsed
    settings = {"momentum": hyper.momentum, "decay": hyper.decay, "clip": hyper.clip}

    def step(batch: NDArray[np.int64]) -> float:
        rows = ends.rows(batch)
        hidden = key.leave(trunk.forward(key.enter(rows), train=True))
        loss, hidden_grad = ends.loss(batch, hidden)
        ends.backward(key.leave(trunk.backward(key.enter(hidden_grad))))
        trunk.step(rate * hyper.trunk_rate, settings)
        ends.step(rate * hyper.ends_rate)
        return loss

    losses = losses_of(step, len(values), hyper, batch_seed, progress)
    home = unkey_trunk(trunk.export(), key)
    trunk.unload()
    trained = join(
        spec, {**ends.arrays(), **{f"trunk.{n}": w for n, w in home.items()}}
    )
    return LocalResult.of(trained - state, losses, len(values))


def losses_of(
    step: Callable[[NDArray[np.int64]], float],
    records: int,
    hyper: TrainHyper,
    batch_seed: int,
    progress: Progress | None,
) -> list[float]:
    """The loss of every local step; `step` is given the numbers of its batch, rising.

    Raises `EncryptionError` at the first loss that is not finite.
    """
    order = np.random.Generator(np.random.PCG64(batch_seed))
    size = min(hyper.batch, records)
    losses: list[float] = []
    for number in range(1, hyper.steps + 1):
        loss = step(np.sort(order.choice(records, size, replace=False)))
        if not math.isfinite(loss):
            raise EncryptionError(f"loss is {loss} at step {number} of {hyper.steps}")
        losses.append(loss)
        if progress is not None:
            progress(number, hyper.steps, loss)
    return losses


def predict(
    spec: ModelSpec, state: Vector, values: table.Values
) -> NDArray[np.float32]:
    """Log-odds in the clear, at a key holder that has the whole state."""
    arrays = split(spec, state)
    rows = table.stem_tokens(spec, part(arrays, "stem"), values)
    body = Trunk(trunk_config(spec), part(arrays, "trunk"))
    last = body.forward(rows, train=False)[:, -1]
    return table.head_scores(part(arrays, "head"), last)


class _Ends:
    """Stem and head in torch, with their own AdamW: nobody else ever sees them."""

    def __init__(
        self,
        spec: ModelSpec,
        arrays: Arrays,
        values: table.Values,
        labels: NDArray[np.float64],
        hyper: TrainHyper,
    ) -> None:
        self._spec = spec
        self._own = {
            name: torch.from_numpy(array.copy()).requires_grad_()
            for name, array in arrays.items()
            if not name.startswith("trunk.")
        }
        units, missing = table.scaled(spec, values)
        self._units, self._missing = torch.from_numpy(units), torch.from_numpy(missing)
        self._labels = torch.from_numpy(labels.astype(np.float32))
        self._adam = torch.optim.AdamW(
            self._own.values(), lr=hyper.ends_rate, weight_decay=hyper.decay
        )
        self._rows: torch.Tensor | None = None

    def rows(self, batch: NDArray[np.int64]) -> Floats:
        """Plain rows of the records numbered in `batch`; the graph is kept."""
        own, units = self._own, self._units[batch]
        rows = units[:, :, None] * own["stem.slope"] + own["stem.place"]
        columns = list(rows.unbind(1))
        for j, column in enumerate(self._spec.columns):
            if not column.numeric:
                level = own[f"stem.levels.{j}"][units[:, j].long()]
                columns[j] = level + own["stem.place"][j]
        rows = torch.stack(columns, 1)
        rows = torch.where(self._missing[batch][:, :, None], own["stem.missing"], rows)
        summary = own["stem.summary"].expand(len(units), 1, -1)
        self._rows = torch.cat([rows, summary], 1)
        return np.asarray(self._rows.detach().numpy())

    def loss(self, batch: NDArray[np.int64], hidden: Floats) -> tuple[float, Floats]:
        """Loss, and its gradient at the trunk's output."""
        out = torch.from_numpy(hidden).requires_grad_()
        scores = out[:, -1] @ self._own["head.weight"] + self._own["head.bias"]
        loss = binary_cross_entropy_with_logits(scores, self._labels[batch])
        loss.backward()
        if out.grad is None:
            raise EncryptionError("no gradient reached the trunk's output")
        return float(loss.detach()), np.asarray(out.grad.numpy())

    def backward(self, gradient: Floats) -> None:
        """What came back through the trunk, into the stem."""
        if self._rows is None:
            raise EncryptionError("backward before rows")
        self._rows.backward(torch.from_numpy(np.array(gradient)))
        self._rows = None

    def step(self, rate: float) -> None:
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._adam.step()
        self._adam.zero_grad()

    def arrays(self) -> Arrays:
        return {
            name: value.detach().numpy().copy() for name, value in self._own.items()
        }
