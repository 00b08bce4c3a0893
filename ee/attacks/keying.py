"""The victim's side of the suite: a body keyed as a session keys it, and what a host then has.

Nothing here is special to attacks: the body is cut by `ee.split`, the key is an `ee.keys.Key`,
and the host's matrices are those of the stock trunk built from the keyed state.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from ee.arch.sites import Options
from ee.attacks.base import Base, Block, block_of
from ee.keys import Key, state_keyed
from ee.split import build_trunk, split_model


@dataclass(frozen=True)
class Observed:
    """All that one host holds: rows it was sent, and the matrices it multiplies them by."""

    rows: Tensor
    """(sequences, tokens, width); what enters its first block.

    A post-norm trunk begins with a norm, which the host applies itself: these are its rows
    behind that.
    """
    block: Block
    """The first block the host runs: keyed in E-mode, public in S-mode."""
    depth: int
    """How many blocks the rows have been through at the key holder."""
    normed: bool = False
    """The rows are what q, k and v multiply, not the residual (S-mode)."""


class Body(Protocol):
    """A trunk at a host and what its rows are under."""

    @property
    def trunk(self) -> Any:
        """The stock module the host runs."""

    @property
    def block(self) -> Block:
        """Its first block."""

    @property
    def residual(self) -> Tensor:
        """(width, width), orthogonal: the host's row is x @ residual."""

    @property
    def units(self) -> Tensor:
        """(inner,): the host's unit i is unit units[i] of the plain block."""

    def enter(self, rows: Tensor) -> Tensor:
        """Plain rows to the host's."""


class KeyedBody:
    """A canonical trunk behind `depth` blocks, under a fresh key from `seed`."""

    def __init__(
        self, base: Base, depth: int, seed: bytes, options: Options | None = None
    ) -> None:
        pieces = split_model(base.model, stem_layers=depth)
        self.key = Key(seed, pieces.plan, options)
        self.trunk = build_trunk(pieces.cut, state_keyed(pieces.trunk, self.key))
        self._plain = block_of(build_trunk(pieces.cut, pieces.trunk), 0)

    @cached_property
    def block(self) -> Block:
        return block_of(self.trunk, 0)

    @cached_property
    def residual(self) -> Tensor:
        return self.key.enter(torch.eye(self.key.plan.width, dtype=torch.float64))

    @cached_property
    def units(self) -> Tensor:
        # With the residual known, a unit's first vector is found exactly: no key scales it.
        turned = self._plain.ups[0].double() @ self.residual
        return torch.cdist(self.block.ups[0].double(), turned).argmin(dim=1)

    def enter(self, rows: Tensor) -> Tensor:
        # Holds for rows on either side of a post-norm trunk's first norm: the key of such
        # a trunk is a permutation, and its norm's gain is permuted with the rows.
        return self.key.enter(rows)


class PlainBody:
    """The same without a key: what every positive control runs on."""

    def __init__(self, base: Base, depth: int) -> None:
        pieces = split_model(base.model, stem_layers=depth)
        self.trunk = build_trunk(pieces.cut, pieces.trunk)
        self.block = block_of(self.trunk, 0)
        self.residual = torch.eye(base.width, dtype=torch.float64)
        self.units = torch.arange(len(self.block.ups[0]))

    def enter(self, rows: Tensor) -> Tensor:
        return rows


class Imitator:
    """Keys of the attacker's own, of the kind a base takes, to train a network against."""

    def __init__(self, base: Base) -> None:
        self._plan = split_model(base.model).plan

    def enter(self, rows: Tensor, draw: torch.Generator) -> Tensor:
        """`rows` under a key nobody has used before."""
        seed = bytes(torch.randint(0, 256, (32,), generator=draw).tolist())
        return Key(seed, self._plan).enter(rows)
