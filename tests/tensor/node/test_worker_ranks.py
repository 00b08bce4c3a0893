"""Two processes under torchrun hold one trunk with FSDP: same losses, same weights as one."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ee.economy import Economy
from ee.hosted import HostedTrunk
from ee.keys import Key, state_keyed
from ee.split import split_model
from node.errors import ComputeError
from node.worker.client import TrunkLostError, WorkerClient, WorkerRefusedError

pytestmark = pytest.mark.slow

HYPER = {"momentum": 0.9, "decay": 0.01, "clip": 0.5}
STEPS = 6


def _listens(socket):
    """Its name is there before it is."""
    try:
        WorkerClient(str(socket)).close()
    except ComputeError:
        return False
    return True


@contextmanager
def _torchrun(socket, *words):
    program = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"),
        *("-m", "node.worker", "--socket", str(socket)),
        *words,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        program, stdout=subprocess.DEVNULL, env=environment
    ) as process:
        try:
            for _ in range(2400):
                if _listens(socket) or process.poll() is not None:
                    break
                time.sleep(0.05)
            assert _listens(socket), "the ranks did not start"
            yield process
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def material():
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=40,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            attention_bias=True,
            bos_token_id=None,
            eos_token_id=None,
        )
    ).eval()
    parts = split_model(model, stem_layers=1)
    key = Key(bytes(range(32)), parts.plan)
    config = parts.cut.trunk_config
    keyed = {n: t.numpy() for n, t in state_keyed(parts.trunk, key).items()}
    rows, target = np.random.default_rng(1).normal(size=(2, 3, 7, 32))
    return (
        {"model_type": "llama", **config.to_diff_dict()},
        keyed,
        rows.astype(np.float32),
        target.astype(np.float32),
    )


def _steps(trunk, rows, target, count):
    """A batch of three, which two processes cannot share evenly, with padding."""
    mask = np.ones(rows.shape[:2], np.int32)
    mask[1, -2:] = 0
    losses = []
    for _ in range(count):
        y = trunk.forward(rows, train=True, mask=mask)
        away = (y - target) * mask[:, :, None]
        losses.append(float((away**2).mean()))
        trunk.backward(2 * away / np.float32(away.size))
        trunk.step(0.02, HYPER)
    return losses


def test_two_processes_train_as_one_and_take_up_what_one_has_left(material, tmp_path):
    config, keyed, rows, target = material
    one = HostedTrunk(config, keyed)
    wanted = _steps(one, rows, target, STEPS)
    half = HostedTrunk(config, keyed)
    first = _steps(half, rows, target, STEPS // 2)

    socket = tmp_path / "worker.sock"
    with _torchrun(socket) as process:
        with WorkerClient(str(socket)) as client:
            client.load(config, keyed)
            found = _steps(client, rows, target, STEPS)
            np.testing.assert_allclose(found, wanted, rtol=1e-4)
            _same(client.export(), one.export())
            _same(client.moments(), one.moments())
            # A call that is refused is refused on both, and both go on.
            with pytest.raises(WorkerRefusedError, match="the trunk is 32 wide"):
                client.forward(rows[:, :, :31], train=False)
            with pytest.raises(WorkerRefusedError, match="no keys are known for t5"):
                client.load({"model_type": "t5"}, {})
            resumed = {**keyed, **half.export()}
            client.load(config, resumed, moments=half.moments())
            rest = _steps(client, rows, target, STEPS - STEPS // 2)
            np.testing.assert_allclose(first + rest, wanted, rtol=1e-4)
            with (
                WorkerClient(str(socket)) as second,
                pytest.raises(ComputeError, match="another session has"),
            ):
                second.load(config, keyed)
        with WorkerClient(str(socket)) as client:
            for _ in range(600):  # the first session ends behind our back
                try:
                    client.load(config, keyed)
                    break
                except WorkerRefusedError:
                    time.sleep(0.05)
            process.terminate()
            process.wait()
            with pytest.raises(TrunkLostError, match="went away"):
                client.forward(rows, train=False)


def test_two_processes_save_as_one_does(material, tmp_path):
    """What recomputes and what is narrow is narrow and recomputed on both."""
    config, keyed, rows, target = material
    one = HostedTrunk(config, keyed, economy=Economy(True, True))
    exact = HostedTrunk(config, keyed)
    narrow, wide = (trunk.forward(rows, train=False) for trunk in (one, exact))
    rounding = np.linalg.norm(narrow - wide)
    assert rounding > 1e-5 * np.linalg.norm(wide)
    wanted = _steps(one, rows, target, 2)
    _steps(exact, rows, target, 2)
    socket = tmp_path / "worker.sock"
    words = ("--bf16", "--gradient-checkpointing")
    with _torchrun(socket, *words), WorkerClient(str(socket)) as client:
        client.load(config, keyed)
        apart = np.linalg.norm(client.forward(rows, train=False) - narrow)
        assert apart < 0.1 * rounding
        np.testing.assert_allclose(_steps(client, rows, target, 2), wanted, rtol=1e-5)
        found = client.export()
    # Parts of a gradient are rounded apart, which costs what bfloat16 itself costs.
    apart = _distance(found, one.export())
    assert apart < 3 * _distance(one.export(), exact.export())
    assert apart < 0.1 * _distance(found, keyed)


def _distance(left, right):
    return sum(float(((left[n] - right[n]) ** 2).sum()) for n in left) ** 0.5


def _same(found, wanted):
    assert set(found) == set(wanted)
    assert any(float(np.abs(array).max()) > 0 for array in found.values())
    for name, array in found.items():
        np.testing.assert_allclose(array, wanted[name], atol=2e-5, err_msg=name)
