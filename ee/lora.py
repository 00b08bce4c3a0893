"""Low-rank adapters beside the projections of a trunk, keyed like everything else.

An adapter adds s B A to a weight.  A reads what the layer reads and B writes what it writes;
the r features between them are a site with a key of its own, so A' = G A R^-1 and
B' = L B G^-1.  A is drawn once and frozen by default, which makes an average of updates of
B an average of models; B starts at zero.

The stock module stays where and what it is: a forward hook adds the adapter's part, and the
two matrices are parameters of the module itself.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ee.arch.plan import Plan
from ee.errors import EncryptionError

_A, _B = ".lora_A", ".lora_B"


def adapter_state(plan: Plan, seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """First matrices of every adapter of `plan`, canonical: A Gaussian, B zero.

    `seed` is public and shared by all who train together.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes = plan.shapes()
    state: dict[str, Tensor] = {}
    for name in adapters(plan):
        rank, inputs = shapes[name + _A]
        draw = torch.randn(rank, inputs, generator=generator, dtype=torch.float64)
        state[name + _A] = (draw / inputs**0.5).to(dtype)
        state[name + _B] = torch.zeros(shapes[name + _B], dtype=dtype)
    return state


def adapters(plan: Plan) -> Sequence[str]:
    """Names of the adapted layers."""
    return [
        linear.name.removesuffix(_A)
        for linear in plan.linears
        if linear.name.endswith(_A)
    ]


def attach(
    trunk: nn.Module,
    plan: Plan,
    state: Mapping[str, Tensor],
    *,
    scale: float = 1.0,
    train_a: bool = False,
) -> None:
    """Put adapters into a stock trunk and freeze all of it but them.

    A layer that stores (inputs, outputs) gets the same A and B as one that does not.
    """
    trunk.requires_grad_(False)
    for name in adapters(plan):
        layer = trunk.get_submodule(name)
        if hasattr(layer, "lora_A"):
            raise EncryptionError(f"{name} has an adapter already")
        down, up = state[name + _A], state[name + _B]
        layer.register_parameter("lora_A", nn.Parameter(down.clone(), train_a))
        layer.register_parameter("lora_B", nn.Parameter(up.clone()))
        layer.register_forward_hook(_Add(scale))


class _Add:
    """y + s x A' B'."""

    def __init__(self, scale: float) -> None:
        self._scale = scale

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor], y: Tensor) -> Tensor:
        down, up = layer.get_parameter("lora_A"), layer.get_parameter("lora_B")
        return y + self._scale * (inputs[0] @ down.T @ up.T)


def trained(trunk: nn.Module, plan: Plan) -> dict[str, Tensor]:
    """The adapters of a trunk as they are now."""
    named = dict(trunk.named_parameters())
    names = [name + end for name in adapters(plan) for end in (_A, _B)]
    return {name: named[name].detach().clone() for name in names}


def merged(
    trunk: Mapping[str, Tensor],
    plan: Plan,
    state: Mapping[str, Tensor],
    *,
    scale: float = 1.0,
) -> dict[str, Tensor]:
    """The trunk's tensors with the adapters added into the weights."""
    out = dict(trunk)
    transposed = {linear.name for linear in plan.linears if linear.transposed}
    for name in adapters(plan):
        change = scale * (state[name + _B] @ state[name + _A])
        weight = f"{name}.weight"
        out[weight] = out[weight] + (change.T if name in transposed else change)
    return out
