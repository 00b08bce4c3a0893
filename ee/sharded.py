"""A hosted trunk spread over processes with FSDP: every parameter, gradient and moment.

Each process runs the same calls in the same order on the same arguments, takes its part of
the batch, and has the whole answer.  A batch that does not divide is filled up with rows
of zeros whose gradient is zero.  What comes out equals one process up to the order of sums.

While a trunk is loaded each process holds all of it for a moment; FSDP then keeps a part.
Biases' second moments, one number an orbit, are on every process.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from ee.economy import NO_ECONOMY, Economy
from ee.hosted import HostedTrunk
from ee.spec import Arrays


class ShardedTrunk(HostedTrunk):
    """One process's part; the default group of `torch.distributed` must be open."""

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
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        self._batch = 0
        super().__init__(
            config,
            weights,
            adapters,
            moments=moments,
            device=device,
            economy=economy,
        )

    def _placed(self, model: nn.Module) -> nn.Module:
        mesh = init_device_mesh(self._device.type, (self._world,))
        for block in model.get_submodule(self._architecture.layers):
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model

    def forward(
        self, x: NDArray[Any], *, train: bool, mask: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """(batch, tokens, width) rows to rows, on every process all of them."""
        self._batch = len(x)
        # Rows nobody reads see each other: a row that sees nothing is not a number.
        seen = None if mask is None else self._part(mask, filling=1)
        y = super().forward(self._part(x), train=train, mask=seen)
        return self._joined(y)

    def backward(self, gy: NDArray[Any]) -> NDArray[Any]:
        """Gradient at the rows that went in, on every process all of them."""
        # FSDP takes the mean over processes where one process would have summed.
        gx = super().backward(self._part(gy) * gy.dtype.type(self._world))
        return self._joined(gx) / gx.dtype.type(self._world)

    def _part(self, x: NDArray[Any], filling: int = 0) -> NDArray[Any]:
        """(batch, ...) to this process's (ceil(batch / world), ...)."""
        size = max(1, -(-len(x) // self._world))
        room = np.full((size * self._world, *x.shape[1:]), filling, x.dtype)
        room[: len(x)] = x
        return room[self._rank * size : (self._rank + 1) * size]

    def _joined(self, part: NDArray[Any]) -> NDArray[Any]:
        own = torch.from_numpy(np.ascontiguousarray(part))
        parts = [torch.empty_like(own) for _ in range(self._world)]
        dist.all_gather(parts, own)
        return torch.cat(parts)[: self._batch].numpy()
