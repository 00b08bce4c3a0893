"""Canonical bytes of a trunk and of one of its layers, and the model root over them.

    trunk  = magic, header, layer 0, layer 1, …
    slice  = magic, header, index, all layer roots, that layer
    header = op-spec digest, eight u32 and two u64 numbers, cos table, sin table
    layer  = for q, k, v, o, gate, up, down: u8 shift, i32 multipliers, i8 weights

All little-endian, all lengths implied by the header, so a length is checked before
anything is allocated and every accepted byte string is the only one of its value.

The root of a layer is a Merkle tree (RFC 9162 shape) with one leaf for each output
channel: a single dot product can be opened against the model root.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import astuple, fields

from ee.integer import spec
from ee.integer.errors import IntegerModelError, MalformedTrunkError
from ee.integer.trunk import (
    Header,
    IntegerTrunk,
    Layer,
    Matrix,
    TrunkConfig,
)

_TRUNK_MAGIC = b"rexis-integer-trunk-1\n"
_SLICE_MAGIC = b"rexis-integer-slice-1\n"
_ROOT_LABEL = b"rexis-model-root-1"
_NUMBERS = struct.Struct("<8I2Q")
_DIGEST_BYTES = 32

SHIFT_LIMIT = 127
_LIMITS = {
    "layers": 1024,
    "width": 16_384,
    "inner": 65_536,
    "heads": 1024,
    "kv_heads": 1024,
    "head_dim": 1024,
    "tokens": 4096,
    "residual_bits": 20,
    "norm_bias": 1 << 60,
    "score_multiplier": 1 << 23,
}
"""Upper bounds (lower bound 1) under which every step stays in the ranges of `arith`;
the arithmetic is in docs/verify.md §3.  Larger models need a wider op-spec."""


def multiplier_limit(inputs: int, *, wide: bool) -> int:
    """The largest multiplier with which a product of `inputs` terms stays exact."""
    largest = (1 << spec.WIDE_BITS) if wide else 127
    return min(
        (1 << 23) - 1,
        (spec.ACCUMULATOR_LIMIT - 1) // (inputs * spec.WEIGHT_LIMIT * largest),
    )


def check(trunk: IntegerTrunk) -> None:
    """Raise unless `trunk` is within the op-spec; a decoded trunk always is."""
    try:
        if decode(encode(trunk)).config != trunk.config:
            raise IntegerModelError("trunk does not survive its own bytes")
    except (MalformedTrunkError, struct.error) as error:
        raise IntegerModelError(f"trunk is outside the op-spec: {error}") from error


def encode(trunk: IntegerTrunk) -> bytes:
    parts = [_TRUNK_MAGIC, encode_header(trunk.header)]
    parts += [encode_layer(layer) for layer in trunk.layers]
    return b"".join(parts)


def decode(data: bytes) -> IntegerTrunk:
    """The trunk whose bytes these are; `MalformedTrunkError` for all others."""
    reader = _Reader(data, _TRUNK_MAGIC)
    header = _read_header(reader)
    reader.expect(layer_bytes(header.config) * header.config.layers)
    layers = [_read_layer(reader, header.config) for _ in range(header.config.layers)]
    return IntegerTrunk(header, tuple(layers))


def encode_header(header: Header) -> bytes:
    numbers = _NUMBERS.pack(*astuple(header.config))
    tables = [table.astype("<i2").tobytes() for table in (header.cos, header.sin)]
    return b"".join([spec.op_spec_digest(), numbers, *tables])


def encode_layer(layer: Layer) -> bytes:
    parts = []
    for matrix in astuple_shallow(layer):
        parts.append(bytes([matrix.shift]))
        parts.append(matrix.multiplier.astype("<i4").tobytes())
        parts.append(matrix.weight.tobytes())
    return b"".join(parts)


def layer_bytes(config: TrunkConfig) -> int:
    """Length of one encoded layer."""
    shapes = config.matrix_shapes().values()
    return sum(1 + outputs * (4 + inputs) for outputs, inputs in shapes)


def layer_root(layer: Layer) -> bytes:
    """Merkle root over the output channels of a layer, matrix by matrix."""
    digests = []
    for tag, matrix in enumerate(astuple_shallow(layer)):
        outputs, inputs = matrix.weight.shape
        multipliers = matrix.multiplier.astype("<i4").tobytes()
        weights = memoryview(matrix.weight.tobytes())
        for row in range(outputs):
            place = struct.pack("<BBII", tag, matrix.shift, row, inputs)
            leaf = hashlib.sha256(b"\x00" + place + multipliers[4 * row : 4 * row + 4])
            leaf.update(weights[row * inputs : (row + 1) * inputs])
            digests.append(leaf.digest())
    return _merkle(digests)


def model_root(header: Header, layer_roots: Sequence[bytes]) -> bytes:
    """What a receipt names and the chain anchors."""
    head = hashlib.sha256(encode_header(header)).digest()
    return hashlib.sha256(b"".join([_ROOT_LABEL, head, *layer_roots])).digest()


def astuple_shallow(layer: Layer) -> tuple[Matrix, ...]:
    """The seven matrices in the order of the bytes."""
    return tuple(getattr(layer, field.name) for field in fields(layer))
