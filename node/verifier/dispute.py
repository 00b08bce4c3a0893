"""Find and show the number that a host's own rows and the model contradict.

The arithmetic is that of `contracts/src/Steps.sol`: long integers, so that no row a host may
have hashed, in range or not, is computed otherwise here than there.
"""

from math import isqrt

import numpy as np

from ee import integer
from ee.integer import Header, Layer, spec
from node.verifier.replay import Model
from protocol.boundary import RowOpening
from protocol.dispute import (
    DOWN,
    MIDDLE,
    NO_ROW,
    NORMS,
    OUTPUT_PROJECTION,
    READS,
    WRITES,
    Channel,
    Claim,
    NormProof,
    Proof,
    Row,
    Trunk,
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


def wrong_norm(
    header: Header, rows: list[Row], before: bytes
) -> tuple[int, int] | None:
    """First (step, entry) of a norm that is not its row's; None: both norms are right."""
    for step in NORMS:
        source, claimed = rows[MIDDLE].entries, rows[step]
        count = header.config.width
        values = [
            _packed(before, i) if step == 0 else _entry(source, i) for i in range(count)
        ]
        known = [value for value in values if value is not None]
        normed = _normed(known, header.config.norm_bias)
        if len(known) != count or normed is None:
            continue  # the row itself is not one of the model's, and is shown wrong as such
        exponent, entries = normed
        if len(claimed.entries) != count or claimed.exponent != exponent:
            return step, 0
        told = np.frombuffer(claimed.entries, ">i1").tolist()
        for place, (one, other) in enumerate(zip(told, entries, strict=True)):
            if one != other:
                return step, place
    return None


def norm_proof(
    model: Model, rows: list[Row], place: tuple[int, int], before: RowOpening
) -> NormProof:
    """What the contract needs to see for the `place` that `wrong_norm` found."""
    step, entry = place
    return NormProof(
        trunk=Trunk(*integer.header_parts(model.header), model.roots),
        boundary=before if step == 0 else NO_ROW,
        middle=rows[MIDDLE],
        claimed=rows[step],
        entry=entry,
    )


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


def _normed(values: list[int], bias: int) -> tuple[int, list[int]] | None:
    """Norm of the op-spec on long integers; None beyond what it is defined for."""
    total = sum(value * value for value in values) + bias
    if not 0 < total < 1 << 62:
        return None
    lift = (62 - total.bit_length()) & ~1
    gain = (isqrt(len(values) << 40) << 31) // isqrt(total << lift)
    scaled = [_half(value * gain, 35 - lift // 2) for value in values]
    exponent = max(0, max(map(abs, scaled)).bit_length() - spec.ROW_BITS)
    return exponent, [_clamp(_half(value, exponent), 127) for value in scaled]


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
