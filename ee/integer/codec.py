"""Canonical bytes of a trunk and of one of its layers, and the model root over them.

    trunk  = magic, header, layer 0, layer 1, …
    slice  = magic, header, u32 index, all layer roots, that layer
    header = op-spec digest, eight u32, two u64 and one u32 number, cos table, sin table,
             in op-spec 2 the activation table
    layer  = for q, k, v, o, gate, up, down: u8 shift, i32 multipliers, in op-spec 2 i32
             biases, i8 weights; a block that is not gated has no up; then the gains of a
             post-norm block: u8 shift, i32 multipliers, i32 biases

All little-endian, all lengths implied by the header, so a length is checked before
anything is allocated and every accepted byte string is the only one of its value.

The root of a layer is a Merkle tree (RFC 9162 shape) with one leaf for each output
channel: a single dot product can be opened against the model root.  This package does not
know `protocol`, so the few lines of the tree stand here too; a test holds them together.
"""

import hashlib
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ee.integer import bounds, spec
from ee.integer.block import LLAMA, Style
from ee.integer.errors import IntegerModelError, MalformedTrunkError
from ee.integer.linear import Gain, Matrix
from ee.integer.trunk import (
    Header,
    IntegerTrunk,
    Layer,
    RowArray,
    TrunkConfig,
)

TRUNK_MAGIC = b"rexis-integer-trunk-1\n"
SLICE_MAGIC = b"rexis-integer-slice-1\n"
_HEADER_MAGIC = b"rexis-integer-header-1\n"
_ROOT_LABEL = b"rexis-model-root-3"
_STOCK_LABEL = b"rexis-stock-root-2"
"""Of op-spec 2, whose numbers mean more and whose tables are more."""
ACTIVATION_ROW = 32
"""Entries of one leaf of the activation's table."""
_NUMBERS = struct.Struct("<8I2QI")
"""Sizes, `norm_bias`, `score_multiplier`, flags."""
_FLAGS = ("causal", "centred", "post", "rotary", "gated")
"""Bits of the last number, from the lowest; op-spec 1 has the first and no other."""
_INDEX = struct.Struct("<I")
_CHANNEL = struct.Struct("<BBII")
DIGEST_BYTES = 32


@dataclass(frozen=True)
class Slice:
    """One layer of a trunk with what ties it to the model root."""

    header: Header
    index: int
    layer_roots: tuple[bytes, ...]
    layer: Layer

    @property
    def model_root(self) -> bytes:
        """Root of the trunk this is a layer of."""
        return root_over_layers(self.header, self.layer_roots)

    def replay(self, rows: RowArray) -> RowArray:
        """Rows after this layer, given the rows before it."""
        return self.header.replay(self.layer, rows)


def encode(trunk: IntegerTrunk) -> bytes:
    """The bytes of a trunk; `IntegerModelError` if the op-spec does not cover it."""
    bounds.check_trunk(trunk)
    layers = [_layer_bytes(layer) for layer in trunk.layers]
    return b"".join([TRUNK_MAGIC, _header_bytes(trunk.header), *layers])


def decode(data: bytes) -> IntegerTrunk:
    """The trunk whose bytes these are; `MalformedTrunkError` for all others."""
    reader = _Reader(data, TRUNK_MAGIC)
    header = _header(reader)
    reader.expect(layer_size(header.config) * header.config.layers)
    layers = [_layer(reader, header.config) for _ in range(header.config.layers)]
    return IntegerTrunk(header, tuple(layers))


def encode_header(header: Header) -> bytes:
    """The bytes of what all layers share."""
    return _HEADER_MAGIC + _header_bytes(header)


def decode_header(data: bytes) -> Header:
    """The header whose bytes these are."""
    reader = _Reader(data, _HEADER_MAGIC)
    header = _header(reader)
    reader.expect(0)
    return header


def cut(trunk: IntegerTrunk, index: int) -> Slice:
    """Layer `index` as an auditor of that layer gets it."""
    trunk.require_layer(index)
    roots = tuple(layer_root(layer) for layer in trunk.layers)
    return Slice(trunk.header, index, roots, trunk.layers[index])


