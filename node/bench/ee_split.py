"""A training step across the split against the same step in one process.

Stem (one block), head, loss and key are here; the keyed 12-block trunk is in a worker
process behind a unix socket.  The yardstick is the same code with the plain trunk in this
process, so the ratio is the key's and the two hops' price and nothing else's.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel

from ee.keys.table import TrunkKey, key_trunk
from ee.session import LocalTrunk, TrunkPort
from ee.spec import Arrays, Column, ModelSpec, trunk_shapes
from ee.trunk import trunk_config
from node.worker.client import WorkerClient

TOKENS, BATCH, VOCAB = 64, 8, 1000
SPEC = ModelSpec(
    columns=tuple(Column(f"c{i}") for i in range(TOKENS - 1)),
    width=256,
    layers=12,
    heads=8,
    kv_heads=4,
    inner=704,
    seed=1,
)
HYPER = {"momentum": 0.9, "decay": 0.0, "clip": 1.0}
_START_S = 120.0


def measure(pairs: int) -> dict[str, float]:
    """Medians of split over whole, by wall time and by processor time of both processes.

    The two agree on an idle machine.  On a busy one the scheduler gives two processes more
    than one, and only the second means anything.
    """
    weights = _weights()
    key = TrunkKey.generate(bytes(32), SPEC)
    with _worker() as (remote, worker):
        remote.load(trunk_config(SPEC), key_trunk(weights, key))
        local = LocalTrunk()
        local.load(trunk_config(SPEC), weights)
        apart, together = _KeyHolder(remote, key), _KeyHolder(local, None)
        for one in (apart, together):
            one.step()
        walls: list[float] = []
        works: list[float] = []
        took: list[float] = []
        for number in range(pairs):
            order = (apart, together) if number % 2 else (together, apart)
            wall: dict[bool, float] = {}
            work: dict[bool, float] = {}
            for one in order:
                started, spent = time.perf_counter(), _work_s(worker)
                one.step()
                wall[one is apart] = time.perf_counter() - started
                work[one is apart] = _work_s(worker) - spent
            walls.append(wall[True] / wall[False])
            works.append(work[True] / work[False])
            took.append(1000 * wall[True])
    return {
        "step_ratio": statistics.median(walls),
        "step_work_ratio": statistics.median(works),
        "step_ms": statistics.median(took),
    }


def _work_s(worker: int) -> float:
    """Processor seconds of this process and the worker so far."""
    theirs = 0
    for task in Path(f"/proc/{worker}/task").iterdir():
        theirs += int((task / "schedstat").read_text().split()[0])
    return time.process_time() + theirs / 1e9


class _KeyHolder:
    """Stem and head with their optimiser, and a trunk somewhere."""

    def __init__(self, trunk: TrunkPort, key: TrunkKey | None) -> None:
        torch.manual_seed(0)
        self._trunk, self._key = trunk, key
        config = LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=SPEC.width,
            intermediate_size=SPEC.inner,
            num_hidden_layers=1,
            num_attention_heads=SPEC.heads,
            num_key_value_heads=SPEC.kv_heads,
        )
        self._stem = LlamaModel(config)
        self._stem.norm = nn.Identity()
        self._head = nn.Linear(SPEC.width, VOCAB)
        own = [*self._stem.parameters(), *self._head.parameters()]
        self._adam = torch.optim.AdamW(own, lr=1e-4)
        self._tokens = torch.randint(VOCAB, (BATCH, TOKENS))

    def step(self) -> None:
        """Two messages there, two back, and everybody's optimiser."""
        rows = self._stem(self._tokens).last_hidden_state
        x = rows.detach().numpy()
        y = self._trunk.forward(
            x if self._key is None else self._key.enter(x), train=True
        )
        y = y if self._key is None else self._key.leave(y)
        hidden = torch.from_numpy(np.array(y)).requires_grad_()
        scores = self._head(hidden[:, :-1]).flatten(0, 1)
        nn.functional.cross_entropy(scores, self._tokens[:, 1:].flatten()).backward()
        assert hidden.grad is not None
        g = hidden.grad.numpy()
        g = self._trunk.backward(g if self._key is None else self._key.enter(g))
        g = g if self._key is None else self._key.leave(g)
        rows.backward(torch.from_numpy(np.array(g)))
        self._trunk.step(1e-4, HYPER)
        self._adam.step()
        self._adam.zero_grad()


def _weights() -> Arrays:
    generator = np.random.default_rng(0)
    return {
        name.removeprefix("trunk."): (
            generator.normal(size=shape) / shape[1] ** 0.5
        ).astype(np.float32)
        for name, shape in trunk_shapes(SPEC)
    }


@contextmanager
def _worker() -> Iterator[tuple[WorkerClient, int]]:
    """A fresh worker process and its id; it is ended at the end."""
    with TemporaryDirectory() as folder:
        socket = Path(folder) / "worker.sock"
        program = [sys.executable, "-m", "node.worker", "--socket", str(socket)]
        with subprocess.Popen(program, stdout=subprocess.DEVNULL) as process:
            try:
                deadline = time.monotonic() + _START_S
                while not socket.exists():
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise RuntimeError("the worker did not start")
                    time.sleep(0.05)
                with WorkerClient(str(socket)) as client:
                    yield client, process.pid
            finally:
                process.terminate()
