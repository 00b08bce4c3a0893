"""Find and show the number that a host's own rows and the model contradict.

The arithmetic is that of `contracts/src/Steps.sol`: long integers, so that no row a host may
have hashed, in range or not, is computed otherwise here than there.
"""

import numpy as np

from ee import integer
from ee.integer import Layer, spec
from node.verifier.replay import Model
from protocol.boundary import RowOpening
from protocol.dispute import (
    DOWN,
    MIDDLE,
    OUTPUT_PROJECTION,
    READS,
    WRITES,
    Channel,
    Claim,
    Proof,
    Row,
)

_PACKED = integer.ENTRY_BYTES


def traced(model: Model, claim: Claim, rows: bytes) -> list[tuple[int, bytes]]:
    """(exponent, entries) of the ten rows, from all packed rows before the claim's layer."""
    shape = (claim.cases, claim.tokens, claim.width)
    part = integer.unpack_rows(rows, shape)[claim.case : claim.case + 1]
    layer = model.layers[claim.layer - model.first]
    found = integer.trace_token(model.header, layer, part, claim.token)
    return [(row.exponent, row.entries) for row in found]


def wrong_channel(
    layer: Layer, rows: list[Row], before: bytes, after: bytes
) -> tuple[int, int] | None:
    """First (matrix, channel) whose number is not what its input row makes; None: all are.

    `rows` are the host's ten, `before` and `after` the token's packed rows around the layer.
    """
    for number, matrix in enumerate(layer.matrices()):
        given, writes = rows[READS[number]], WRITES[number]
        kind = ">i2" if number == DOWN else ">i1"
        outputs, inputs = matrix.weight.shape
        if len(given.entries) != np.dtype(kind).itemsize * inputs:
            return number, 0
        entries = np.frombuffer(given.entries, kind).astype(np.int64)
        sums = matrix.weight.astype(np.int64) @ entries
        adds = number in (OUTPUT_PROJECTION, DOWN)
        limit = spec.RESIDUAL_LIMIT if adds else spec.MID_LIMIT
        for channel in range(outputs):
            scaled = int(matrix.multiplier[channel]) * int(sums[channel])
            value = _clamp(_half(scaled, matrix.shift - given.exponent), limit)
            if number == DOWN:
                claimed = _packed(after, channel)
                base = _entry(rows[MIDDLE].entries, channel)
            else:
                assert writes is not None
                claimed = _entry(rows[writes].entries, channel)
                base = _packed(before, channel) if adds else 0
            if claimed is None or base is None:
                return number, channel
            if claimed != (_clamp(base + value, limit) if adds else value):
                return number, channel
    return None


def proof(
    model: Model,
    claim: Claim,
    rows: list[Row],
    place: tuple[int, int],
    before: RowOpening,
    after: RowOpening,
) -> Proof:
    """What the contract needs to see for the `place` that `wrong_channel` found."""
    number, channel = place
    opened = integer.open_channel(
        model.layers[claim.layer - model.first], number, channel
    )
    writes = WRITES[number]
    around = {OUTPUT_PROJECTION: before, DOWN: after}
    shown = Channel(
        header=integer.header_digest(model.header),
        layers=model.roots,
        index=opened.index,
        size=opened.size,
        path=opened.path,
        leaf=opened.leaf,
    )
    known = rows[READS[number]], rows[MIDDLE if writes is None else writes]
    if number in around:
        return Proof(shown, *known, around[number])
    return Proof(shown, *known)


def _entry(entries: bytes, channel: int) -> int | None:
    part = entries[4 * channel : 4 * channel + 4]
    return int.from_bytes(part, "big", signed=True) if len(part) == 4 else None


def _packed(row: bytes, channel: int) -> int | None:
    part = row[_PACKED * channel : _PACKED * (channel + 1)]
    return int.from_bytes(part, "little", signed=True) if len(part) == _PACKED else None


def _half(number: int, exponent: int) -> int:
    if exponent <= 0:
        return number << -exponent
    return (number + (1 << (exponent - 1))) >> exponent


def _clamp(number: int, limit: int) -> int:
    return max(-limit, min(limit, number))
