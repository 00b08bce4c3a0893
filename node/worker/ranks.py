"""One worker on several devices: `torchrun -m node.worker`, a process for each.

The first process listens and speaks to the key holder.  It repeats each call to the others,
tensors and all, and all make it together (`ee.sharded`).  There is one trunk at a time.  A
call that is refused is refused alike everywhere, before a process waits for another; if one
dies, the others fail, torchrun ends the group, and the key holder hears that its worker has
gone.
"""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ee.economy import NO_ECONOMY, Economy
from ee.errors import EncryptionError
from ee.sharded import ShardedTrunk
from node.errors import ComputeError
from node.worker.wire import Tensors

IDLE = timedelta(days=365)
"""A process waits this long for the next call.  A dead one is noticed by its connection."""
_CALLS = ("forward", "backward", "step", "export", "moments")


class Ranks:
    """All processes of one worker, seen from one of them; `Trunks` on the first."""

    def __init__(self, device: str, economy: Economy) -> None:
        self._device, self._economy = device, economy
        self._taken = threading.Lock()
        self._trunk: ShardedTrunk | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the process that listens."""
        return dist.get_rank() == 0

    def open(
        self,
        config: Mapping[str, Any],
        weights: Tensors,
        adapters: Mapping[str, Any] | None,
        moments: Tensors,
    ) -> "Led":
        if not self._taken.acquire(blocking=False):
            raise ComputeError("another session has the devices of this worker")
        try:
            self.together("open", config, weights, adapters, moments)
        except BaseException:
            self._taken.release()
            raise
        return Led(self)

    def close(self, trunk: "Led") -> None:
        del trunk
        self.together("close")
        self._taken.release()

    def together(self, name: str, *arguments: Any, **named: Any) -> Any:
        """Make a call here and everywhere; the lead's answer."""
        _send((name, arguments, named))
        return self._make(name, arguments, named)

    def follow(self) -> None:
        """Make the lead's calls until it is gone."""
        while True:
            name, arguments, named = _receive()
            try:
                self._make(name, arguments, named)
            except (EncryptionError, ComputeError, KeyError, ValueError, TypeError):
                continue  # the lead met the same and has answered

    def _make(
        self, name: str, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> Any:
        if name == "open":
            config, weights, adapters, moments = arguments
            self._trunk = ShardedTrunk(
                config,
                weights,
                adapters,
                moments=moments,
                device=self._device,
                economy=self._economy,
            )
            return None
        if name == "close":
            self._trunk = None
            return None
        if self._trunk is None or name not in _CALLS:
            raise ComputeError(f"no trunk is loaded for {name}")
        return getattr(self._trunk, name)(*arguments, **named)


class Led:
    """A session's trunk on all processes."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    def forward(self, x: Any, **named: Any) -> Any:
        return self._ranks.together("forward", x, **named)

    def backward(self, gy: Any) -> Any:
        return self._ranks.together("backward", gy)

    def step(self, lr: float, hyper: Mapping[str, Any]) -> None:
        self._ranks.together("step", lr, dict(hyper))

    def export(self) -> Any:
        return self._ranks.together("export")

    def moments(self) -> Any:
        return self._ranks.together("moments")


class _Away:
    """Stands for an array in a call whose bytes follow."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.shape, self.dtype = array.shape, array.dtype.str


def _send(call: tuple[str, tuple[Any, ...], dict[str, Any]]) -> None:
    arrays: list[np.ndarray[Any, Any]] = []

    def emptied(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            arrays.append(value)
            return _Away(value)
        if isinstance(value, dict):
            return {name: emptied(item) for name, item in value.items()}
        if isinstance(value, tuple):
            return tuple(emptied(item) for item in value)
        return value

    dist.broadcast_object_list([emptied(call)], src=0)
    for array in arrays:
        if array.size:
            dist.broadcast(_bytes_of(np.ascontiguousarray(array)), src=0)


def _receive() -> Any:
    box: list[Any] = [None]
    dist.broadcast_object_list(box, src=0)

    def filled(value: Any) -> Any:
        if isinstance(value, _Away):
            array = np.empty(value.shape, value.dtype)
            if array.size:
                dist.broadcast(_bytes_of(array), src=0)
            return array
        if isinstance(value, dict):
            return {name: filled(item) for name, item in value.items()}
        if isinstance(value, tuple):
            return tuple(filled(item) for item in value)
        return value

    return filled(box[0])


def _bytes_of(array: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(array.reshape(-1).view(np.uint8))


@contextmanager
def open_ranks(device: str, economy: Economy = NO_ECONOMY) -> Iterator[Ranks]:
    """The group torchrun started this process in, for as long as the block lasts."""
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(
        "gloo" if kind == "cpu" else "cpu:gloo,cuda:nccl", timeout=IDLE
    )
    try:
        yield Ranks(kind, economy)
    finally:
        dist.destroy_process_group()
