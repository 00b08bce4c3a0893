"""A worker's trunk of any architecture: the same steps as in one process."""

import numpy as np
import pytest
import torch

from ee import lora
from ee.errors import EncryptionError, UnsupportedModelError
from ee.hosted import HostedTrunk
from ee.keys import Key, state_keyed
from ee.optim import Equivariant
from ee.split import split_model

SEED = bytes(range(32))
HYPER = {"momentum": 0.9, "decay": 0.01, "clip": 0.5}


def _arrays(state):
    return {name: tensor.numpy() for name, tensor in state.items()}


def _config(parts):
    config = parts.cut.trunk_config
    return {"model_type": config.model_type, **config.to_diff_dict()}


def _mask(rows):
    mask = np.ones(rows.shape[:2], np.int32)
    mask[0, -2:] = 0
    return mask


def test_hosted_steps_are_steps_in_one_process(architecture, stock):
    parts = split_model(stock.make(architecture), stem_layers=1)
    key = Key(SEED, parts.plan)
    host = HostedTrunk(_config(parts), _arrays(state_keyed(parts.trunk, key)))
    plain = parts.build_trunk()
    optimiser = Equivariant(
        plain.named_parameters(),
        parts.plan,
        lr=0.01,
        weight_decay=0.01,
        block_lr=0.001,
        block_decay=0.01,
    )
    generator = torch.Generator().manual_seed(4)
    rows, target = torch.randn(2, 2, 6, parts.plan.width, generator=generator)
    mask = _mask(rows)
    for _ in range(3):
        x = rows.clone().requires_grad_()
        y = parts.cut.architecture.run(plain, x, torch.from_numpy(mask).long())
        slope = (y.detach() - target) / y.numel()
        y.backward(slope)
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimiser.step()
        optimiser.zero_grad()

        keyed = host.forward(key.enter(rows).numpy(), train=True, mask=mask)
        back = host.backward(key.enter(slope).numpy())
        host.step(0.01, HYPER)
        home = key.leave(torch.from_numpy(keyed))
        torch.testing.assert_close(home, y.detach(), atol=2e-4, rtol=1e-3)
        found = key.leave(torch.from_numpy(back))
        torch.testing.assert_close(found, x.grad, atol=1e-5, rtol=1e-2)
    trained = dict(plain.named_parameters())
    for name, array in host.export().items():
        tensor = key.unkey(name, torch.from_numpy(array))
        torch.testing.assert_close(tensor, trained[name].detach(), atol=1e-3, rtol=1e-2)


def test_only_adapters_are_trained_and_exported(stock):
    parts = split_model(stock.make("gpt2"))
    plan = parts.plan.with_adapters(["h.0.attn.c_attn"], 4)
    key = Key(SEED, plan)
    first = lora.adapter_state(plan, seed=1, dtype=torch.float32)
    state = state_keyed({**parts.trunk, **first}, key)
    adapters = {"layers": ["h.0.attn.c_attn"], "rank": 4, "scale": 0.5}
    host = HostedTrunk(_config(parts), _arrays(state), adapters)
    host.forward(np.ones((1, 3, 32), np.float32), train=True)
    host.backward(np.ones((1, 3, 32), np.float32))
    host.step(0.01, HYPER)
    assert set(host.export()) == {"h.0.attn.c_attn.lora_B"}


def test_what_does_not_fit_is_refused(stock):
    parts = split_model(stock.make("llama"))
    config, state = _config(parts), _arrays(parts.trunk)
    name = "layers.0.mlp.up_proj.weight"
    with pytest.raises(EncryptionError, match=f"differ in {name}"):
        HostedTrunk(config, {n: a for n, a in state.items() if n != name})
    with pytest.raises(EncryptionError, match="the trunk needs"):
        HostedTrunk(config, {**state, name: state[name][1:]})
    with pytest.raises(EncryptionError, match="of 2 kinds"):
        HostedTrunk(config, {**state, name: state[name].astype(np.float64)})
    with pytest.raises(EncryptionError, match="needs a float"):
        HostedTrunk(config, {**state, name: state[name].astype(np.int32)})
    with pytest.raises(UnsupportedModelError, match="no keys are known for t5"):
        HostedTrunk({"model_type": "t5"}, {})
    with pytest.raises(EncryptionError, match="no stock configuration"):
        HostedTrunk({"model_type": "nothing"}, {})
    host = HostedTrunk(config, state)
    with pytest.raises(EncryptionError, match="the trunk is 32 wide"):
        host.forward(np.ones((1, 3, 31), np.float32), train=False)
    with pytest.raises(EncryptionError, match="backward without a forward"):
        host.backward(np.ones((1, 3, 32), np.float32))
