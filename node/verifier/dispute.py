"""Find the first number of a host's answer that its own rows and the model contradict.

Each part of a layer follows from those before it, so the first part whose root is not the one
computed here is wrong in itself, and everything it is made of is as it was computed here.
"""

from dataclasses import dataclass

from ee import integer
from node.verifier.replay import Model
from protocol.boundary import RowOpening, Shape, case_salt, open_row
from protocol.dispute import (
    GATED,
    NO_CHANNEL,
    NO_LEAF,
    NO_ROW,
    POST,
    ROTARY,
    STOCK,
    Asked,
    Channel,
    Claim,
    Game,
    Leaf,
    Part,
    Proof,
    SaltProof,
    Table,
    Trace,
    Trunk,
)

# Matrix that writes a part, in the order of the bytes of a layer; from the end where a block that
# is not gated has one less.
_MATRIX = {
    Part.QUERY: 0,
    Part.KEY: 1,
    Part.VALUE: 2,
    Part.MIDDLE: 3,
    Part.GATE: 4,
    Part.UP: 5,
    Part.AFTER: -1,
}
# The gains behind the matrices.
_GAIN = {Part.BASE: 0, Part.BASE2: 1}
# Parts with an exponent before their entries; bytes of an entry where it is not four.
_SHORT = (Part.NORM, Part.MIXED_ROW, Part.NORM2, Part.WIDE)
_ENTRY_BYTES = {
    Part.BASE: integer.ENTRY_BYTES,
    Part.BASE2: integer.ENTRY_BYTES,
    Part.NORM: 1,
    Part.MIXED_ROW: 1,
    Part.NORM2: 1,
    Part.WIDE: 2,
    Part.MIXED_TOP: 8,
    Part.PRODUCT: 8,
    Part.PRODUCT_TOP: 8,
    Part.AFTER: integer.ENTRY_BYTES,
}


TRANSACTION_LIMIT_BYTES = 128 << 10
"""What nodes of a public chain take as one transaction."""
FRAME_BYTES = 8 << 10
"""Of a proof, beside entries and weights: claim, roots, and paths of at most 25 hashes."""


def require_provable(config: integer.TrunkConfig) -> None:
    """Raise `IntegerModelError` where the longest proof does not fit a transaction.

    That is a number of the row after the layer, made of rows of the inner width, its weights and
    two rows of the width; or one of the row between, made of all heads' instead.
    """
    rows = max(3 * config.inner, 2 * config.heads * config.head_dim) + 7 * config.width
    if rows + FRAME_BYTES > TRANSACTION_LIMIT_BYTES:
        raise integer.IntegerModelError(
            f"a proof about a layer {config.width} wide inside {config.inner} has"
            f" {rows + FRAME_BYTES} bytes, a transaction takes {TRANSACTION_LIMIT_BYTES}"
        )


def trunk_of(model: Model) -> Trunk:
    """What says that a claim's numbers are the model's."""
    return Trunk(*integer.header_parts(model.header), model.roots)


@dataclass(frozen=True)
class Prosecutor:
    """A claim, the model, and the receipt's rows around the claim's layer."""

    model: Model
    claim: Claim
    salt: bytes
    before: bytes
    """All packed rows before the layer."""
    after: bytes = b""
    """Those after it, as the host has them; not needed to answer."""

    def trace(self) -> Trace:
        """The parts of the claim, as the model has them."""
        return traced(self.model, self.claim, self.salt, self.before)

    def move(self, game: Game) -> Asked | Proof | SaltProof:
        """What to ask the host for, or what to show the contract."""
        own = self.trace()
        part = Part(game.wrong_part(own))
        if part is Part.AFTER:
            return self.proof(own, part, 0, self._wrong_place(), NO_LEAF)
        found = game.wrong_leaf(own, part)
        return found if isinstance(found, Asked) else self.against(own, part, *found)

    def against(
        self, own: Trace, part: Part, index: int, told: Leaf
    ) -> Proof | SaltProof:
        """What shows that a leaf which is not `own`'s is wrong."""
        mine, claim = own.leaf(part, index), self.claim
        if told.salt != mine.salt:
            before = self.before_row(claim.token)
            return SaltProof(part, index, told, self.case_salt, before)
        place = _differing(claim, part, mine.entries, told.entries)
        return self.proof(own, part, index, place, told)

    def proof(
        self, own: Trace, part: Part, index: int, place: int, told: Leaf
    ) -> Proof:
        """What entry `place` of leaf `index` is to be computed from."""
        claim = self.claim
        boundary, post = NO_ROW, bool(claim.flags & POST)
        if part is Part.BASE or (part is Part.NORM and not post):
            boundary = self.before_row(index)
        elif part is Part.MIDDLE and not post:
            boundary = self.before_row(claim.token)
        elif part is Part.AFTER:
            boundary = self._row(self.after, claim.layer + 1, claim.token)
        tables: tuple[Table, ...] = ()
        if part is Part.SCORE and claim.flags & ROTARY:
            tables = self._angles(claim.token), self._angles(place)
        elif part is Part.PRODUCT and claim.flags & STOCK:
            tables = (self._activation(own.leaf(Part.GATE, index).entries, place),)
        inputs = _inputs(claim, part, index, place)
        return Proof(
            *(int(part), index, place, told),
            tuple(own.leaf(*one) for one in inputs),
            boundary,
            self._channel(part, index, place),
            tables,
        )

    def before_row(self, token: int) -> RowOpening:
        """A token's row before the layer, out of the receipt."""
        return self._row(self.before, self.claim.layer, token)

    @property
    def case_salt(self) -> bytes:
        return case_salt(self.salt, self.claim.case_number)

    def _wrong_place(self) -> int:
        """First entry of the host's row after the layer that is not the model's."""
        claim = self.claim
        told = self._row(self.after, claim.layer + 1, claim.token).row
        own = _case_rows(claim, self.before)
        layer = self.model.layers[claim.layer - self.model.first]
        mine = self.model.header.replay(layer, own)[:, claim.token]
        return _differing(claim, Part.AFTER, integer.pack_rows(mine), told)

    def _channel(self, part: Part, index: int, place: int) -> Channel:
        if part not in _MATRIX and part not in _GAIN:
            return NO_CHANNEL
        claim = self.claim
        if part in (Part.GATE, Part.UP):
            number = integer.BLOCK * index + place
        elif part is Part.QUERY:
            number = index * claim.head_dim + place
        elif part in (Part.KEY, Part.VALUE):
            number = index % claim.kv_heads * claim.head_dim + place
        else:
            number = place
        layer = self.model.layers[claim.layer - self.model.first]
        count = len(layer.matrices())
        matrix = count + _GAIN[part] if part in _GAIN else _MATRIX[part] % count
        opened = integer.open_channel(layer, matrix, number)
        return Channel(opened.index, opened.size, opened.path, opened.leaf)

    def _angles(self, token: int) -> Table:
        opened = integer.open_angles(self.model.header, token)
        return Table(opened.row, opened.path)

    def _activation(self, gates: bytes, place: int) -> Table:
        """What the activation makes of one number of a leaf of the gate's."""
        gate = int.from_bytes(gates[4 * place : 4 * place + 4], "big", signed=True)
        entry = integer.activation_entry(gate)
        opened = integer.open_activation(self.model.header, entry)
        return Table(opened.row, opened.path)

    def _row(self, rows: bytes, boundary: int, token: int) -> RowOpening:
        claim = self.claim
        about = (boundary, self.salt, claim.case_number, token)
        return open_row(rows, _shape(claim), *about)


