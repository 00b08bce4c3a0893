"""Where a transformer can be keyed, by which group, and what an optimiser may not mix.

A site owns one feature space, or several that must move together (queries with keys, values
with what reads them).  `draw` gives a transform to each of its parts; `orbits` tells which
coordinates of a part a key can mix with one another, for the optimiser (`ee.optim`).

The groups are the exact symmetries of the stock layers and nothing beyond them:

    stream    RMSNorm commutes with O(d), LayerNorm with the orthogonal maps that keep the
              mean direction, a norm whose gain stays in place with permutations only
    scores    q'k is kept by C on queries and C's dual on keys; under RoPE, C must commute
              with every rotation: one complex number per frequency
    values    any invertible map per key-value head, undone by what reads it
    hidden    an elementwise function allows permutations; the factor beside a gate, scales
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from ee.draw import Draw
from ee.groups import Blocks, Chain, Dense, Hadamard, Monomial, Transform, centred

FAST_ROUNDS = 3
"""Signs, Hadamard, permutation, three times: after two every output depends on every input
even where the binary form of the width leaves short blocks; the third costs little."""
GENERAL_REACH = 2.0
"""General keys stretch by at most this each way, so that float32 loses two bits and not ten."""


class Strength(StrEnum):
    """How much of the group a key uses."""

    PERMUTATION = "permutation"
    """Signed permutations: the weakest key, under which even AdamW trains exactly."""
    ORTHOGONAL = "orthogonal"
    """Every orthogonal symmetry: for training with `ee.optim`, and the default."""
    GENERAL = "general"
    """Every symmetry, scales and all: for inference only."""


class Turn(StrEnum):
    """How the orthogonal map of the stream is made."""

    DENSE = "dense"
    """Haar: d^3 to make and d^2 a row to apply."""
    HADAMARD = "hadamard"
    """Signs, Walsh-Hadamard and permutations: d log d a row, for wide models."""


class Norm(StrEnum):
    """What normalises the stream, which decides its group."""

    RMS = "rms"
    LAYER = "layer"
    GAINED = "gained"
    """A norm whose gain and shift stay on the stream (post-norm models)."""


@dataclass(frozen=True)
class Options:
    """What an owner may choose about a key."""

    strength: Strength = Strength.ORTHOGONAL
    turn: Turn = Turn.DENSE


@dataclass(frozen=True)
class Site(ABC):
    """One place with a group of its own."""

    def described(self) -> dict[str, Any]:
        """Kind and sizes, for a plan's digest."""
        return {"kind": type(self).__name__, **asdict(self)}

    def without_effect(self) -> frozenset[str]:
        """Parts that may be shifted by any vector without changing what a block computes."""
        return frozenset()

    @abstractmethod
    def sizes(self) -> Mapping[str, int]:
        """Features of each part."""

    @abstractmethod
    def draw(self, draw: Draw, options: Options) -> Mapping[str, Transform]:
        """A random element, as it acts on each part."""

    @abstractmethod
    def orbits(self, strength: Strength) -> Mapping[str, Tensor]:
        """(features,) labels of each part: equal labels may be mixed by a key."""


@dataclass(frozen=True)
class Stream(Site):
    """The residual stream; part `x`."""

    width: int
    norm: Norm

    def sizes(self) -> Mapping[str, int]:
        return {"x": self.width}

    def draw(self, draw: Draw, options: Options) -> Mapping[str, Transform]:
        if self.norm is Norm.GAINED:
            return {"x": Monomial(draw.permutation(self.width))}
        if self.norm is Norm.LAYER and options.strength is Strength.PERMUTATION:
            # A sign on single features would tilt the mean that LayerNorm takes out.
            return {"x": Monomial(draw.permutation(self.width))}
        if self.norm is Norm.LAYER:
            sign = float(draw.signs(1))
            return {"x": centred(_turn(draw, self.width - 1, options), sign)}
        return {"x": _turn(draw, self.width, options)}

    def orbits(self, strength: Strength) -> Mapping[str, Tensor]:
        alone = self.norm is Norm.GAINED or strength is Strength.PERMUTATION
        labels = torch.arange(self.width)
        return {"x": labels if alone else torch.zeros_like(labels)}


