"""A protein model trained across the split, and worker processes to train it on."""

import subprocess
import sys
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from transformers import EsmConfig, EsmForMaskedLM

from ee.keys import Key, state_keyed
from ee.split import split_model
from node.worker.client import WorkerClient
from node.worker.snapshot import Snapshot


@contextmanager
def worker_process(folder, *options, name="worker"):
    """A running worker and its socket."""
    socket = folder / f"{name}.sock"
    program = [sys.executable, "-m", "node.worker", "--socket", str(socket), *options]
    with subprocess.Popen(program, stdout=subprocess.DEVNULL) as process:
        try:
            for _ in range(2400):
                if socket.exists() or process.poll() is not None:
                    break
                time.sleep(0.05)
            assert socket.exists(), "the worker did not start"
            yield process, str(socket)
        finally:
            process.terminate()


class KeyHolder:
    """Stem, head, key, tokens: what stays at home."""

    def __init__(self, seed=bytes(range(32))):
        torch.manual_seed(0)
        self.model = EsmForMaskedLM(
            EsmConfig(
                vocab_size=33,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=3,
                num_attention_heads=4,
                position_embedding_type="rotary",
                pad_token_id=1,
                mask_token_id=32,
            )
        ).eval()
        parts = split_model(self.model, stem_layers=1)
        self.parts, self.key = parts, Key(seed, parts.plan)
        self.stem, self.gain = parts.build_stem(), parts.build_gain()
        generator = torch.Generator().manual_seed(5)
        self.tokens = torch.randint(4, 24, (4, 12), generator=generator)
        self.labels = torch.randint(4, 24, (4, 12), generator=generator)
        self.mask = torch.ones_like(self.tokens, dtype=torch.int32)
        self.mask[1, -4:] = 0

    def beginning(self):
        """The session before its first step."""
        config = self.parts.cut.trunk_config
        keyed = state_keyed(self.parts.trunk, self.key)
        return Snapshot(
            self.key.fingerprint(),
            {"model_type": "esm", **config.to_diff_dict()},
            {name: tensor.numpy() for name, tensor in keyed.items()},
        )

    def step(self, worker: WorkerClient) -> float:
        """One training step of the trunk; the loss before it."""
        with torch.no_grad():
            rows = self.stem(input_ids=self.tokens, attention_mask=self.mask)
        x = self.key.enter(rows).numpy()
        y = worker.forward(x, train=True, mask=self.mask.numpy())
        hidden = self.key.leave(torch.from_numpy(y)).requires_grad_()
        seen = self.mask.bool()
        scores = self.model.lm_head(self.gain(hidden))[seen]
        loss = torch.nn.functional.cross_entropy(scores, self.labels[seen])
        loss.backward()
        worker.backward(self.key.enter(hidden.grad).numpy())
        worker.step(0.02, {"clip": 1.0})
        return float(loss.detach())

    def home(self, worker: WorkerClient):
        """The trained trunk in the clear."""
        return {
            n: self.key.unkey(n, torch.from_numpy(a))
            for n, a in worker.export().items()
        }


@pytest.fixture(scope="session")
def across():
    """`across.worker(folder, *options)` and `across.KeyHolder()`."""
    return SimpleNamespace(worker=worker_process, KeyHolder=KeyHolder)