def encode_slice(part: Slice) -> bytes:
    """The bytes of one layer with the roots of all."""
    head = [SLICE_MAGIC, _header_bytes(part.header), _INDEX.pack(part.index)]
    return b"".join([*head, *part.layer_roots, _layer_bytes(part.layer)])


def decode_slice(data: bytes) -> Slice:
    """Checked against its own layer roots; the caller compares `model_root`."""
    reader = _Reader(data, SLICE_MAGIC)
    header = _header(reader)
    config = header.config
    reader.expect(
        _INDEX.size + config.layers * DIGEST_BYTES + layer_size(config),
    )
    (index,) = _INDEX.unpack(reader.take(_INDEX.size))
    roots = tuple(bytes(reader.take(DIGEST_BYTES)) for _ in range(config.layers))
    layer = _layer(reader, config)
    if index >= config.layers:
        raise MalformedTrunkError(f"slice {index} of a trunk of {config.layers} layers")
    if layer_root(layer) != roots[index]:
        raise MalformedTrunkError(
            f"layer {index} does not have the root it is listed by"
        )
    return Slice(header, index, roots, layer)


def model_root(trunk: IntegerTrunk) -> bytes:
    """What a receipt names and the chain anchors."""
    return root_over_layers(trunk.header, [layer_root(layer) for layer in trunk.layers])


def root_over_layers(header: Header, layer_roots: Sequence[bytes]) -> bytes:
    """The model root from the roots of its layers."""
    label = _ROOT_LABEL if header.config.op_spec == 1 else _STOCK_LABEL
    parts = [label, header_digest(header), *layer_roots]
    return hashlib.sha256(b"".join(parts)).digest()


def layer_root(layer: Layer) -> bytes:
    """Merkle root over the output channels of a layer, matrix by matrix."""
    return _merkle([digest for digest, _ in _channels(layer)])


@dataclass(frozen=True)
class ChannelOpening:
    """One output channel's leaf and its path to the root of its layer."""

    leaf: bytes
    index: int
    size: int
    path: tuple[bytes, ...]


def open_channel(layer: Layer, matrix: int, channel: int) -> ChannelOpening:
    """The leaf of `channel` of matrix number `matrix`, in the order of the bytes.

    A gain is one more matrix, behind the others.
    """
    parts: list[Matrix | Gain] = [*layer.matrices(), *layer.gains]
    outputs = [len(one.multiplier) for one in parts]
    if not (0 <= matrix < len(outputs) and 0 <= channel < outputs[matrix]):
        raise IntegerModelError(f"no channel {channel} of matrix {matrix}")
    index = sum(outputs[:matrix]) + channel
    digests, leaves = zip(*_channels(layer), strict=True)
    return ChannelOpening(
        bytes(leaves[index]), index, len(digests), tuple(_path(list(digests), index))
    )


@dataclass(frozen=True)
class TableOpening:
    """A row of a trunk's tables and its path to their root."""

    row: bytes
    path: tuple[bytes, ...]


def open_angles(header: Header, position: int) -> TableOpening:
    """Cosines, then sines, of `position`."""
    if not 0 <= position < len(header.cos):
        raise IntegerModelError(
            f"no position {position} in tables of {len(header.cos)}"
        )
    return _open_table(header, position)


