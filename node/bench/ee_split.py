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
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from ee.hosted import HostedTrunk
from ee.keys import Key, state_keyed
from ee.split import Split, split_model
from node.worker.client import WorkerClient

TOKENS, BATCH, VOCAB = 64, 8, 1000
CONFIG = LlamaConfig(
    vocab_size=VOCAB,
    hidden_size=256,
    intermediate_size=704,
    num_hidden_layers=13,
    num_attention_heads=8,
    num_key_value_heads=4,
)
"""One block for the stem, twelve for the trunk."""
Rows = NDArray[Any]
HYPER = {"momentum": 0.9, "decay": 0.0, "clip": 1.0}
_START_S = 120.0


def measure(pairs: int) -> dict[str, float]:
    """Medians of split over whole, by wall time and by processor time of both processes.

    The two agree on an idle machine.  On a busy one the scheduler gives two processes more
    than one, and only the second means anything.
    """
    torch.manual_seed(0)
    parts = split_model(LlamaForCausalLM(CONFIG).eval(), stem_layers=1)
    key = Key(bytes(32), parts.plan)
    stock = parts.cut.trunk_config
    config = {"model_type": stock.model_type, **stock.to_diff_dict()}
    plain = {name: tensor.numpy() for name, tensor in parts.trunk.items()}
    keyed = {n: t.numpy() for n, t in state_keyed(parts.trunk, key).items()}
    with _worker() as (remote, worker):
        remote.load(config, keyed)
        local = HostedTrunk(config, plain)
        apart = _KeyHolder(parts, remote, key)
        together = _KeyHolder(parts, local, None)
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

    def __init__(
        self, parts: Split, trunk: WorkerClient | HostedTrunk, key: Key | None
    ) -> None:
        torch.manual_seed(0)
        self._trunk, self._key = trunk, key
        self._stem, self._gain = parts.build_stem(), parts.build_gain()
        self._head = nn.Linear(parts.plan.width, VOCAB)
        own = [
            parameter
            for part in (self._stem, self._gain, self._head)
            for parameter in part.parameters()
        ]
        self._adam = torch.optim.AdamW(own, lr=1e-4)
        self._tokens = torch.randint(VOCAB, (BATCH, TOKENS))

    def step(self) -> None:
        """Two messages there, two back, and everybody's optimiser."""
        rows = self._stem(input_ids=self._tokens)
        y = self._trunk.forward(self._out(rows.detach()), train=True)
        hidden = self._home(y).requires_grad_()
        scores = self._head(self._gain(hidden)[:, :-1]).flatten(0, 1)
        nn.functional.cross_entropy(scores, self._tokens[:, 1:].flatten()).backward()
        assert hidden.grad is not None
        rows.backward(self._home(self._trunk.backward(self._out(hidden.grad))))
        self._trunk.step(1e-4, HYPER)
        self._adam.step()
        self._adam.zero_grad()

    def _out(self, rows: torch.Tensor) -> Rows:
        return (rows if self._key is None else self._key.enter(rows)).numpy()

    def _home(self, rows: Rows) -> torch.Tensor:
        tensor = torch.from_numpy(rows)
        return tensor if self._key is None else self._key.leave(tensor)


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
