"""A keyed trunk costs what a plain one costs: each kernel is called on tensors laid out alike.

Clocks on a shared machine tell one in a hundred at best (`rexis bench ee`); this is exact.
What is left to the clock is speed that depends on values, of which processors know one:
numbers too small for an exponent.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ee.keys import Key, state_keyed
from ee.optim import Equivariant
from ee.split import split_model

SEED = bytes(range(32))
SMALLEST = torch.finfo(torch.float32).tiny


class Calls(TorchDispatchMode):
    """Every call to a kernel: its name, and how each tensor it is given is laid out."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        flat = torch.utils._pytree.tree_leaves((args, kwargs))
        laid = [
            (tuple(t.shape), t.stride(), t.dtype)
            for t in flat
            if isinstance(t, torch.Tensor)
        ]
        self.seen.append((str(func), laid))
        return func(*args, **(kwargs or {}))


def _calls(parts, trunk):
    """Of one training step; and how many of its gradients are too small for an exponent."""
    generator = torch.Generator().manual_seed(1)
    shape = (2, 6, parts.plan.width)
    x, y = (torch.randn(shape, generator=generator) for _ in range(2))
    optimiser = Equivariant(trunk.named_parameters(), parts.plan, lr=0.01)
    with Calls() as calls:
        (parts.cut.architecture.run(trunk, x, None) - y).square().mean().backward()
        grads = [p.grad.abs() for p in trunk.parameters() if p.grad is not None]
        optimiser.step()
    return calls.seen, sum(int(((g > 0) & (g < SMALLEST)).sum()) for g in grads)


def test_a_keyed_step_makes_the_calls_of_a_plain_one(architecture, stock):
    parts = split_model(stock.make(architecture), stem_layers=1)
    key = Key(SEED, parts.plan)
    plain, few = _calls(parts, parts.build_trunk())
    keyed, small = _calls(parts, parts.build_trunk(state_keyed(parts.trunk, key)))
    assert len(plain) > 100
    assert keyed == plain
    assert small == few == 0


def _turned_by_hook(trunk):
    trunk.layers[0].register_forward_pre_hook(
        lambda _, args: (args[0] @ torch.eye(32),)
    )


def _laid_out_otherwise(trunk):
    weight = trunk.layers[0].mlp.up_proj.weight
    weight.data = weight.data.T.contiguous().T


@pytest.mark.parametrize("spoil", [_turned_by_hook, _laid_out_otherwise])
def test_a_trunk_that_costs_more_is_told_apart(spoil, stock):
    parts = split_model(stock.make("llama"), stem_layers=1)
    plain, _ = _calls(parts, parts.build_trunk())
    other = parts.build_trunk()
    spoil(other)
    assert _calls(parts, other)[0] != plain