def open_activation(header: Header, entry: int) -> TableOpening:
    """The row of ACT that has `entry`."""
    if header.activation is None or not 0 <= entry < len(header.activation):
        raise IntegerModelError(f"no entry {entry} in an activation table")
    return _open_table(header, len(header.cos) + entry // ACTIVATION_ROW)


def _open_table(header: Header, index: int) -> TableOpening:
    rows = _table_rows(header)
    digests = [hashlib.sha256(b"\x00" + row).digest() for row in rows]
    return TableOpening(rows[index], tuple(_path(digests, index)))


def header_digest(header: Header) -> bytes:
    """What stands for the header in the model root.

    The tables are long, so they stand in it by a root: the numbers can be shown alone, the angles
    of one position, some entries of the activation.
    """
    return hashlib.sha256(b"".join(header_parts(header))).digest()


def header_parts(header: Header) -> tuple[bytes, bytes]:
    """The header's numbers, and the root of its tables."""
    digests = [hashlib.sha256(b"\x00" + row).digest() for row in _table_rows(header)]
    return _numbers_bytes(header), _merkle(digests)


def _table_rows(header: Header) -> list[bytes]:
    """The angles of each position, then the activation, some entries a row."""
    pairs = zip(header.cos.astype("<i2"), header.sin.astype("<i2"), strict=True)
    angles = [cos.tobytes() + sin.tobytes() for cos, sin in pairs]
    if header.activation is None:
        return angles
    data, size = header.activation.astype("<u4").tobytes(), 4 * ACTIVATION_ROW
    return angles + [data[at : at + size] for at in range(0, len(data), size)]


def _channels(layer: Layer) -> Iterator[tuple[bytes, bytes]]:
    """Hash and bytes of every leaf: the matrices, then the gains of a post-norm block.

    A gain's entries are channels without weights.
    """
    parts: list[Matrix | Gain] = [*layer.matrices(), *layer.gains]
    for tag, part in enumerate(parts):
        outputs, inputs = (
            part.weight.shape if isinstance(part, Matrix) else (len(part.bias), 0)
        )
        multipliers = _words(part.multiplier)
        biases = b"" if part.bias is None else _words(part.bias)
        weights = part.weight.tobytes() if isinstance(part, Matrix) else b""
        for row in range(outputs):
            leaf = b"".join(
                [
                    _CHANNEL.pack(tag, part.shift, row, inputs),
                    multipliers[4 * row : 4 * row + 4],
                    biases[4 * row : 4 * row + 4],
                    weights[row * inputs : (row + 1) * inputs],
                ]
            )
            yield hashlib.sha256(b"\x00" + leaf).digest(), leaf


def _words(values: NDArray[Any]) -> bytes:
    return bytes(values.astype("<i4").tobytes())


def layer_size(config: TrunkConfig) -> int:
    """Length of one encoded layer."""
    word = 4 * config.op_spec  # a multiplier, and in op-spec 2 a bias
    shapes = config.matrix_shapes().values()
    matrices = sum(1 + outputs * (word + inputs) for outputs, inputs in shapes)
    return matrices + config.norms * (1 + 8 * config.width)


def _header_bytes(header: Header) -> bytes:
    return _numbers_bytes(header) + _tables_bytes(header)


def _numbers_bytes(header: Header) -> bytes:
    config = header.config
    sizes = [getattr(config, name) for name in bounds.LIMITS]
    digest = spec.op_spec_digest(config.op_spec)
    return digest + _NUMBERS.pack(*sizes, _flags_of(config))


def _flags_of(config: TrunkConfig) -> int:
    if config.op_spec == 1:
        return int(config.causal)
    style = config.style
    bits = (config.causal, style.centred, style.post, style.rotary, style.gated)
    return sum(bit << place for place, bit in enumerate(bits))


def _tables_bytes(header: Header) -> bytes:
    parts = [table.astype("<i2").tobytes() for table in (header.cos, header.sin)]
    if header.activation is not None:
        parts.append(header.activation.astype("<u4").tobytes())
    return b"".join(parts)


def _layer_bytes(layer: Layer) -> bytes:
    parts = []
    every: list[Matrix | Gain] = [*layer.matrices(), *layer.gains]
    for part in every:
        parts.append(bytes([part.shift]))
        parts.append(part.multiplier.astype("<i4").tobytes())
        if part.bias is not None:
            parts.append(part.bias.astype("<i4").tobytes())
        if isinstance(part, Matrix):
            parts.append(part.weight.tobytes())
    return b"".join(parts)


class _Reader:
    """Bytes from the left; the arrays it gives are read-only views of them."""

    def __init__(self, data: bytes, magic: bytes) -> None:
        self._data = memoryview(data)
        self._at = len(magic)
        if data[: len(magic)] != magic:
            raise MalformedTrunkError(
                f"bytes do not begin with {magic.decode().strip()}"
            )

    def expect(self, length: int) -> None:
        """Refuse unless exactly `length` bytes are left."""
        left = len(self._data) - self._at
        if left != length:
            raise MalformedTrunkError(f"{left} bytes follow the header, need {length}")

    def take(self, length: int) -> memoryview:
        if len(self._data) - self._at < length:
            raise MalformedTrunkError(
                f"bytes end at {len(self._data)}, need {self._at + length}"
            )
        self._at += length
        return self._data[self._at - length : self._at]

    def array(self, dtype: str, *shape: int) -> NDArray[Any]:
        """Of native byte order: a view where that is little, a copy elsewhere."""
        kind = np.dtype(dtype)
        length = kind.itemsize * math.prod(shape)
        flat = np.frombuffer(self.take(length), kind).reshape(shape)
        return flat.astype(kind.newbyteorder("="), copy=False)


def _header(reader: _Reader) -> Header:
    number = _op_spec(bytes(reader.take(DIGEST_BYTES)))
    *numbers, flags = _NUMBERS.unpack(reader.take(_NUMBERS.size))
    known = _FLAGS[:1] if number == 1 else _FLAGS
    if flags >> len(known):
        raise MalformedTrunkError(f"flags are {flags}, op-spec {number} has {known}")
    causal, *rest = (bool(flags >> place & 1) for place in range(len(known)))
    config = TrunkConfig(
        **dict(zip(bounds.LIMITS, numbers, strict=True)),
        causal=causal,
        op_spec=number,
        style=Style(*rest) if rest else LLAMA,
    )
    try:
        bounds.check_config(config)
        cos, sin = (reader.array("<i2", *config.table_shape) for _ in range(2))
        own = reader.array("<u4", spec.ACTIVATION_SIZE) if number > 1 else None
        header = Header(config, cos, sin, own)
        bounds.check_header(header)
    except IntegerModelError as error:
        raise MalformedTrunkError(str(error)) from error
    return header


def _op_spec(digest: bytes) -> int:
    """Which one a trunk is for."""
    for number in (1, 2):
        if digest == spec.op_spec_digest(number):
            return number
    raise MalformedTrunkError(
        f"trunk is for op-spec {digest.hex()[:16]},"
        f" this is {spec.op_spec_digest().hex()[:16]}"
        f" and {spec.op_spec_digest(2).hex()[:16]}"
    )


def _layer(reader: _Reader, config: TrunkConfig) -> Layer:
    biased = config.op_spec > 1
    matrices = {}
    for name, (outputs, inputs) in config.matrix_shapes().items():
        shift = reader.take(1)[0]
        multiplier = reader.array("<i4", outputs)
        bias = reader.array("<i4", outputs) if biased else None
        weight = reader.array("|i1", outputs, inputs)
        matrices[name] = Matrix(weight, multiplier, shift, bias)
    gains = []
    for _ in range(config.norms):
        shift = reader.take(1)[0]
        multiplier = reader.array("<i4", config.width)
        gains.append(Gain(multiplier, shift, reader.array("<i4", config.width)))
    layer = Layer.of(matrices, tuple(gains))
    try:
        bounds.check_layer(layer, config)
    except IntegerModelError as error:
        raise MalformedTrunkError(str(error)) from error
    return layer


def _merkle(level: list[bytes]) -> bytes:
    """RFC 9162's tree over hashed leaves."""
    while len(level) > 1:
        level = _above(level)
    return level[0]


def _path(level: list[bytes], index: int) -> Iterator[bytes]:
    """Siblings from leaf `index` up; an odd node has none."""
    while len(level) > 1:
        if index ^ 1 < len(level):
            yield level[index ^ 1]
        level, index = _above(level), index >> 1


def _above(level: list[bytes]) -> list[bytes]:
    """Pair neighbours, carry an odd one up."""
    odd = level[-1:] if len(level) % 2 else []
    pairs = zip(level[0::2], level[1::2], strict=False)
    return [hashlib.sha256(b"\x01" + a + b).digest() for a, b in pairs] + odd
