"""A stock model under a recipe: its layout in one flat vector, and its answers.

The vector holds what the members of a run learn together, as the difference to a base all
of them have.  Names are sorted, so every member computes the same offsets.  Tensors of the
trunk are canonical (`ee.canonical`), in the basis where members' updates meet.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ee import lora
from ee.arch.known import architecture_of
from ee.arch.plan import STREAM, Plan
from ee.arch.sites import Attention
from ee.errors import EncryptionError, UnsupportedModelError
from ee.recipe import StockSpec
from ee.spec import Slot, Vector
from ee.split import Gain, Split, Stem, canonical_config, joined, split

AT_ONCE = 64
"""Texts answered at a time."""
_UNUSED = ("pooler.", "contact_head.")
_SPREAD = 0.5
"""A drawn matrix has entries of this over the root of its inputs."""


@dataclass(frozen=True)
class Rows:
    """Texts as numbers, all as wide as the longest."""

    ids: NDArray[np.int64]
    mask: NDArray[np.int32]
    """1 where there is a token; padding is behind."""

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, index: NDArray[np.int64] | slice) -> "Rows":
        """Some of them, no wider than they need to be."""
        mask = self.mask[index]
        width = max(1, int(mask.sum(1).max(initial=0)))
        return Rows(self.ids[index][:, :width], mask[:, :width])


def drawn_state(config: PreTrainedConfig, seed: int) -> dict[str, Tensor]:
    """A base nobody trained, the same on every machine: PCG64, tensor by tensor by name."""
    shapes = architecture_of(config).skeleton(config).named_parameters()
    generator = np.random.Generator(np.random.PCG64(seed))
    state: dict[str, Tensor] = {}
    for name, shape in sorted((name, tuple(p.shape)) for name, p in shapes):
        if len(shape) > 1:
            spread = _SPREAD / math.sqrt(shape[-1])
            drawn = spread * generator.standard_normal(shape)
        else:
            drawn = np.full(shape, 0.0 if name.endswith("bias") else 1.0)
        state[name] = torch.from_numpy(drawn.astype(np.float32))
    return state


class StockModel:
    """One base, one recipe."""

    def __init__(
        self, spec: StockSpec, config: PreTrainedConfig, base: Mapping[str, Tensor]
    ) -> None:
        """`base`: tensors by the stock names, in float32."""
        if config.model_type == "vit":
            raise UnsupportedModelError(
                "a run reads text or letters, and vit takes pixels"
            )
        self.spec = spec
        self.parts: Split = split(
            config, base, stem_layers=spec.stem_layers, dtype=torch.float32
        )
        self.plan: Plan = self.parts.plan
        self.layers: tuple[str, ...] = ()
        if spec.learns == "adapters":
            self.layers = adapted(self.plan, spec.adapt)
            self.plan = self.plan.with_adapters(self.layers, spec.rank)
        self._adapters = lora.adapter_state(self.plan, spec.seed, torch.float32)
        self._base = dict(sorted(self._learning().items()))
        self.slots: tuple[Slot, ...] = tuple(_slots(self._base))

    @property
    def size(self) -> int:
        """Number of parameters that learn."""
        return self.slots[-1].offset + self.slots[-1].size

    def _learning(self) -> dict[str, Tensor]:
        """First values of all that learns, under the part they belong to."""
        classes, width = len(self.spec.classes), self.plan.width
        first = {"head.weight": torch.zeros(classes, width)}
        first["head.bias"] = torch.zeros(classes)
        if self.spec.learns == "adapters":
            halves = self._adapters.items()
            return first | {f"trunk.{n}": t for n, t in halves if n.endswith("lora_B")}
        first |= {f"trunk.{name}": self.parts.trunk[name] for name in self.plan.keyed()}
        for name, parameter in self.parts.build_stem().base.named_parameters():
            if name in self.parts.ends and not name.startswith(_UNUSED):
                first[f"stem.{name}"] = parameter.detach()
        for name, parameter in self.parts.build_gain().named_parameters():
            first[f"gain.{name}"] = parameter.detach()
        return first

    def tensors(self, state: Vector) -> dict[str, Tensor]:
        """What learns, as it is in `state`; new memory."""
        if state.shape != (self.size,):
            raise EncryptionError(
                f"state has shape {state.shape}, needs ({self.size},)"
            )
        flat = torch.from_numpy(np.ascontiguousarray(state))
        return {
            slot.name: self._base[slot.name]
            + flat[slot.offset : slot.offset + slot.size].reshape(slot.shape)
            for slot in self.slots
        }

    def difference(
        self, left: Mapping[str, Tensor], right: Mapping[str, Tensor]
    ) -> Vector:
        """`left` - `right` as a vector; every tensor that learns must be there, in its shape."""
        flat = np.empty(self.size, np.float32)
        for slot in self.slots:
            one = left.get(slot.name)
            if one is None or tuple(one.shape) != slot.shape:
                seen = "missing" if one is None else f"of shape {tuple(one.shape)}"
                raise EncryptionError(f"{slot.name} is {seen}, needs {slot.shape}")
            change = (one.detach() - right[slot.name]).reshape(-1)
            flat[slot.offset : slot.offset + slot.size] = change.numpy()
        return flat

    def trunk_state(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The canonical trunk with its adapters, ready to be keyed."""
        own = of_part(tensors, "trunk")
        return {**self.parts.trunk, **self._adapters, **own}

    def stem(self, tensors: Mapping[str, Tensor]) -> Stem:
        """The key holder's stem; only what is in the vector learns."""
        stem, own = self.parts.build_stem(), of_part(tensors, "stem")
        stem.base.load_state_dict(own, strict=False)
        for name, parameter in stem.base.named_parameters():
            parameter.requires_grad_(name in own)
        return stem

    def head(self, tensors: Mapping[str, Tensor]) -> "Head":
        """Everything behind the trunk."""
        return Head(
            self.parts.build_gain(),
            of_part(tensors, "gain"),
            of_part(tensors, "head"),
            self.spec.pool,
        )

    def scores(self, state: Vector, rows: Rows) -> NDArray[np.float32]:
        """(texts, classes) logits in the clear, at a key holder that has the whole state."""
        score = self.scorer(state)
        parts = range(0, len(rows), AT_ONCE)
        return np.concatenate([score(rows.part(slice(a, a + AT_ONCE))) for a in parts])

    def scorer(self, state: Vector) -> Callable[[Rows], NDArray[np.float32]]:
        """The same of a few texts at a time, for whoever asks often: put together once."""
        tensors = self.tensors(state)
        stem, head, trunk = self.stem(tensors), self.head(tensors), self._trunk(tensors)

        def score(rows: Rows) -> NDArray[np.float32]:
            ids, mask = torch.from_numpy(rows.ids), torch.from_numpy(rows.mask).long()
            with torch.no_grad():
                x = stem(input_ids=ids, attention_mask=mask)
                y = self.parts.cut.architecture.run(trunk, x, mask)
                found: NDArray[np.float32] = head(y, mask).numpy()
            return found

        return score

    def _trunk(self, tensors: Mapping[str, Tensor]) -> nn.Module:
        return self.parts.build_trunk(self.merged_trunk(tensors))

    def merged_trunk(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The canonical trunk with what was learnt in its own matrices."""
        whole = self.trunk_state(tensors)
        state = {name: whole[name] for name in self.parts.trunk}
        if not self.layers:
            return state
        return lora.merged(state, self.plan, whole, scale=self.spec.scale)

    def whole(self, state: Vector) -> tuple[PreTrainedConfig, dict[str, Tensor]]:
        """The base as it is in `state`, without the head: a stock model, its norms folded."""
        tensors, cut = self.tensors(state), self.parts.cut
        ends = {**self.parts.ends, **of_part(tensors, "stem")}
        for name, tensor in of_part(tensors, "gain").items():
            ends[f"{cut.architecture.final_norm}.{name}"] = tensor
        made = joined(cut, self.merged_trunk(tensors), ends)
        known = cut.architecture.skeleton(cut.config).state_dict()
        return canonical_config(cut), {n: t for n, t in made.items() if n in known}


class Head(nn.Module):
    """The last norm's gain, one row for a text, and a linear map to the classes."""

    def __init__(
        self,
        gain: nn.Module,
        own_gain: Mapping[str, Tensor],
        linear: Mapping[str, Tensor],
        pool: str,
    ) -> None:
        super().__init__()
        self.gain = gain.requires_grad_(bool(own_gain))
        if own_gain:
            self.gain.load_state_dict(dict(own_gain))
        self.linear = nn.Linear(linear["weight"].shape[1], linear["weight"].shape[0])
        self.linear.load_state_dict(dict(linear))
        self._pool = pool

    def forward(self, y: Tensor, mask: Tensor) -> Tensor:
        """(batch, tokens, width) rows behind the trunk to (batch, classes)."""
        rows = self.gain(y)
        if self._pool == "last":
            last = mask.sum(1) - 1
            return self.linear(rows[torch.arange(len(rows)), last])
        weight = mask.unsqueeze(-1).to(rows.dtype)
        return self.linear((rows * weight).sum(1) / weight.sum(1))

    def learnt(self) -> dict[str, Tensor]:
        """As the vector names it."""
        named = {f"head.{n}": p for n, p in self.linear.named_parameters()}
        if isinstance(self.gain, Gain) and self.gain.weight.requires_grad:
            named |= {f"gain.{n}": p for n, p in self.gain.named_parameters()}
        return {name: parameter.detach() for name, parameter in named.items()}


def adapted(plan: Plan, endings: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the layers to adapt: by their endings, or all that attention reads with."""
    if not endings:
        return tuple(
            linear.name
            for linear in plan.linears
            if linear.reads == STREAM
            and all(isinstance(plan.sites[s.site], Attention) for s in linear.writes)
        )
    for ending in endings:
        if not any(linear.name.endswith(ending) for linear in plan.linears):
            known = sorted({each.name.rpartition(".")[2] for each in plan.linears})
            raise EncryptionError(
                f"{plan.architecture} has no layer that ends in {ending!r};"
                f" there are {', '.join(known)}"
            )
    return tuple(each.name for each in plan.linears if each.name.endswith(endings))


def of_part(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of one part, without its prefix."""
    prefix = f"{part}."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _slots(first: Mapping[str, Tensor]) -> list[Slot]:
    slots: list[Slot] = []
    offset = 0
    for name, tensor in first.items():
        slots.append(Slot(name, tuple(tensor.shape), offset))
        offset += tensor.numel()
    return slots
