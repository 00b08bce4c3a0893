"""Check a layer without its weights, by one secret random vector per matrix (docs/verify.md §5.3).

An auditor streams the authentic weights once, keeps W^T r mod p for a secret r of its own,
and forgets W.  Whoever computed a layer then shows the sums of its seven products; the
auditor tests each row of sums a against the row q it must come from, by

    a . r == q . (W^T r)   mod p = 2^61 - 1,

and computes every other step itself.  A wrong row passes with probability 1/p (2^-61), a
layer of n rows with at most 7n/p, whoever chose the sums; but r must stay secret, so a failed
test convinces its auditor and nobody else.  It is turned into evidence by a replay.

Field vectors go through float64 products in limbs: 21 bits of r by 16 bits of a or 14 of q
by at most 2^16 terms stay below 2^53, so the sums are exact in any order.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ee.integer.arith import Floats
from ee.integer.block import StandIn
from ee.integer.errors import IntegerModelError
from ee.integer.linear import Gain, Matrix, rescaled
from ee.integer.ops import Rows
from ee.integer.trunk import Header, Layer, RowArray

P = (1 << 61) - 1
_LIMB_BITS, _LIMBS = 21, 3
_TERMS_LIMIT = 1 << 16
SUM_LIMIT = 1 << 46
"""No honest sum is larger: 8192 * 63 * 65536 < 2^45.  Larger ones are refused, because the
limbs are exact up to here only."""
SECRET_BYTES = 32
_SUM_BYTES = {"down": 6}
"""Bytes of a packed sum, little-endian: 127 * 63 * 65536 fits the four of all other matrices."""


class WrongSumError(IntegerModelError):
    """The sums shown for a matrix are not its product with the rows."""

    def __init__(self, matrix: str, row: int) -> None:
        super().__init__(f"sums of {matrix} are wrong in row {row}")
        self.matrix = matrix
        self.row = row


@dataclass(frozen=True)
class MatrixKey:
    """What an auditor keeps of one matrix."""

    scale: Floats
    """m * 2^-shift of every output channel."""
    vector: NDArray[np.int64]
    """W^T r mod p, one number an input."""
    name: str
    bias: NDArray[np.int32] | None


@dataclass(frozen=True)
class LayerKey:
    """What an auditor keeps of one layer; secret, because r follows from `secret`."""

    index: int
    secret: bytes
    matrices: tuple[MatrixKey, ...]
    gains: tuple[Gain, ...]

    @property
    def size_bytes(self) -> int:
        """Of the vectors, the scales and what else a trunk adds."""
        vectors = sum(8 * (len(m.vector) + len(m.scale)) for m in self.matrices)
        biases = sum(4 * len(m.scale) for m in self.matrices if m.bias is not None)
        return vectors + biases + sum(8 * len(gain.bias) for gain in self.gains)


Sums = tuple[NDArray[np.int64], ...]
"""(rows, outputs) of every matrix, in the order of the bytes: what a host shows of a layer."""


def layer_key(layer: Layer, index: int, secret: bytes) -> LayerKey:
    """The key of one layer under `secret`, 32 bytes no host ever sees."""
    if len(secret) != SECRET_BYTES:
        raise IntegerModelError(f"secret has {len(secret)} bytes, needs {SECRET_BYTES}")
    matrices = []
    for place, (name, matrix) in enumerate(layer.named()):
        if max(matrix.weight.shape) > _TERMS_LIMIT:
            raise IntegerModelError(
                f"matrix of {matrix.weight.shape}, limit is {_TERMS_LIMIT} a side"
            )
        r = _drawn(secret, index, place, len(matrix.weight))
        vector = _field_products(matrix.weight.T.astype(np.float64), r)
        field = np.array(vector, dtype=np.int64)
        matrices.append(MatrixKey(matrix.scale, field, name, matrix.bias))
    return LayerKey(index, secret, tuple(matrices), layer.gains)


def shown(header: Header, layer: Layer, rows: RowArray) -> tuple[RowArray, Sums]:
    """The host's side: rows after the layer, and the sums behind them."""
    recorders = [_Recorder(matrix) for matrix in layer.matrices()]
    after = header.replay(StandIn.of(recorders, layer.gains), rows)
    return after, tuple(recorder.sums for recorder in recorders)


def checked(header: Header, key: LayerKey, rows: RowArray, sums: Sums) -> RowArray:
    """The auditor's side: rows after the layer; `WrongSumError` names a wrong matrix.

    The caller compares the root of what comes back with the one the host signed.
    """
    if len(sums) != len(key.matrices):
        raise IntegerModelError(
            f"sums of {len(sums)} matrices, need {len(key.matrices)}"
        )
    checkers = [_Checker(key, place, claimed) for place, claimed in enumerate(sums)]
    return header.replay(StandIn.of(checkers, key.gains), rows)


def pack_sums(layer: Layer, sums: Sums) -> tuple[bytes, ...]:
    """Sums as they travel, a byte string for each matrix."""
    packed = []
    for (name, _), found in zip(layer.named(), sums, strict=True):
        words = np.ascontiguousarray(found, "<i8").view(np.uint8).reshape(-1, 8)
        packed.append(words[:, : _SUM_BYTES.get(name, 4)].tobytes())
    return tuple(packed)


