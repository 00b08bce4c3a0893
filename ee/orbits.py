"""Which coordinates of a tensor a key can mix, and means over them.

An orbit is a block of coordinates that some key turns into one another.  Keys act on each
axis apart, so a tensor's orbits are the products of its axes' orbits; the sum of squares
over one is the same before and after keying, up to which orbit it is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ee.arch.plan import Axis, Plan
from ee.arch.sites import Strength


@dataclass(frozen=True, eq=False)
class Orbits:
    """Labels of each axis, 0 to count - 1; equal labels are one orbit, all equally large."""

    labels: tuple[Tensor, ...]
    counts: tuple[int, ...]
    idle: Tensor | None = None
    """(features,) of a vector: True where nothing that is computed depends on it."""

    def mean(self, x: Tensor) -> Tensor:
        """(features, ...) to (orbits, ...), the mean of each block."""
        for axis, (labels, count) in enumerate(
            zip(self.labels, self.counts, strict=True)
        ):
            size = len(labels)
            if count == 1:
                x = x.mean(axis, keepdim=True)
            elif count < size:
                shape = [*x.shape[:axis], count, *x.shape[axis + 1 :]]
                sums = x.new_zeros(shape).index_add_(axis, labels.to(x.device), x)
                x = sums * (count / size)
        return x

    def spread(self, x: Tensor) -> Tensor:
        """(orbits, ...) back to something that broadcasts with (features, ...).

        Infinite where a coordinate is idle: its gradient is zero but for rounding, and rounding
        over its own size would be a step as large as any.
        """
        for axis, (labels, count) in enumerate(
            zip(self.labels, self.counts, strict=True)
        ):
            if 1 < count < len(labels):
                x = x.index_select(axis, labels.to(x.device))
        if self.idle is not None:
            idle = self.idle.to(x.device)
            x = x.expand(len(idle)).masked_fill(idle, torch.inf)
        return x


def orbits_of(plan: Plan, name: str, strength: Strength) -> Orbits:
    """The orbits of one tensor of a trunk under keys of `strength`."""
    labels = tuple(_labels(plan, axis, strength) for axis in plan.axes(name))
    return Orbits(
        labels, tuple(int(one.max()) + 1 for one in labels), _idle(plan, name)
    )


def _idle(plan: Plan, name: str) -> Tensor | None:
    """Of a bias, what it adds to parts whose shift has no effect."""
    axes = plan.axes(name)
    if len(axes) > 1:
        return None
    parts = [
        torch.full(
            (plan.size(side),), side.part in plan.sites[side.site].without_effect()
        )
        for side in axes[0].sides
    ]
    idle = torch.cat(parts)
    return idle if bool(idle.any()) else None


def _labels(plan: Plan, axis: Axis, strength: Strength) -> Tensor:
    parts: list[Tensor] = []
    first = 0
    for side in axis.sides:
        one = plan.sites[side.site].orbits(strength)[side.part]
        parts.append(one + first)
        first += int(one.max()) + 1
    return torch.cat(parts)
