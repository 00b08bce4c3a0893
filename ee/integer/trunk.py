"""The integer trunk: its parts, its forward pass, and the replay of one layer.

A trunk is a value.  `forward` and `replay_layer` are pure functions of it and of the
rows, with one result on every machine: there is no tolerance anywhere below.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ee.integer import spec
from ee.integer.arith import Floats
from ee.integer.block import LLAMA, MATRICES, Linears, Past, Shape, Style, replayed
from ee.integer.errors import IntegerModelError
from ee.integer.linear import Gain, Matrix

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
    op_spec: int = 1
    style: Style = LLAMA

    def matrix_shapes(self) -> dict[str, tuple[int, int]]:
        """Name to (outputs, inputs), in the order of the bytes."""
        query, value = self.heads * self.head_dim, self.kv_heads * self.head_dim
        shapes = {
            "q": (query, self.width),
            "k": (value, self.width),
            "v": (value, self.width),
            "o": (self.width, query),
            "gate": (self.inner, self.width),
            "up": (self.inner, self.width),
            "down": (self.width, self.inner),
        }
        if not self.style.gated:
            del shapes["up"]
        return shapes

    @property
    def norms(self) -> int:
        """How many norms of a layer have a gain of their own."""
        return 2 if self.style.post else 0

    @property
    def table_shape(self) -> tuple[int, int]:
        """Of the RoPE tables; a trunk without has none."""
        return (self.tokens, self.head_dim // 2) if self.style.rotary else (0, 0)


@dataclass(frozen=True)
class Layer:
    """One transformer block; the fields stand in the order of the bytes."""

    q: Matrix
    k: Matrix
    v: Matrix
    o: Matrix
    gate: Matrix
    up: Matrix | None
    down: Matrix
    gains: tuple[Gain, ...] = ()
    """Of the norm before attention and the one before the activation, in a post-norm trunk."""

    @classmethod
    def of(
        cls, matrices: Mapping[str, Matrix], gains: tuple[Gain, ...] = ()
    ) -> "Layer":
        """From the matrices by their names."""
        q, k, v, o, gate = (matrices[name] for name in MATRICES[:5])
        return cls(q, k, v, o, gate, matrices.get("up"), matrices["down"], gains)

    def matrices(self) -> tuple[Matrix, ...]:
        """All there are, in the order of the fields."""
        return tuple(matrix for _, matrix in self.named())

    def named(self) -> list[tuple[str, Matrix]]:
        """The same with their names."""
        pairs = ((name, getattr(self, name)) for name in MATRICES)
        return [(name, matrix) for name, matrix in pairs if matrix is not None]


@dataclass(frozen=True)
class Header:
    """What every layer shares: the numbers and the tables."""

    config: TrunkConfig
    cos: NDArray[np.int16]
    sin: NDArray[np.int16]
    """RoPE, (tokens, head_dim / 2) each."""
    activation: NDArray[np.uint32] | None = None
    """ACT of op-spec 2, (8193,); op-spec 1 has its own."""

    @functools.cached_property
    def activations(self) -> Floats:
        """The table of step 8, whoever brought it."""
        if self.activation is None:
            return spec.silu_table()
        return self.activation.astype(np.float64)

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
        return replayed(self.shape, layer, rows, past)

    @functools.cached_property
    def shape(self) -> Shape:
        config = self.config
        return Shape(
            config.heads,
            config.kv_heads,
            config.head_dim,
            config.norm_bias,
            config.score_multiplier,
            config.causal,
            config.style,
            self.cos,
            self.sin,
            self.activations,
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