def sums_bytes(layer: Layer, rows: int) -> int:
    """How long the packed sums of `rows` rows are, before there are any."""
    outputs = ((name, len(matrix.weight)) for name, matrix in layer.named())
    return rows * sum(_SUM_BYTES.get(name, 4) * count for name, count in outputs)


def unpack_sums(key: LayerKey, packed: Sequence[bytes], rows: int) -> Sums:
    """The inverse for `rows` rows; lengths are checked before anything is allocated."""
    if len(packed) != len(key.matrices):
        raise IntegerModelError(
            f"sums of {len(packed)} matrices, need {len(key.matrices)}"
        )
    found = []
    for matrix, data in zip(key.matrices, packed, strict=True):
        size, outputs = _SUM_BYTES.get(matrix.name, 4), len(matrix.scale)
        if len(data) != size * rows * outputs:
            raise IntegerModelError(
                f"sums of {matrix.name} have {len(data)} bytes,"
                f" need {size * rows * outputs}"
            )
        words = np.zeros((rows * outputs, 8), np.uint8)
        words[:, 8 - size :] = np.frombuffer(data, np.uint8).reshape(-1, size)
        wide = words.view("<i8") >> (64 - 8 * size)
        found.append(wide.astype(np.int64).reshape(rows, outputs))
    return tuple(found)


def error_bits(rows: int, layers: int) -> int:
    """A wrong layer among these passes with probability 2^-this at most.

    Seven tests a row, each passed with 1/p, and one bit for r that is 0 twice as often.
    """
    return 60 - (7 * rows * layers).bit_length()


class _Recorder:
    """A matrix that keeps its sums."""

    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix
        self.sums: NDArray[np.int64] = np.zeros((0, 0), np.int64)

    def apply(self, rows: Rows, limit: int) -> Floats:
        return self._rescaled(self._matrix.sums(rows), rows, limit)

    def apply_wide(self, rows: Rows, limit: int) -> Floats:
        return self._rescaled(self._matrix.sums_wide(rows), rows, limit)

    def _rescaled(self, sums: NDArray[Any], rows: Rows, limit: int) -> Floats:
        self.sums = sums.astype(np.int64)
        matrix = self._matrix
        return rescaled(sums, matrix.scale, rows, limit, matrix.bias)


class _Checker:
    """Somebody's sums in place of a matrix, believed row by row."""

    def __init__(self, key: LayerKey, place: int, sums: NDArray[np.int64]) -> None:
        self._key, self._place, self._sums = key, place, sums

    def apply(self, rows: Rows, limit: int) -> Floats:
        matrix, sums = self._key.matrices[self._place], self._sums
        name = matrix.name
        if sums.shape != (len(rows.q), len(matrix.scale)) or sums.dtype != np.int64:
            raise IntegerModelError(
                f"sums of {name} are {sums.dtype} {sums.shape}, need int64"
                f" {(len(rows.q), len(matrix.scale))}"
            )
        if max(int(sums.max()), -int(sums.min())) >= SUM_LIMIT:
            raise IntegerModelError(f"a sum of {name} is beyond {SUM_LIMIT}")
        r = _drawn(self._key.secret, self._key.index, self._place, len(matrix.scale))
        expected = _field_products(rows.q, matrix.vector)
        pairs = zip(_sum_products(sums, r), expected, strict=True)
        for row, (found, wanted) in enumerate(pairs):
            if found != wanted:
                raise WrongSumError(name, row)
        wide = sums.astype(np.float64)
        return rescaled(wide, matrix.scale, rows, limit, matrix.bias)

    apply_wide = apply


def _drawn(secret: bytes, index: int, place: int, count: int) -> NDArray[np.int64]:
    """r: 61 bits a number, so 0 comes twice as often as any other value mod p."""
    label = b"rexis-freivalds-1" + secret + index.to_bytes(4, "big") + bytes([place])
    words = np.frombuffer(hashlib.shake_256(label).digest(8 * count), "<u8")
    return (words & np.uint64(P)).astype(np.int64)


def _sum_products(sums: NDArray[np.int64], vector: NDArray[np.int64]) -> list[int]:
    """Sums . vector mod p, the sums cut into 16, 16 and 14 signed bits."""
    low, middle, high = (
        _field_products(cut.astype(np.float64), vector)
        for cut in (sums & 0xFFFF, (sums >> 16) & 0xFFFF, sums >> 32)
    )
    triples = zip(low, middle, high, strict=True)
    return [(a + (b << 16) + (c << 32)) % P for a, b, c in triples]


def _field_products(left: Floats, vector: NDArray[np.int64]) -> list[int]:
    """Left . vector mod p for integers |left| <= 2^16 and at most 2^16 terms."""
    shifts = np.arange(_LIMBS) * _LIMB_BITS
    limbs = (vector[:, None] >> shifts) & ((1 << _LIMB_BITS) - 1)
    parts = (left @ limbs.astype(np.float64)).astype(np.int64).tolist()
    return [(a + (b << 21) + (c << 42)) % P for a, b, c in parts]
