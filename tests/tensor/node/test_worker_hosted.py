"""A worker process trains a stock trunk it cannot read, and is asked over its socket."""

import subprocess
import sys
import time

import pytest
import torch
from transformers import EsmConfig, EsmForMaskedLM

from ee.keys import Key, state_keyed
from ee.split import split_model
from node.errors import ComputeError
from node.worker.client import WorkerClient

pytestmark = pytest.mark.slow


@pytest.fixture
def worker(tmp_path):
    socket = tmp_path / "worker.sock"
    program = [sys.executable, "-m", "node.worker", "--socket", str(socket)]
    with subprocess.Popen(program, stdout=subprocess.DEVNULL) as process:
        try:
            for _ in range(1200):
                if socket.exists() or process.poll() is not None:
                    break
                time.sleep(0.05)
            with WorkerClient(str(socket)) as client:
                yield client
        finally:
            process.terminate()


def test_a_protein_model_is_trained_across_the_split(worker):
    torch.manual_seed(0)
    model = EsmForMaskedLM(
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
    parts = split_model(model, stem_layers=1)
    key = Key(bytes(range(32)), parts.plan)
    config = parts.cut.trunk_config
    keyed = {n: t.numpy() for n, t in state_keyed(parts.trunk, key).items()}
    worker.load({"model_type": "esm", **config.to_diff_dict()}, keyed)

    stem, gain = parts.build_stem(), parts.build_gain()
    tokens = torch.randint(4, 24, (4, 12))
    mask = torch.ones_like(tokens, dtype=torch.int32)
    mask[1, -4:] = 0
    losses = []
    for _ in range(15):
        with torch.no_grad():
            rows = stem(input_ids=tokens, attention_mask=mask)
        y = worker.forward(key.enter(rows).numpy(), train=True, mask=mask.numpy())
        hidden = key.leave(torch.from_numpy(y)).requires_grad_()
        scores = model.lm_head(gain(hidden))[mask.bool()]
        loss = torch.nn.functional.cross_entropy(scores, tokens[mask.bool()])
        loss.backward()
        worker.backward(key.enter(hidden.grad).numpy())
        worker.step(0.02, {"clip": 1.0})
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    home = {n: key.unkey(n, torch.from_numpy(a)) for n, a in worker.export().items()}
    assert set(home) == set(parts.plan.keyed())
    with pytest.raises(ComputeError, match="no keys are known for t5"):
        worker.load({"model_type": "t5"}, {})
