"""From a stock checkpoint to stem, canonical trunk and head, tensor by tensor.

A trunk is canonical when the gains and shifts of its norms are folded into the layers that
read them:  W <- W diag(gain),  b <- b + W shift,  gain <- 1,  shift <- 0.  It computes what
it computed before, and only then does the stream have its full group of keys.  The folded
model is the plaintext reference from here on: what training in the clear would train.

The gain of the last norm stays with the head, whose owner is the key holder.  So nothing is
tied to anything behind a key: an output table tied to an input table lies at the ends both
times, and the two may stay one.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from ee.arch.base import Architecture
from ee.arch.known import architecture_of
from ee.arch.plan import Linear, Plan
from ee.errors import EncryptionError, UnsupportedLayerError

_SLICE = 1 << 22
"""Values of a matrix that are widened to float64 at a time for a folded shift: 32 MiB."""


@dataclass(frozen=True)
class Cut:
    """A stock configuration, and where its stem ends and its trunk begins."""

    config: PreTrainedConfig
    stem_layers: int = 0

    @cached_property
    def architecture(self) -> Architecture:
        return architecture_of(self.config)

    @cached_property
    def trunk_config(self) -> PreTrainedConfig:
        """Stock, and all a worker is told."""
        return self.architecture.trunk_config(self.config, self.stem_layers)

    @cached_property
    def plan(self) -> Plan:
        return self.architecture.plan(self.trunk_config)

    @cached_property
    def dropped(self) -> Mapping[str, float]:
        """Dropout rates the configuration asks for and the trunk is trained without."""
        return self.architecture.dropped(self.config)

    @cached_property
    def sources(self) -> Mapping[str, str]:
        """Keyed tensor of the trunk to the base model's tensor it is made from."""
        source = self.architecture.source
        return {name: source(name, self.stem_layers) for name in self.plan.keyed()}

    @cached_property
    def _vectors(self) -> frozenset[str]:
        names = [f"{linear.name}.bias" for linear in self.plan.linears]
        for norm in self.plan.norms:
            names += [f"{norm.name}.weight", f"{norm.name}.bias"]
        source = self.architecture.source
        return frozenset(source(name, self.stem_layers) for name in names)

    def refuse_unknown(self, name: str) -> None:
        """Raise if a base model's tensor belongs to the trunk and the plan has no place for it."""
        if not self.is_trunk(name) or self.is_buffer(name):
            return
        if name not in self._vectors and name not in self.sources.values():
            raise UnsupportedLayerError(
                f"no key is known for {name} of {self.config.model_type};"
                " it is refused, not passed"
            )

    def is_trunk(self, name: str) -> bool:
        """Whether a tensor of the base model belongs behind the stem."""
        number = self.architecture.block(name)
        return number is not None and number >= self.stem_layers

    def is_buffer(self, name: str) -> bool:
        """A constant that old checkpoints stored and the stock class makes itself."""
        return name.endswith(self.architecture.buffers)


def trunk_tensors(
    cut: Cut,
    vectors: Mapping[str, Tensor],
    matrices: Iterable[tuple[str, Tensor]],
    dtype: torch.dtype,
) -> Iterator[tuple[str, Tensor]]:
    """The canonical trunk of a checkpoint, one tensor at a time, in no set order.

    `vectors` are all tensors with one axis, by the base model's names: gains, shifts and
    biases are small and are needed out of turn.  `matrices` are streamed, and may be
    changed in place.  A tensor of a block that has no place in the plan is refused by name.
    """
    known = {cut.sources[linear.weight]: linear for linear in cut.plan.linears}
    expected, shapes = set(known), cut.plan.shapes()
    for name in vectors:
        cut.refuse_unknown(name)
    for name, tensor in matrices:
        linear = known.get(name)
        if linear is None:
            cut.refuse_unknown(name)
            continue
        expected.discard(name)
        if tuple(tensor.shape) != shapes[linear.weight]:
            raise EncryptionError(
                f"{name} is {tuple(tensor.shape)}, its configuration says"
                f" {shapes[linear.weight]}"
            )
        yield from _folded(cut, linear, tensor.to(dtype), vectors)
    if expected:
        raise EncryptionError(
            f"the checkpoint lacks {len(expected)} matrices, first {min(expected)}"
        )
    yield from _small(cut, vectors, dtype)


def _folded(
    cut: Cut, linear: Linear, weight: Tensor, vectors: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """The weight with the gain before it, and the bias with the shift before it."""
    stored = vectors.get(_beside(cut, linear.weight, "bias"))
    if linear.bias:
        outputs = weight.shape[1 if linear.transposed else 0]
        bias = weight.new_zeros(outputs) if stored is None else stored.to(weight.dtype)
    elif stored is None:
        bias = None
    else:
        raise UnsupportedLayerError(
            f"{linear.name} of {cut.config.model_type} has a bias that its configuration"
            " does not tell of"
        )
    if linear.folds is not None:
        gain, shift = _norm(cut, linear.folds, vectors)
        if shift is not None and bias is not None:
            bias = bias + _product(weight, shift, linear).to(bias.dtype)
        column = gain.to(weight.dtype)
        weight = weight.mul_(column[:, None] if linear.transposed else column)
    yield linear.weight, weight
    if bias is not None:
        yield f"{linear.name}.bias", bias


def _product(weight: Tensor, shift: Tensor, linear: Linear) -> Tensor:
    """W shift in float64, without a float64 copy of W."""
    outputs_first = weight.T if linear.transposed else weight
    rows = max(1, _SLICE // outputs_first.shape[1])
    wide = shift.double()
    return torch.cat([piece.double() @ wide for piece in outputs_first.split(rows)])


def _small(
    cut: Cut, vectors: Mapping[str, Tensor], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """What is not a projection: kept gains, folded gains, blanks, public constants."""
    shapes = cut.plan.shapes()
    for norm in cut.plan.norms:
        if norm.kept:
            for end in ("weight", "bias"):
                name = f"{norm.name}.{end}"
                yield name, _vector(cut.sources[name], vectors).to(dtype)
    for name, value in cut.plan.constants.items():
        yield name, torch.full(shapes[name], value, dtype=dtype)
    for public in cut.plan.publics:
        # A file may hold it in the precision it was trained with, which then counts.
        stored = vectors.get(public.name)
        exact = torch.tensor(public.values, dtype=torch.float32)
        yield public.name, exact if stored is None else stored.float()


def _norm(
    cut: Cut, name: str, vectors: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor | None]:
    source = cut.architecture.source(f"{name}.weight", cut.stem_layers)
    gain = _vector(source, vectors)
    return gain, vectors.get(source.removesuffix("weight") + "bias")


def _vector(name: str, vectors: Mapping[str, Tensor]) -> Tensor:
    found = vectors.get(name)
    if found is None:
        raise EncryptionError(f"the checkpoint lacks {name}")
    return found


def _beside(cut: Cut, weight: str, end: str) -> str:
    source = cut.architecture.source(weight, cut.stem_layers)
    return source.removesuffix("weight") + end