@dataclass(frozen=True)
class Attention(Site):
    """Parts `q`, `k`, `v` (what the projections write) and `o` (what the last one reads).

    `heads` query heads share `kv_heads` key-value heads in groups of neighbours, as the
    stock layers lay them out.  `rotary` pairs entry i with entry i + head_dim / 2.
    """

    heads: int
    kv_heads: int
    head_dim: int
    rotary: bool

    def without_effect(self) -> frozenset[str]:
        # All keys shifted by b: every logit of a query grows by q'b, which softmax takes out.
        # A rotation would turn b differently at every position.
        return frozenset() if self.rotary else frozenset({"k"})

    def sizes(self) -> Mapping[str, int]:
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {"q": wide, "k": narrow, "v": narrow, "o": wide}

    def draw(self, draw: Draw, options: Options) -> Mapping[str, Transform]:
        groups = draw.permutation(self.kv_heads)
        repeat = self.heads // self.kv_heads
        # New query head (g, n) is old head (groups[g], inside[g][n]).
        inside = torch.stack([draw.permutation(repeat) for _ in range(self.kv_heads)])
        queries = (groups.unsqueeze(1) * repeat + inside).flatten()
        scores, scores_back = self._scores(draw, options.strength)
        values, values_back = self._values(draw, options.strength)
        rigid = options.strength is not Strength.GENERAL

        def on_heads(forth: Tensor, back: Tensor) -> Transform:
            old = queries // repeat
            return Blocks(forth[old], back[old], queries, rigid)

        def on_groups(forth: Tensor, back: Tensor) -> Transform:
            return Blocks(forth[groups], back[groups], groups, rigid)

        return {
            "q": on_heads(scores, scores_back),
            "k": on_groups(scores, scores_back).dual(),
            "v": on_groups(values, values_back),
            "o": on_heads(values, values_back),
        }

    def _scores(self, draw: Draw, strength: Strength) -> tuple[Tensor, Tensor]:
        """C of each key-value head and its inverse, (kv_heads, head_dim, head_dim)."""
        if not self.rotary:
            return _mixes(draw, self.kv_heads, self.head_dim, strength)
        shape = (self.kv_heads, self.head_dim // 2)
        if strength is Strength.PERMUTATION:
            angles = torch.pi * (draw.uniform(*shape) < 0.5).double()
        else:
            angles = 2 * torch.pi * draw.uniform(*shape)
        turn = _planes(torch.cos(angles), torch.sin(angles))
        if strength is not Strength.GENERAL:
            return turn, turn.mT.contiguous()
        scale = draw.stretch(*shape, reach=GENERAL_REACH)
        both = torch.cat([scale, scale], 1).unsqueeze(-1)
        return turn * both, turn.mT / both.mT

    def _values(self, draw: Draw, strength: Strength) -> tuple[Tensor, Tensor]:
        return _mixes(draw, self.kv_heads, self.head_dim, strength)

    def orbits(self, strength: Strength) -> Mapping[str, Tensor]:
        if strength is Strength.PERMUTATION:
            return {part: torch.arange(size) for part, size in self.sizes().items()}
        half = self.head_dim // 2

        def by_head(heads: int) -> Tensor:
            return torch.arange(heads).repeat_interleave(self.head_dim)

        def by_plane(heads: int) -> Tensor:
            planes = torch.arange(heads * half).reshape(heads, half)
            return torch.cat([planes, planes], 1).flatten()

        scored = by_plane if self.rotary else by_head
        return {
            "q": scored(self.heads),
            "k": scored(self.kv_heads),
            "v": by_head(self.kv_heads),
            "o": by_head(self.heads),
        }


@dataclass(frozen=True)
class Hidden(Site):
    """The inner units of a feed-forward block.

    Part `act` goes through the elementwise function; `free`, in a gated block, is the
    factor beside it; `down` is what the last projection reads.
    """

    width: int
    gated: bool

    def sizes(self) -> Mapping[str, int]:
        parts = ("act", "free", "down") if self.gated else ("act", "down")
        return dict.fromkeys(parts, self.width)

    def draw(self, draw: Draw, options: Options) -> Mapping[str, Transform]:
        order = Monomial(draw.permutation(self.width))
        if not self.gated:
            return {"act": order, "down": order}
        scale = draw.signs(self.width)
        if options.strength is Strength.GENERAL:
            scale = scale * draw.stretch(self.width, reach=GENERAL_REACH)
        free = Monomial(order.index, scale)
        return {"act": order, "free": free, "down": free}

    def orbits(self, strength: Strength) -> Mapping[str, Tensor]:
        del strength  # permutations and signs never mix two units
        return {part: torch.arange(self.width) for part in self.sizes()}


@dataclass(frozen=True)
class Rank(Site):
    """The inner features of a low-rank adapter; part `r`."""

    rank: int

    def sizes(self) -> Mapping[str, int]:
        return {"r": self.rank}

    def draw(self, draw: Draw, options: Options) -> Mapping[str, Transform]:
        forth, back = _mixes(draw, 1, self.rank, options.strength)
        rigid = options.strength is not Strength.GENERAL
        return {"r": Dense(forth[0], back[0], rigid)}

    def orbits(self, strength: Strength) -> Mapping[str, Tensor]:
        labels = torch.arange(self.rank)
        alone = strength is Strength.PERMUTATION
        return {"r": labels if alone else torch.zeros_like(labels)}


def _turn(draw: Draw, width: int, options: Options) -> Transform:
    """An orthogonal map of `width` features, of the kind asked for."""
    if options.strength is Strength.PERMUTATION:
        return Monomial(draw.permutation(width), draw.signs(width))
    if options.turn is Turn.DENSE:
        return Dense.from_orthogonal(draw.orthogonal(width)[0])
    steps: list[Transform] = []
    for _ in range(FAST_ROUNDS):
        mixed = Monomial(draw.permutation(width), draw.signs(width))
        steps += [mixed, Hadamard(width)]
    return Chain((*steps, Monomial(draw.permutation(width), draw.signs(width))))


def _planes(cos: Tensor, sin: Tensor) -> Tensor:
    """(heads, dim / 2) to (heads, dim, dim): a rotation in each plane (i, i + dim / 2)."""
    c, s = torch.diag_embed(cos), torch.diag_embed(sin)
    return torch.cat([torch.cat([c, -s], 2), torch.cat([s, c], 2)], 1)


def _mixes(
    draw: Draw, count: int, width: int, strength: Strength
) -> tuple[Tensor, Tensor]:
    """Maps of `width` features with their inverses, (count, width, width) each."""
    if strength is Strength.PERMUTATION:
        order = torch.stack([draw.permutation(width) for _ in range(count)])
        eye = torch.eye(width, dtype=torch.float64)[order]
        mixed = eye * draw.signs(count, width, 1)
        return mixed, mixed.mT.contiguous()
    left = draw.orthogonal(width, count)
    if strength is Strength.ORTHOGONAL:
        return left, left.mT.contiguous()
    right = draw.orthogonal(width, count)
    scale = draw.stretch(count, width, reach=GENERAL_REACH).unsqueeze(1)
    return left * scale @ right, right.mT @ (left / scale).mT
