"""A worker's trunk of any architecture: the same steps as in one process."""

import numpy as np
import pytest
import torch

from ee import lora
from ee.economy import Economy
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


def _stepped(parts, key, economy, steps=2):
    """(bytes kept for the way back, weights at home, outputs at home)."""
    state = _arrays(state_keyed(parts.trunk, key))
    host = HostedTrunk(_config(parts), state, economy=economy)
    generator = torch.Generator().manual_seed(4)
    rows, target = torch.randn(2, 3, 8, parts.plan.width, generator=generator)
    rows = rows.view(1, -1, parts.plan.width)
    kept, outputs = [0], []

    def keep(tensor):
        kept[0] += tensor.nbytes
        return tensor

    for _ in range(steps):
        x = key.enter(rows).numpy()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            y = host.forward(x, train=True, mask=np.ones(x.shape[:2], np.int32))
        plain = key.leave(torch.from_numpy(y))
        outputs.append(plain)
        slope = (plain - target.reshape(plain.shape)) / plain.numel()
        back = host.backward(key.enter(slope).numpy())
        host.step(0.01, HYPER)
    named = {n: torch.from_numpy(a) for n, a in host.export().items()}
    assert {t.dtype for t in named.values()} == {torch.float32}
    assert back.dtype == np.float32
    home = {n: key.unkey(n, t) for n, t in named.items()}
    return kept[0], home, torch.stack(outputs)


def test_a_host_that_computes_twice_keeps_less_and_gives_the_same(architecture, stock):
    parts = split_model(stock.make(architecture))
    key = Key(SEED, parts.plan)
    whole, spared = (_stepped(parts, key, Economy(False, n)) for n in (False, True))
    assert spared[0] < 0.5 * whole[0]
    torch.testing.assert_close(spared[2], whole[2], atol=1e-5, rtol=1e-4)
    for name, tensor in whole[1].items():
        torch.testing.assert_close(spared[1][name], tensor, atol=1e-5, rtol=1e-4)


def test_a_host_in_bfloat16_keeps_float32_weights_and_follows_the_key(
    architecture, stock
):
    parts = split_model(stock.make(architecture))
    keys = Key(SEED, parts.plan), Key(bytes(32), parts.plan)
    wide = _stepped(parts, keys[0], Economy())[2]
    narrow = [_stepped(parts, key, Economy(bf16=True))[2] for key in keys]
    rounding = float((narrow[0] - wide).norm() / wide.norm())
    assert 1e-4 < rounding < 0.1  # bfloat16 was used, and is all that changed
    apart = float((narrow[0] - narrow[1]).norm() / wide.norm())
    assert apart <= 3 * rounding


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
