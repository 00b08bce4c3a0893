"""The integer trunk: its parts, its forward pass, and the replay of one layer.

A trunk is a value.  `forward` and `replay_layer` are pure functions of it and of the
rows, with one result on every machine: there is no tolerance anywhere below.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ee.integer import spec
from ee.integer.block import Linears, Past, Shape, replayed
from ee.integer.errors import IntegerModelError
from ee.integer.linear import Matrix

RowArray = NDArray[np.int32]
"""Residual rows, (batch, tokens, width)."""


@dataclass(frozen=True)
class TrunkConfig:
    """Every number a layer needs beside its weights."""

    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    tokens: int
    """The longest sequence the RoPE tables reach."""
    residual_bits: int
    """Fraction bits of the residual."""
    norm_bias: int
    """E of the op-spec: the norm's epsilon, in squared residual units times width."""
    score_multiplier: int
    """M of the op-spec: log2(e) / sqrt(head_dim) in units of 2^-22."""
    causal: bool
    """A row attends to itself and what is before it; if not, to its whole sequence."""

    def matrix_shapes(self) -> dict[str, tuple[int, int]]:
        """Name to (outputs, inputs), in the order of the bytes."""
        query, value = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q": (query, self.width),
            "k": (value, self.width),
            "v": (value, self.width),
            "o": (self.width, query),
            "gate": (self.inner, self.width),
            "up": (self.inner, self.width),
            "down": (self.width, self.inner),
        }


@dataclass(frozen=True)
class Layer:
    """One transformer block; the fields stand in the order of the bytes."""

    q: Matrix
    k: Matrix
    v: Matrix
    o: Matrix
    gate: Matrix
    up: Matrix
    down: Matrix

    def matrices(self) -> tuple[Matrix, ...]:
        """All seven, in the order of the fields."""
        return self.q, self.k, self.v, self.o, self.gate, self.up, self.down


@dataclass(frozen=True)
class Header:
    """What every layer shares: the numbers and the RoPE tables (tokens, head_dim / 2)."""

    config: TrunkConfig
    cos: NDArray[np.int16]
    sin: NDArray[np.int16]

    def check_rows(self, rows: RowArray, *, past: int = 0) -> RowArray:
        """`rows` if this trunk can take them; `IntegerModelError` says why not.

        `past` rows of each sequence went before them.
        """
        config = self.config
        if rows.dtype != np.int32 or rows.ndim != 3:
            raise IntegerModelError(
                f"rows are {rows.dtype} of {rows.ndim} axes, need int32 of 3"
            )
        batch, tokens, width = rows.shape
        if width != config.width:
            raise IntegerModelError(
                f"rows are {width} wide, trunk needs {config.width}"
            )
        if not 1 <= tokens <= config.tokens - past or batch < 1:
            raise IntegerModelError(
                f"{batch} sequences of {past + tokens} tokens, need at least 1 of 1"
                f" to {config.tokens}"
            )
        if max(int(rows.max()), -int(rows.min())) > spec.RESIDUAL_LIMIT:
            raise IntegerModelError(f"a row entry is beyond {spec.RESIDUAL_LIMIT}")
        return rows

    def replay(
        self, layer: Linears, rows: RowArray, past: Past | None = None
    ) -> RowArray:
        """Steps 1 to 9 of the op-spec for every sequence of the batch."""
        self.check_rows(rows, past=0 if past is None else past.tokens)
        return replayed(self._shape, layer, rows, past)

    @functools.cached_property
    def _shape(self) -> Shape:
        config = self.config
        return Shape(
            config.heads,
            config.kv_heads,
            config.head_dim,
            config.norm_bias,
            config.score_multiplier,
            config.causal,
            self.cos,
            self.sin,
        )


@dataclass(frozen=True)
class Trace:
    """Rows before the first layer replayed, then after each; the last are the output."""

    boundaries: tuple[RowArray, ...]

    @property
    def output(self) -> RowArray:
        return self.boundaries[-1]


@dataclass(frozen=True)
class IntegerTrunk:
    """A whole trunk."""

    header: Header
    layers: tuple[Layer, ...]

    @property
    def config(self) -> TrunkConfig:
        return self.header.config

    def forward(self, rows: RowArray, *, start: int = 0) -> Trace:
        """Every boundary from `rows`, which stand before layer `start`, to the output."""
        self.require_layer(start)
        boundaries = [self.header.check_rows(rows)]
        for layer in self.layers[start:]:
            boundaries.append(self.header.replay(layer, boundaries[-1]))
        return Trace(tuple(boundaries))

    def extend(self, rows: RowArray, cache: "Cache") -> Trace:
        """Boundaries of the next rows of sequences under way; only of a causal trunk."""
        if not self.config.causal:
            raise IntegerModelError(
                "an encoder sees its whole sequence, it keeps no cache"
            )
        pasts = cache.of(self, len(rows))
        boundaries = [rows]
        for layer, past in zip(self.layers, pasts, strict=True):
            boundaries.append(self.header.replay(layer, boundaries[-1], past))
        return Trace(tuple(boundaries))

    def replay_layer(self, index: int, rows: RowArray) -> RowArray:
        """Rows after layer `index`, given the rows before it."""
        self.require_layer(index)
        return self.header.replay(self.layers[index], rows)

    def require_layer(self, index: int) -> None:
        """Raise unless there is a layer `index`."""
        if not 0 <= index < len(self.layers):
            raise IntegerModelError(f"layer {index} of a trunk of {len(self.layers)}")


class Cache:
    """Keys and values of a batch of sequences under way, for one trunk."""

    def __init__(self) -> None:
        self._trunk: IntegerTrunk | None = None
        self._batch = 0
        self._pasts: tuple[Past, ...] = ()

    @property
    def tokens(self) -> int:
        """How many rows of each sequence are in it."""
        return self._pasts[0].tokens if self._pasts else 0

    def of(self, trunk: IntegerTrunk, batch: int) -> tuple[Past, ...]:
        """A past for every layer; the first use decides for which trunk and batch."""
        if self._trunk is None:
            self._trunk, self._batch = trunk, batch
            self._pasts = tuple(Past() for _ in trunk.layers)
        if self._trunk is not trunk or self._batch != batch:
            raise IntegerModelError(
                f"cache is of {self._batch} sequences of one trunk, not of {batch}"
                f" of {'it' if self._trunk is trunk else 'another'}"
            )
        return self._pasts