def traced(model: Model, claim: Claim, salt: bytes, before: bytes) -> Trace:
    """All parts of a claim, from all packed rows before its layer."""
    layer = model.layers[claim.layer - model.first]
    part = _case_rows(claim, before)
    found = integer.trace_token(model.header, layer, part, claim.token)
    return Trace(claim, salt, found)


def _inputs(
    claim: Claim, part: Part, index: int, place: int
) -> tuple[tuple[Part, int], ...]:
    """Leaves of earlier parts that a number is made of, as the contract wants them."""
    dim, kv, post = claim.head_dim, claim.kv_heads, claim.flags & POST
    if part is Part.NORM:
        return ((Part.BASE, index),) if post else ()
    if part is Part.QUERY:
        return ((Part.NORM, claim.token),)
    if part in (Part.KEY, Part.VALUE):
        return ((Part.NORM, index // kv),)
    if part is Part.COLUMN:
        return ((Part.VALUE, place * kv + index // dim),)
    if part is Part.SCORE:
        group = index * kv // claim.heads
        return (Part.QUERY, index), (Part.KEY, place * kv + group)
    if part is Part.MIXED:
        head, number = divmod(integer.BLOCK * index + place, dim)
        return (Part.SCORE, head), (
            Part.COLUMN,
            head * kv // claim.heads * dim + number,
        )
    block = place // integer.BLOCK
    return {
        Part.BASE: (),
        Part.MIXED_TOP: ((Part.MIXED, place),),
        Part.MIXED_ROW: ((Part.MIXED, block), (Part.MIXED_TOP, 0)),
        Part.MIDDLE: (
            (Part.MIXED_ROW, 0),
            *([(Part.BASE, claim.token)] if post else ()),
        ),
        Part.BASE2: ((Part.MIDDLE, 0),),
        Part.NORM2: ((Part.BASE2 if post else Part.MIDDLE, 0),),
        Part.GATE: ((Part.NORM2, 0),),
        Part.UP: ((Part.NORM2, 0),),
        Part.PRODUCT: tuple(
            (one, index)
            for one in (Part.GATE, Part.UP)
            if one is Part.GATE or claim.flags & GATED
        ),
        Part.PRODUCT_TOP: ((Part.PRODUCT, place),),
        Part.WIDE: ((Part.PRODUCT, block), (Part.PRODUCT_TOP, 0)),
        Part.AFTER: ((Part.WIDE, 0), (Part.BASE2 if post else Part.MIDDLE, 0)),
    }[part]


def _differing(claim: Claim, part: Part, mine: bytes, told: bytes) -> int:
    """First entry that differs; 0 where length or exponent does, which is wrong of itself."""
    if len(mine) != len(told):
        return 0
    at = next(i for i, (a, b) in enumerate(zip(mine, told, strict=True)) if a != b)
    if part is Part.COLUMN:
        return at % claim.tokens
    return max(0, at - (part in _SHORT)) // _ENTRY_BYTES.get(part, 4)


def _case_rows(claim: Claim, before: bytes) -> integer.RowArray:
    case = claim.case_number
    return integer.unpack_rows(before, _shape(claim))[case : case + 1]


def _shape(claim: Claim) -> Shape:
    return claim.cases, claim.tokens, claim.width
