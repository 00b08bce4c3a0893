"""A stock Hugging Face model whose large matrices are somewhere else.

`share_model` takes a BERT or Llama apart: the weights of its linear layers go into a
dictionary for the hosts, and in their place stand modules that ask the key holder's session
for the product.  All else stays the stock class's own code: embeddings, norms, softmax,
activations, pooling run here on plain values, and autograd runs through the products, whose
gradients are padded products too.

Layers that read the same input are one product: q, k, v in one, gate and up in one.
Adapters (LoRA) are small and stay with the key holder.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ee.errors import EncryptionError, UnsupportedModelError
from ee.smode.arithmetic import Arithmetic, Array
from ee.smode.holder import KeyHolder, LayerSize

GROUPS: Mapping[str, tuple[str, tuple[tuple[str, ...], ...]]] = {
    "bert": (
        "encoder.layer",
        (
            ("attention.self.query", "attention.self.key", "attention.self.value"),
            ("attention.output.dense",),
            ("intermediate.dense",),
            ("output.dense",),
        ),
    ),
    "llama": (
        "layers",
        (
            ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            ("self_attn.o_proj",),
            ("mlp.gate_proj", "mlp.up_proj"),
            ("mlp.down_proj",),
        ),
    ),
}
"""By model type: where the blocks are, and which linear layers read one input."""


class _Product(torch.autograd.Function):
    """x W' through the hosts; the gradient of x goes the same way with W."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: "_Group") -> torch.Tensor:
        ctx.group, ctx.shape = group, x.shape
        return group.ask(x, backward=False)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None
        return ctx.group.ask(gradient, backward=True).reshape(ctx.shape), None


class _Group:
    """Linear layers with one input and one product."""

    def __init__(self, name: str, widths: list[int]) -> None:
        self._name = name
        self._widths = widths
        self._holder: KeyHolder | None = None
        self._input: torch.Tensor | None = None
        self._outputs: list[torch.Tensor] = []

    def attach(self, holder: KeyHolder) -> None:
        # Products of a pass that broke off are of no use to the next.
        self._input, self._outputs = None, []
        self._holder = holder

    def output(self, x: torch.Tensor, index: int) -> torch.Tensor:
        # The blocks hand one tensor object to q, k and v; the first asks for all three.
        if self._input is not x:
            whole = _Product.apply(x, self)
            self._input, self._outputs = x, list(whole.split(self._widths, dim=-1))
        result = self._outputs[index]
        if index == len(self._widths) - 1:
            self._input, self._outputs = None, []
        return result

    def ask(self, x: torch.Tensor, *, backward: bool) -> torch.Tensor:
        if self._holder is None:
            raise EncryptionError(f"{self._name}: no session is attached")
        rows = x.detach().reshape(-1, x.shape[-1]).numpy()
        y = self._holder.product(self._name, rows, backward=backward)
        return torch.from_numpy(y).to(x.dtype).reshape(*x.shape[:-1], -1)


class SharedLinear(nn.Module):
    """Stands where an `nn.Linear` stood; bias and adapter are the key holder's own."""

    def __init__(self, group: _Group, index: int, plain: nn.Linear) -> None:
        super().__init__()
        self._group, self._index = group, index
        self.bias = None if plain.bias is None else nn.Parameter(plain.bias.detach())
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.down: nn.Parameter | None = None
        self.up: nn.Parameter | None = None
        self._scale = 0.0

    def adapt(
        self, rank: int, scale: float, generator: torch.Generator
    ) -> nn.Parameter:
        """Add an adapter, A drawn and frozen, B zero and returned to be trained."""
        kind = torch.get_default_dtype() if self.bias is None else self.bias.dtype
        draw = torch.randn(rank, self.in_features, generator=generator, dtype=kind)
        self.down = nn.Parameter(draw / self.in_features**0.5, requires_grad=False)
        self.up = nn.Parameter(torch.zeros(self.out_features, rank, dtype=kind))
        self._scale = scale
        return self.up

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self._group.output(x, self._index)
        if self.bias is not None:
            y = y + self.bias
        if self.down is not None and self.up is not None:
            y = y + self._scale * (x @ self.down.T) @ self.up.T
        return y


@dataclass(frozen=True)
class SharedModel:
    """The key holder's half, and what the hosts are given."""

    model: nn.Module
    weights: dict[str, Array]
    """Public; (outputs, inputs) by group name."""
    sizes: dict[str, LayerSize]
    _groups: tuple[_Group, ...]
    _linears: tuple[SharedLinear, ...]

    def attach(self, holder: KeyHolder) -> None:
        """Run from now on in this session."""
        for group in self._groups:
            group.attach(holder)

    def adapt(self, *, rank: int, scale: float, seed: int) -> list[nn.Parameter]:
        """LoRA on every shared layer; the trainable halves, all else frozen."""
        self.model.requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        return [linear.adapt(rank, scale, generator) for linear in self._linears]


def share_model(model: Any, arithmetic: Arithmetic) -> SharedModel:
    """Take `model` apart in place; a linear layer in a block that is in no group is refused.

    So is a model narrower than float32, as checkpoints often are: numpy has no bfloat16.
    """
    kind = str(model.config.model_type)
    if kind not in GROUPS:
        raise UnsupportedModelError(
            f"no S-mode plan for {kind!r}, there is one for {', '.join(sorted(GROUPS))}"
        )
    if model.dtype not in {torch.float32, torch.float64}:
        raise EncryptionError(
            f"S-mode on a model in {model.dtype}, needs float32 or float64"
        )
    place, plan = GROUPS[kind]
    weights: dict[str, Array] = {}
    groups: list[_Group] = []
    linears: list[SharedLinear] = []
    for index, block in enumerate(model.get_submodule(place)):
        _refuse_unknown(block, plan, f"{place}.{index}")
        for names in plan:
            plain = [block.get_submodule(name) for name in names]
            group = _Group(f"{index}.{names[0]}", [p.out_features for p in plain])
            groups.append(group)
            weights[f"{index}.{names[0]}"] = np.concatenate(
                [p.weight.detach().numpy() for p in plain]
            )
            for slot, (name, layer) in enumerate(zip(names, plain, strict=True)):
                shared = SharedLinear(group, slot, layer)
                parent, _, leaf = name.rpartition(".")
                setattr(block.get_submodule(parent), leaf, shared)
                linears.append(shared)
    sizes = {
        name: LayerSize(w.shape[1], w.shape[0], arithmetic.weight_scale(w))
        for name, w in weights.items()
    }
    return SharedModel(model, weights, sizes, tuple(groups), tuple(linears))


def _refuse_unknown(
    block: nn.Module, plan: tuple[tuple[str, ...], ...], place: str
) -> None:
    known = {name for names in plan for name in names}
    for name, module in block.named_modules():
        if isinstance(module, nn.Linear) and name not in known:
            raise UnsupportedModelError(f"{place}.{name} is in no group; refused")
