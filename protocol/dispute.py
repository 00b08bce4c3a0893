"""A dispute about one token's row after one layer, proved to a contract (docs/verify.md §10).

The host answers with the roots of the parts inside the layer.  Each part follows from those
before it, so whoever holds the model and the rows before the layer computes them all, finds
the first that differs and in it the first number, and shows what makes that number another.
What is here is the bytes that the contract reads and who moves next; the arithmetic is
`ee.integer`'s.
"""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from protocol import merkle
from protocol.boundary import RowOpening, case_salt
from protocol.errors import MalformedMessageError
from protocol.types import DIGEST_BYTES, Digest


class Part(IntEnum):
    """Parts of a layer, each made of those before it; the contract's numbers."""

    BASE = 0
    """What the gains of a post-norm block make of its rows; other blocks have neither base."""
    NORM = 1
    QUERY = 2
    KEY = 3
    VALUE = 4
    COLUMN = 5
    SCORE = 6
    MIXED = 7
    MIXED_TOP = 8
    MIXED_ROW = 9
    MIDDLE = 10
    BASE2 = 11
    NORM2 = 12
    GATE = 13
    UP = 14
    PRODUCT = 15
    PRODUCT_TOP = 16
    WIDE = 17
    AFTER = 18
    """The row after the layer, which stands in the receipt and in no answer."""


PARTS = 18
CAUSAL, CENTRED, POST, ROTARY, GATED, STOCK = (1 << place for place in range(6))
"""What a claim says of its model's blocks; the last is no trunk's, and says op-spec 2."""
SPAN = 5
"""Levels of a part's tree that a host shows at once."""

_LABEL = b"rexis-trace-3"
_SALT_LABEL = b"rexis-trace-salt-3"
_PLACE = struct.Struct(">BIIII")


class Turn(IntEnum):
    """Who must move; the contract's order."""

    HOST = 0
    CHALLENGER = 1
    NOBODY = 2


@dataclass(frozen=True)
class Claim:
    """Which row of which model is disputed; the contract's order of fields."""

    model: bytes
    before: bytes
    """Boundary root of the rows before the layer."""
    afterwards: bytes
    layer_root: bytes
    tables: bytes
    cases: int
    tokens: int
    width: int
    layer: int
    case_number: int
    token: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    positions: int
    flags: int
    """Bits of the model's last number: `GATED` and those beside it."""
    bias: int
    multiplier: int


_CLAIM_FIELDS = (
    *("model", "before", "afterwards", "layerRoot", "tables"),
    *("cases", "tokens", "width", "layer", "caseNumber", "token"),
    *("inner", "heads", "kvHeads", "headDim", "positions"),
    *("flags", "bias", "multiplier"),
)


@dataclass(frozen=True)
class Leaf:
    """A leaf of a part, and its way up to what the host answered."""

    salt: bytes
    entries: bytes
    path: tuple[bytes, ...]

    def digest(self, claim: Claim, part: int, index: int) -> Digest:
        """What stands for it in its part's tree."""
        place = _place(claim, part, index)
        return merkle.leaf_digest(_LABEL + place + self.salt + self.entries)


NO_LEAF = Leaf(bytes(DIGEST_BYTES), b"", ())
NO_ROW = RowOpening(bytes(DIGEST_BYTES), b"", (), ())
"""Where a number is not made of a row between layers."""


@dataclass(frozen=True)
class Trunk:
    """What an accusation needs of the model: its way into the model root."""

    numbers: bytes
    tables: bytes
    layers: tuple[bytes, ...]


@dataclass(frozen=True)
class Channel:
    """One output channel of a matrix, and its way up to the layer's root."""

    index: int
    size: int
    path: tuple[bytes, ...]
    leaf: bytes


NO_CHANNEL = Channel(0, 0, (), b"")


@dataclass(frozen=True)
class Table:
    """A row of the model's tables, and its way up to their root."""

    row: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True)
class Proof:
    """One wrong number, as the contract takes it."""

    part: int
    index: int
    """Which leaf of the part."""
    place: int
    """Which entry of the leaf."""
    claimed: Leaf
    inputs: tuple[Leaf, ...] = ()
    boundary: RowOpening = NO_ROW
    channel: Channel = NO_CHANNEL
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class SaltProof:
    """A leaf with another salt than its place gives it."""

    part: int
    index: int
    leaf: Leaf
    case_salt: bytes
    before: RowOpening
    """The claim's row before the layer, whose salt says that `case_salt` is the one."""


