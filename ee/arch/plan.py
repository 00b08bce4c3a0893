"""A layer plan: every tensor of a trunk, and which site each of its axes belongs to.

The plan is the law of a keyed model.  From it follow what is folded, how each tensor is
keyed and unkeyed, and which coordinates an optimiser may treat apart.  A tensor that is not
in the plan has no key and is refused; nothing goes through because nobody thought of it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ee.arch.sites import Rank, Site
from ee.errors import EncryptionError, UnsupportedLayerError


class Side(NamedTuple):
    """One feature space: a part of a site."""

    site: str
    part: str


STREAM = Side("stream", "x")


@dataclass(frozen=True)
class Linear:
    """A projection, named as a module of the stock trunk."""

    name: str
    reads: Side
    writes: tuple[Side, ...]
    """Several where one matrix holds several projections."""
    bias: bool
    folds: str | None = None
    """The norm whose gain and shift are folded into this layer."""
    transposed: bool = False
    """Stored (inputs, outputs), as Conv1D does; else (outputs, inputs)."""
    matrix_only: bool = False
    """A bare parameter: the tensor has the layer's name, without `.weight`."""

    @property
    def weight(self) -> str:
        return self.name if self.matrix_only else f"{self.name}.weight"


@dataclass(frozen=True)
class NormLayer:
    """A norm of the trunk."""

    name: str
    shift: bool
    kept: bool = False
    """The gain stays in place and is permuted; else it is folded away and is one."""


@dataclass(frozen=True)
class Blank:
    """A tensor the stock class has and the trunk does not use: all zeros."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Public:
    """A vector that follows from the configuration and is no secret of anybody's."""

    name: str
    values: tuple[float, ...]
    reason: str

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.values),)

    def is_(self, tensor: Tensor) -> bool:
        """Whether a stored tensor is this, up to the rounding of a half-precision file."""
        wanted = torch.tensor(self.values, dtype=torch.float64)
        if tuple(tensor.shape) != self.shape:
            return False
        return torch.allclose(
            tensor.detach().cpu().double(), wanted, rtol=1e-2, atol=1e-6
        )


class Axis(NamedTuple):
    """How one axis of a tensor is keyed."""

    sides: tuple[Side, ...]
    dual: bool
    """True on the input side of a projection."""


@dataclass(frozen=True)
class Plan:
    """Everything a key must know of a trunk."""

    architecture: str
    sites: Mapping[str, Site]
    linears: tuple[Linear, ...]
    norms: tuple[NormLayer, ...]
    blanks: tuple[Blank, ...] = ()
    publics: tuple[Public, ...] = ()
    _axes: Mapping[str, tuple[Axis, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_axes", dict(self._tabulate()))

    def _tabulate(self) -> Iterable[tuple[str, tuple[Axis, ...]]]:
        for linear in self.linears:
            out, into = Axis(linear.writes, False), Axis((linear.reads,), True)
            yield linear.weight, (into, out) if linear.transposed else (out, into)
            if linear.bias:
                yield f"{linear.name}.bias", (out,)
        for norm in self.norms:
            if norm.kept:
                # A permutation acts on a gain as it acts on what the gain multiplies.
                yield f"{norm.name}.weight", (Axis((STREAM,), False),)
                yield f"{norm.name}.bias", (Axis((STREAM,), False),)

    @cached_property
    def width(self) -> int:
        """Features of the residual stream."""
        return self.size(STREAM)

    def size(self, side: Side) -> int:
        return self.sites[side.site].sizes()[side.part]

    def axes(self, name: str) -> tuple[Axis, ...]:
        """How each axis of a keyed tensor is keyed; refuses a name it does not know."""
        found = self._axes.get(name)
        if found is None:
            raise UnsupportedLayerError(
                f"no key is known for {name} of {self.architecture};"
                " it is refused, not passed"
            )
        return found

    def keyed(self) -> tuple[str, ...]:
        """Names of the tensors a key acts on."""
        return tuple(self._axes)

    @cached_property
    def constants(self) -> Mapping[str, float]:
        """Tensors of a canonical trunk that are the same number all over."""
        fixed = {blank.name: 0.0 for blank in self.blanks}
        for norm in self.norms:
            if not norm.kept:
                fixed[f"{norm.name}.weight"] = 1.0
                if norm.shift:
                    fixed[f"{norm.name}.bias"] = 0.0
        return fixed

    def carries(self, name: str, tensor: Tensor) -> bool:
        """True for a tensor that needs no key because it holds nothing.

        A gain that was not folded, or a table that should be blank and is not, is refused:
        it would leave the key holder in the clear.
        """
        for public in self.publics:
            if name == public.name and public.is_(tensor):
                return True
        value = self.constants.get(name)
        if value is None:
            return False
        if not bool((tensor == value).all()):
            raise UnsupportedLayerError(
                f"{name} of {self.architecture} is not {value:g} all over; a trunk is made"
                " canonical before it is keyed"
            )
        return True

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the trunk's checkpoint, with its shape."""
        shapes: dict[str, tuple[int, ...]] = {
            name: tuple(sum(map(self.size, axis.sides)) for axis in axes)
            for name, axes in self._axes.items()
        }
        for norm in self.norms:
            shapes[f"{norm.name}.weight"] = (self.width,)
            if norm.shift:
                shapes[f"{norm.name}.bias"] = (self.width,)
        shapes |= {blank.name: blank.shape for blank in self.blanks}
        shapes |= {public.name: public.shape for public in self.publics}
        return shapes

    def digest(self) -> bytes:
        """32 bytes that name the plan: equal for equal layers of equal sizes."""
        text = json.dumps(
            {
                "architecture": self.architecture,
                "sites": {name: site.described() for name, site in self.sites.items()},
                "linears": [asdict(linear) for linear in self.linears],
                "norms": [asdict(norm) for norm in self.norms],
            },
            sort_keys=True,
        )
        return hashlib.sha256(b"rexis-ee-plan-1" + text.encode()).digest()

    def with_adapters(self, layers: Sequence[str], rank: int) -> "Plan":
        """The plan of the same trunk with a low-rank adapter beside each named layer.

        An adapter's `lora_A` reads what the layer reads, its `lora_B` writes what the
        layer writes, and the space between them is keyed by a site of its own.
        """
        known = {linear.name: linear for linear in self.linears}
        sites, linears = dict(self.sites), list(self.linears)
        for name in layers:
            base = known.get(name)
            if base is None:
                raise UnsupportedLayerError(
                    f"{self.architecture} has no layer {name} to adapt"
                )
            inputs, outputs = self.size(base.reads), sum(map(self.size, base.writes))
            if not 1 <= rank <= min(inputs, outputs):
                raise EncryptionError(
                    f"rank {rank} for {name} of {outputs} by {inputs}, need 1 to"
                    f" {min(inputs, outputs)}"
                )
            inner = Side(f"{name}.lora", "r")
            sites[inner.site] = Rank(rank)
            down, up = f"{name}.lora_A", f"{name}.lora_B"
            linears += [
                Linear(down, base.reads, (inner,), bias=False, matrix_only=True),
                Linear(up, inner, base.writes, bias=False, matrix_only=True),
            ]
        return replace(self, sites=sites, linears=tuple(linears))
