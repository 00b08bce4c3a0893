"""A dispute about one token's row after one layer, proved to a contract (docs/verify.md §10).

The host hashes the ten rows inside the layer; each matrix reads one of them and writes
another.  Whoever holds the rows and the model finds a matrix whose output is not what its input
makes, and shows one channel of it.  What is here is the bytes that the contract reads and who
moves next; the arithmetic is `ee.integer`'s.
"""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from protocol.boundary import RowOpening, case_salt
from protocol.errors import MalformedMessageError
from protocol.types import DIGEST_BYTES, Digest

STEPS = 10
READS = (0, 0, 0, 4, 6, 6, 9)
"""Step that each matrix reads, in the order q, k, v, o, gate, up, down."""
WRITES = (1, 2, 3, 5, 7, 8, None)
"""Step that it writes; the last one writes the row after the layer."""
MIDDLE = 5
NORMS = (0, 6)
"""Steps that are a norm, of the row before the layer and of `MIDDLE`."""
OUTPUT_PROJECTION, DOWN = 3, 6

_LABEL = b"rexis-trace-1"
_SALT_LABEL = b"rexis-trace-salt-1"
_PLACE = struct.Struct(">BIII")


class Turn(IntEnum):
    """Who must move; the contract's order."""

    HOST = 0
    CHALLENGER = 1
    NOBODY = 2


@dataclass(frozen=True)
class Claim:
    """Which row is disputed; the contract's order of fields."""

    model: bytes
    before: bytes
    """Boundary root of the rows before the layer."""
    afterwards: bytes
    cases: int
    tokens: int
    width: int
    layer: int
    case: int
    token: int


@dataclass(frozen=True)
class Row:
    """A row inside a layer."""

    salt: bytes
    exponent: int
    entries: bytes

    def digest(self, step: int, claim: Claim) -> Digest:
        """The leaf that stands for it."""
        place = _PLACE.pack(step, claim.layer, claim.case, claim.token)
        parts = (b"\x00", _LABEL, place, self.salt, bytes([self.exponent]))
        return Digest(hashlib.sha256(b"".join((*parts, self.entries))).digest())


@dataclass(frozen=True)
class Channel:
    """One output channel of a matrix, and its way up to the model root."""

    header: bytes
    layers: tuple[bytes, ...]
    index: int
    size: int
    path: tuple[bytes, ...]
    leaf: bytes


NO_ROW = RowOpening(bytes(DIGEST_BYTES), b"", (), ())
"""Where a matrix needs no row between layers."""


@dataclass(frozen=True)
class Proof:
    """One wrong number, as the contract takes it."""

    channel: Channel
    input: Row
    other: Row
    """What the matrix wrote; for `DOWN` the row its output is added to."""
    boundary: RowOpening = NO_ROW


@dataclass(frozen=True)
class Trunk:
    """What a norm needs of the model, and its way into the model root."""

    numbers: bytes
    tables: bytes
    layers: tuple[bytes, ...]


@dataclass(frozen=True)
class NormProof:
    """One wrong number of a norm, as the contract takes it."""

    trunk: Trunk
    boundary: RowOpening
    """The row before the layer; `NO_ROW` for the second norm."""
    middle: Row
    claimed: Row
    entry: int


@dataclass
class Game:
    """What is known of one dispute, event by event."""

    number: int
    challenger: bytes
    host: bytes
    leaf: bytes
    """Leaf hash of the receipt in its batch."""
    claim: Claim
    hashes: tuple[bytes, ...] = ()
    """The host's answer."""
    shown: dict[int, Row] = field(default_factory=dict)
    asked: int | None = None
    turn: Turn = Turn.HOST
    outcome: str = ""
    """Empty while it runs."""

    def answered(self, hashes: Sequence[bytes]) -> None:
        if len(hashes) != STEPS:
            raise MalformedMessageError(f"{len(hashes)} rows, a layer has {STEPS}")
        self.hashes, self.turn = tuple(hashes), Turn.CHALLENGER

    def row_asked(self, step: int) -> None:
        self.asked, self.turn = step, Turn.HOST

    def row_shown(self, step: int, row: Row) -> None:
        self.shown[step] = row
        self.asked, self.turn = None, Turn.CHALLENGER

    def closed(self, outcome: str) -> None:
        self.outcome, self.turn = outcome, Turn.NOBODY

    def unknown_step(self, own: Sequence[Row]) -> int | None:
        """The first row of the host that is neither the challenger's nor shown."""
        for step, (row, told) in enumerate(zip(own, self.hashes, strict=True)):
            if step not in self.shown and row.digest(step, self.claim) != told:
                return step
        return None

    def rows(self, own: Sequence[Row]) -> list[Row]:
        """The host's rows, once `unknown_step` is None."""
        return [self.shown.get(step, row) for step, row in enumerate(own)]


def trace_salt(salt: bytes, claim: Claim, step: int) -> bytes:
    """Salt of one row inside a layer, from the salt of the receipt; opens no other row."""
    place = _PLACE.pack(step, claim.layer, claim.case, claim.token)
    own = case_salt(salt, claim.case)
    return hashlib.sha256(_SALT_LABEL + own + place).digest()


def salted(
    rows: Sequence[tuple[int, bytes]], salt: bytes, claim: Claim
) -> tuple[Row, ...]:
    """The ten rows of (exponent, entries) under the receipt's salt."""
    return tuple(
        Row(trace_salt(salt, claim, step), exponent, entries)
        for step, (exponent, entries) in enumerate(rows)
    )


def claim_from(data: Mapping[str, Any]) -> Claim:
    """Out of the fields of the event that opens a dispute."""
    return Claim(
        model=bytes(data["model"]),
        before=bytes(data["before"]),
        afterwards=bytes(data["afterwards"]),
        cases=int(data["cases"]),
        tokens=int(data["tokens"]),
        width=int(data["width"]),
        layer=int(data["layer"]),
        case=int(data["caseNumber"]),
        token=int(data["token"]),
    )
