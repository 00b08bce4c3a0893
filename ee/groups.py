"""Invertible maps on one feature axis: the group elements a key is made of (docs/ee.md §1).

A `Transform` is a value.  It acts on an axis of a tensor, has an inverse, and a dual: the
map that weights feel on their input side.  For y = W x, keyed inputs R x and keyed outputs
L y, the keyed weight is L W R^-1: `L` acts on the output axis and `R.dual()` on the input
axis.  Orthogonal transforms are their own duals, which is why optimisers can follow them.

Numbers are float64 here and are cast to the dtype and device of what they act on; a tensor
of less than 32 bits is widened for the product and cast back.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ee.errors import KeyMismatchError

_NARROW = frozenset({torch.float16, torch.bfloat16})
_BUTTERFLY = 64
"""Hadamard blocks up to this size are one small matrix product: at 64 the product of that
size runs at full speed, and a block of 4096 is two of them."""


class Transform(ABC):
    """An invertible linear map on `size` features."""

    @property
    @abstractmethod
    def size(self) -> int: ...

    @property
    @abstractmethod
    def orthogonal(self) -> bool: ...

    @abstractmethod
    def inverse(self) -> "Transform": ...

    @abstractmethod
    def dual(self) -> "Transform":
        """The inverse of the transpose; the map itself if it is orthogonal."""

    @abstractmethod
    def mix(self, x: Tensor) -> Tensor:
        """(size, columns) to (size, columns): features first, so that moving one moves a
        contiguous row.
        """

    def act(self, x: Tensor, axis: int = -1) -> Tensor:
        """`x` with the features along `axis` transformed; a new tensor of its dtype."""
        if x.shape[axis] != self.size:
            raise KeyMismatchError(
                f"axis {axis} of a tensor of shape {tuple(x.shape)} has {x.shape[axis]}"
                f" features, the key is for {self.size}"
            )
        wide = x.float() if x.dtype in _NARROW else x
        first = wide.movedim(axis, 0)
        mixed = self.mix(first.reshape(self.size, -1))
        return mixed.reshape(first.shape).movedim(0, axis).to(x.dtype)

    def matrix(self) -> Tensor:
        """(size, size) float64, acting on column vectors."""
        return self.act(torch.eye(self.size, dtype=torch.float64), 0)


@dataclass(frozen=True, eq=False)
class _Involution(Transform):
    """A symmetric map that undoes itself: orthogonal, its own inverse and its own dual."""

    count: int

    @property
    def size(self) -> int:
        return self.count

    @property
    def orthogonal(self) -> bool:
        return True

    def inverse(self) -> Transform:
        return self

    def dual(self) -> Transform:
        return self


class Identity(_Involution):
    """Leaves features where they are."""

    def mix(self, x: Tensor) -> Tensor:
        return x


@dataclass(frozen=True, eq=False)
class Monomial(Transform):
    """A permutation, then a scale: y[i] = scale[i] * x[index[i]]."""

    index: Tensor
    scale: Tensor | None = None
    """None: all ones."""

    @property
    def size(self) -> int:
        return len(self.index)

    @cached_property
    def orthogonal(self) -> bool:
        return self.scale is None or bool((self.scale.abs() == 1).all())

    def inverse(self) -> Transform:
        back = torch.argsort(self.index)
        return Monomial(back, None if self.scale is None else 1 / self.scale[back])

    def dual(self) -> Transform:
        return Monomial(self.index, None if self.scale is None else 1 / self.scale)

    def mix(self, x: Tensor) -> Tensor:
        moved = x.index_select(0, self.index.to(x.device))
        return moved if self.scale is None else moved * self.scale.to(x)[:, None]


class _Cast:
    """Copies of a matrix in the dtypes and on the devices it was needed."""

    def __init__(self, wide: Tensor) -> None:
        self._wide = wide
        self._copies: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def like(self, x: Tensor) -> Tensor:
        kind = (x.dtype, x.device)
        if kind not in self._copies:
            self._copies[kind] = self._wide.to(x)
        return self._copies[kind]


@dataclass(frozen=True, eq=False)
class Dense(Transform):
    """One full matrix; `back` is its inverse."""

    forth: Tensor
    back: Tensor
    rigid: bool = False
    """The caller knows it to be orthogonal."""
    _cast: _Cast = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_cast", _Cast(self.forth))

    @classmethod
    def from_orthogonal(cls, matrix: Tensor) -> "Dense":
        return cls(matrix, matrix.T.contiguous(), rigid=True)

    @property
    def size(self) -> int:
        return len(self.forth)

    @property
    def orthogonal(self) -> bool:
        return self.rigid

    def inverse(self) -> Transform:
        return Dense(self.back, self.forth, self.rigid)

    def dual(self) -> Transform:
        if self.rigid:
            return self
        return Dense(self.back.T.contiguous(), self.forth.T.contiguous())

    def mix(self, x: Tensor) -> Tensor:
        return self._cast.like(x) @ x


@dataclass(frozen=True, eq=False)
class Blocks(Transform):
    """Equal blocks, moved and mixed: block i of y is forth[i] @ (block order[i] of x)."""

    forth: Tensor
    """(blocks, width, width)."""
    back: Tensor
    """The inverse of each."""
    order: Tensor
    """(blocks,) a permutation."""
    rigid: bool = False
    """The caller knows it to be orthogonal."""
    _cast: _Cast = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_cast", _Cast(self.forth))

    @property
    def size(self) -> int:
        return len(self.order) * self.forth.shape[-1]

    @property
    def orthogonal(self) -> bool:
        return self.rigid

    def inverse(self) -> Transform:
        to = torch.argsort(self.order)
        return Blocks(self.back[to], self.forth[to], to, self.rigid)

    def dual(self) -> Transform:
        if self.rigid:
            return self
        return Blocks(self.back.mT.contiguous(), self.forth.mT.contiguous(), self.order)

    def mix(self, x: Tensor) -> Tensor:
        split = x.unflatten(0, (len(self.order), -1))  # (blocks, width, columns)
        moved = split.index_select(0, self.order.to(x.device))
        return torch.bmm(self._cast.like(x), moved).flatten(0, 1)


class Hadamard(_Involution):
    """Orthonormal Walsh-Hadamard blocks of the sizes in the binary form of `count`.

    A symmetric involution that costs count * log(count) instead of count^2; between signs
    and permutations it is the fast key (docs/ee.md §2).
    """

    def mix(self, x: Tensor) -> Tensor:
        widths = [1 << b for b in range(self.count.bit_length()) if self.count >> b & 1]
        return torch.cat([_walsh(part) for part in x.split(widths)])


class Reflection(_Involution):
    """Swaps the first axis and the mean direction; a symmetric involution."""

    def mix(self, x: Tensor) -> Tensor:
        if self.count == 1:
            return x
        normal = x.new_full((self.count,), -(self.count**-0.5))
        normal[0] += 1
        normal /= normal.norm()
        return x - torch.outer(2 * normal, normal @ x)


@dataclass(frozen=True, eq=False)
class Chain(Transform):
    """One transform after another, first to last."""

    steps: tuple[Transform, ...]

    @property
    def size(self) -> int:
        return self.steps[0].size

    @property
    def orthogonal(self) -> bool:
        return all(step.orthogonal for step in self.steps)

    def inverse(self) -> Transform:
        return Chain(tuple(step.inverse() for step in reversed(self.steps)))

    def dual(self) -> Transform:
        return Chain(tuple(step.dual() for step in self.steps))

    def mix(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step.mix(x)
        return x


@dataclass(frozen=True, eq=False)
class Sum(Transform):
    """A direct sum: each part acts on its own stretch of the axis."""

    parts: tuple[Transform, ...]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    @property
    def orthogonal(self) -> bool:
        return all(part.orthogonal for part in self.parts)

    def inverse(self) -> Transform:
        return Sum(tuple(part.inverse() for part in self.parts))

    def dual(self) -> Transform:
        return Sum(tuple(part.dual() for part in self.parts))

    def mix(self, x: Tensor) -> Tensor:
        pieces = x.split([part.size for part in self.parts])
        return torch.cat([p.mix(x) for p, x in zip(self.parts, pieces, strict=True)])


def direct_sum(parts: Sequence[Transform]) -> Transform:
    """The direct sum, without a wrapper around a single part."""
    return parts[0] if len(parts) == 1 else Sum(tuple(parts))


def centred(inner: Transform, sign: float) -> Transform:
    """On `inner.size + 1` features: `inner` across the mean direction, `sign` along it.

    This is what commutes with LayerNorm: it maps constant rows to constant rows and turns
    only what is left when the mean is taken out.
    """
    first = Monomial(torch.zeros(1, dtype=torch.long), torch.tensor([sign]).double())
    turn = Reflection(inner.size + 1)
    chain = Chain((turn, Sum((first, inner)), turn))
    if isinstance(inner, Dense):
        return Dense.from_orthogonal(chain.matrix())
    return chain


def is_orthogonal(transform: Transform, tolerance: float = 1e-10) -> bool:
    """Measured, not claimed: does the matrix times its transpose give the identity."""
    matrix = transform.matrix()
    error = (matrix @ matrix.T - torch.eye(len(matrix), dtype=matrix.dtype)).abs().max()
    return float(error) <= tolerance


def _walsh(x: Tensor) -> Tensor:
    """The orthonormal transform along the first axis, whose length is a power of two."""
    count = len(x)
    if count <= _BUTTERFLY:
        return _walsh_matrix(count).to(x) @ x
    # H(64 n) = H(64) (x) H(n): one factor acts on blocks of n, the other across them.
    across = _walsh_matrix(_BUTTERFLY).to(x) @ x.reshape(_BUTTERFLY, -1)
    blocks = across.reshape(_BUTTERFLY, count // _BUTTERFLY, -1)
    within = _walsh(blocks.movedim(1, 0).reshape(count // _BUTTERFLY, -1))
    turned = within.reshape(count // _BUTTERFLY, _BUTTERFLY, -1)
    return turned.movedim(0, 1).reshape(count, -1)


def _walsh_matrix(count: int) -> Tensor:
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < count:
        top, bottom = torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)
        matrix = torch.cat([top, bottom])
    return matrix / count**0.5
