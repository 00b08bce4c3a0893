"""The rows inside one layer, for one token: what a dispute is about (docs/verify.md §10).

Ten rows lie between the row before a layer and the row after it.  Every matrix reads one of
them and writes another, so they are what a block hands to its matrices and gets back; a block
asks for nothing else of a matrix, and one that writes down what passes stands in for it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ee.integer import arith, spec
from ee.integer.arith import Floats
from ee.integer.errors import IntegerModelError
from ee.integer.linear import Gain, Linear
from ee.integer.ops import Rows
from ee.integer.trunk import Header, Layer, RowArray

STEPS = ("norm", "q", "k", "v", "mixed", "middle", "norm2", "gate", "up", "wide")
"""In the order of the op-spec; `middle` is x' of step 6, `wide` is h of step 8."""


@dataclass(frozen=True)
class TraceRow:
    """Numbers of one step, with the exponent of the row (0 where it has none)."""

    exponent: int
    entries: bytes
    """Signed, big-endian: one byte of an 8-bit row, two of `wide`, else four."""


@dataclass
class _Recorder:
    """A matrix, and copies of the last rows it was given and gave back."""

    matrix: Linear
    given: list[Rows] = field(default_factory=list)
    made: list[Floats] = field(default_factory=list)

    def apply(self, rows: Rows, limit: int) -> Floats:
        return self._noted(self.matrix.apply, rows, limit)

    def apply_wide(self, rows: Rows, limit: int) -> Floats:
        return self._noted(self.matrix.apply_wide, rows, limit)

    def _noted(
        self, apply: Callable[[Rows, int], Floats], rows: Rows, limit: int
    ) -> Floats:
        # A block works over its arrays, so what is kept is a copy.
        self.given.append(Rows(rows.q.copy(), rows.s.copy()))
        made = apply(rows, limit)
        self.made.append(made.copy())
        return made


@dataclass(frozen=True)
class _Recorded:
    """The seven matrices of a block, recording."""

    q: _Recorder
    k: _Recorder
    v: _Recorder
    o: _Recorder
    gate: _Recorder
    up: _Recorder
    down: _Recorder
    gains: tuple[Gain, ...] = field(default=(), init=False)


def trace_token(
    header: Header, layer: Layer, rows: RowArray, token: int
) -> tuple[TraceRow, ...]:
    """The ten rows of `token`, given the rows (1, tokens, width) of its case before `layer`."""
    if len(rows) != 1 or not 0 <= token < rows.shape[1]:
        raise IntegerModelError(f"token {token} of rows of shape {rows.shape}")
    if header.config.op_spec != 1:
        raise IntegerModelError("disputes are about trunks of op-spec 1")
    seen = _Recorded(*map(_Recorder, layer.matrices()))
    header.replay(seen, rows)
    middle = arith.clamp(rows[0] + seen.o.made[0], spec.RESIDUAL_LIMIT)

    def short(rows: Rows, kind: str) -> TraceRow:
        return TraceRow(int(rows.s[token]), _packed(rows.q[token], kind))

    def plain(values: Floats) -> TraceRow:
        return TraceRow(0, _packed(values[token], ">i4"))

    return (
        short(seen.q.given[0], ">i1"),
        *(plain(one.made[0]) for one in (seen.q, seen.k, seen.v)),
        short(seen.o.given[0], ">i1"),
        plain(middle),
        short(seen.gate.given[0], ">i1"),
        *(plain(one.made[0]) for one in (seen.gate, seen.up)),
        short(seen.down.given[0], ">i2"),
    )


def _packed(values: Floats, kind: str) -> bytes:
    return np.asarray(values).astype(kind).tobytes()
