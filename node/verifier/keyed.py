"""Audit a layer with a secret key and without its weights (docs/verify.md §5.3).

A key is made once from a slice whose root was computed, and the slice is forgotten.  It is a
secret: whoever has it can make sums that pass.  What it finds convinces its holder alone, so a
layer that does not pass is replayed from its weights before anybody is accused.
"""

import numpy as np

from ee import integer
from ee.integer import Gain, freivalds
from ee.integer.errors import IntegerModelError
from node.verifier.replay import Model
from protocol.boundary import boundary_root
from protocol.errors import VerificationError
from protocol.evaluation import TraceAnswer
from protocol.receipt import BatchProof, open_receipt
from protocol.wire import Message, decode, encode

KEY_LIMIT_BYTES = 64 << 20


class _Part(Message, frozen=True, tag="key-part"):
    """One matrix's share of a key."""

    name: str
    scale: bytes
    vector: bytes
    bias: bytes
    """Empty: none."""


class _Gain(Message, frozen=True, tag="key-gain"):
    multiplier: bytes
    shift: int
    bias: bytes


class AuditKey(Message, frozen=True, tag="rexis-audit-key-1"):
    """A file of the auditor's; nobody else may read it."""

    header: bytes
    roots: tuple[bytes, ...]
    layer: int
    secret: bytes
    parts: tuple[_Part, ...]
    gains: tuple[_Gain, ...]


def key_of(model: Model, secret: bytes) -> bytes:
    """The key of the one layer that `model` holds, as bytes."""
    (layer,), index = model.layers, model.first
    made = freivalds.layer_key(layer, index, secret)
    parts = tuple(
        _Part(
            matrix.name,
            matrix.scale.astype("<f8").tobytes(),
            matrix.vector.astype("<i8").tobytes(),
            b"" if matrix.bias is None else matrix.bias.astype("<i4").tobytes(),
        )
        for matrix in made.matrices
    )
    gains = tuple(
        _Gain(
            gain.multiplier.astype("<i4").tobytes(),
            gain.shift,
            gain.bias.astype("<i4").tobytes(),
        )
        for gain in made.gains
    )
    header = integer.encode_header(model.header)
    return encode(AuditKey(header, model.roots, index, secret, parts, gains))


def read(data: bytes) -> AuditKey:
    """The key whose bytes these are."""
    return decode(data, AuditKey, limit_bytes=KEY_LIMIT_BYTES)


def check(
    key: AuditKey, sealed: bytes, batch: bytes, proof: BatchProof, answer: TraceAnswer
) -> str:
    """Why the layer of `key` does not pass; empty where it does.

    Raises `ProtocolError` or `IntegerModelError` where what was shown does not belong to the
    receipt, which says nothing about it.
    """
    proof.verify(batch, sealed)
    receipt, header = open_receipt(sealed), integer.decode_header(key.header)
    root = integer.root_over_layers(header, key.roots)
    if root != receipt.model_root:
        raise VerificationError("model root", receipt.model_root.hex(), root.hex())
    shape = receipt.order.shape
    if receipt.layers != header.config.layers or shape[2] != header.config.width:
        return "the receipt has another shape than its model"
    found = boundary_root(answer.rows, shape, key.layer, answer.salt)
    if found != receipt.roots[key.layer]:
        expected = receipt.roots[key.layer].hex()
        raise VerificationError("root of the rows", expected, found.hex())
    own = _layer_key(key)
    try:
        rows = integer.unpack_rows(answer.rows, shape)
        sums = freivalds.unpack_sums(own, answer.sums, shape[0] * shape[1])
        after = integer.pack_rows(freivalds.checked(header, own, rows, sums))
    except IntegerModelError as error:
        return str(error)
    root = boundary_root(after, shape, key.layer + 1, answer.salt)
    if root != receipt.roots[key.layer + 1]:
        return f"rows after layer {key.layer} are not what its sums make"
    return ""


def _layer_key(key: AuditKey) -> freivalds.LayerKey:
    return freivalds.LayerKey(
        key.layer,
        key.secret,
        tuple(
            freivalds.MatrixKey(
                np.frombuffer(part.scale, "<f8"),
                np.frombuffer(part.vector, "<i8"),
                part.name,
                np.frombuffer(part.bias, "<i4") if part.bias else None,
            )
            for part in key.parts
        ),
        tuple(
            Gain(
                np.frombuffer(gain.multiplier, "<i4"),
                gain.shift,
                np.frombuffer(gain.bias, "<i4"),
            )
            for gain in key.gains
        ),
    )