class Trace:
    """All parts of a claim, as trees."""

    def __init__(
        self, claim: Claim, salt: bytes, entries: Sequence[Sequence[bytes]]
    ) -> None:
        """`entries` are the leaves of every part, `salt` is the receipt's.

        A part that the model's blocks do not have has no leaves, and nothing as its root.
        """
        if len(entries) != PARTS:
            raise MalformedMessageError(f"{len(entries)} parts, a layer has {PARTS}")
        self._entries = entries
        own = case_salt(salt, claim.case_number)
        self._salts = [
            [leaf_salt(own, claim, part, index) for index in range(len(leaves))]
            for part, leaves in enumerate(entries)
        ]
        self._levels = [
            merkle.levels(
                [
                    Leaf(salt, leaf, ()).digest(claim, part, index)
                    for index, (salt, leaf) in enumerate(
                        zip(salts, leaves, strict=True)
                    )
                ]
                or [bytes(DIGEST_BYTES)]
            )
            for part, (salts, leaves) in enumerate(
                zip(self._salts, entries, strict=True)
            )
        ]

    @property
    def roots(self) -> tuple[bytes, ...]:
        return tuple(levels[-1][0] for levels in self._levels)

    def has(self, part: int) -> bool:
        """Do the model's blocks have this part?"""
        return bool(self._entries[part])

    def height(self, part: int) -> int:
        """Levels above the leaves."""
        return len(self._levels[part]) - 1

    def leaf(self, part: int, index: int) -> Leaf:
        path = merkle.proof_of_digests(self._levels[part][0], index)
        return Leaf(self._salts[part][index], self._entries[part][index], tuple(path))

    def below(self, part: int, level: int, index: int) -> tuple[bytes, ...]:
        """Nodes `SPAN` levels below a node, or the leaves' hashes."""
        lower = max(0, level - SPAN)
        first = index << (level - lower)
        return tuple(self._level(part, lower)[first : first + (1 << (level - lower))])

    def path(self, part: int, level: int, index: int) -> tuple[bytes, ...]:
        """From a node to the part's root."""
        return tuple(merkle.proof_of_digests(self._level(part, level), index))

    def _level(self, part: int, level: int) -> list[bytes]:
        """Above the root there is the root."""
        levels = self._levels[part]
        return levels[min(level, len(levels) - 1)]


@dataclass(frozen=True)
class Asked:
    """What a host is to show: a leaf (level 0), or what is below a node."""

    part: int
    level: int
    index: int


@dataclass
class Game:
    """What is known of one dispute, event by event."""

    number: int
    challenger: bytes
    host: bytes
    leaf: bytes
    """Leaf hash of the receipt in its batch."""
    claim: Claim
    roots: tuple[bytes, ...] = ()
    """The host's answer."""
    nodes: dict[str, tuple[bytes, ...]] = field(default_factory=dict)
    """What was shown below nodes, by `_named`."""
    leaves: dict[str, Leaf] = field(default_factory=dict)
    asked: Asked | None = None
    turn: Turn = Turn.HOST
    deadline: int = 0
    """Of the move that is awaited, in Unix seconds of the chain; with `turn` it names that move."""
    outcome: str = ""
    """Empty while it runs."""

    def answered(self, roots: Sequence[bytes]) -> None:
        if len(roots) != PARTS:
            raise MalformedMessageError(
                f"{len(roots)} roots, a layer has {PARTS} parts"
            )
        self.roots, self.turn = tuple(roots), Turn.CHALLENGER

    def part_asked(self, asked: Asked) -> None:
        self.asked, self.turn = asked, Turn.HOST

    def nodes_shown(self, asked: Asked, nodes: Sequence[bytes]) -> None:
        self.nodes[_named(asked)] = tuple(nodes)
        self.asked, self.turn = None, Turn.CHALLENGER

    def leaf_shown(self, part: int, index: int, leaf: Leaf) -> None:
        self.leaves[_named(Asked(part, 0, index))] = leaf
        self.asked, self.turn = None, Turn.CHALLENGER

    def closed(self, outcome: str) -> None:
        self.outcome, self.turn = outcome, Turn.NOBODY

    def wrong_part(self, own: Trace) -> int:
        """The first part of the host's that is not the challenger's; else `Part.AFTER`."""
        differing = (
            part
            for part, (mine, told) in enumerate(zip(own.roots, self.roots, strict=True))
            if mine != told and own.has(part)
        )
        return next(differing, Part.AFTER)

    def wrong_leaf(self, own: Trace, part: int) -> Asked | tuple[int, Leaf]:
        """Down the tree of a part that differs, to its first leaf that does.

        Either what to ask for next, or that leaf's index and the leaf.
        """
        level, index = own.height(part), 0
        while level:
            asked = Asked(part, level, index)
            told = self.nodes.get(_named(asked))
            if told is None:
                return asked
            mine = own.below(part, level, index)
            child = next(
                i
                for i, pair in enumerate(zip(mine, told, strict=True))
                if pair[0] != pair[1]
            )
            index = (index << min(level, SPAN)) + child
            level = max(0, level - SPAN)
        asked = Asked(part, 0, index)
        shown = self.leaves.get(_named(asked))
        return asked if shown is None else (index, shown)


def leaf_salt(own: bytes, claim: Claim, part: int, index: int) -> bytes:
    """Salt of one leaf, from the salt of its case; opens no other leaf."""
    return hashlib.sha256(_SALT_LABEL + own + _place(claim, part, index)).digest()


def claim_from(data: Mapping[str, Any]) -> Claim:
    """Out of the fields of the event that opens a dispute."""
    found = [data[name] for name in _CLAIM_FIELDS]
    values: list[Any] = [bytes(v) if isinstance(v, bytes) else v for v in found]
    return Claim(*values)


def _place(claim: Claim, part: int, index: int) -> bytes:
    return _PLACE.pack(part, claim.layer, claim.case_number, claim.token, index)


def _named(asked: Asked) -> str:
    return f"{asked.part} {asked.level} {asked.index}"
