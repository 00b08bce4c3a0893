"""One file with everything an offline check needs (docs/verify.md §6).

A bundle is a canonical MessagePack message.  Every byte of it is covered by a signature, a
root or a proof, so no part can be changed into another bundle that passes.  Where the batch
root is anchored is for the reader to look up: a file cannot vouch for a chain.
"""

from node.verifier.replay import Model, Opened, Told, Verdict, audit, silent
from protocol.errors import MalformedMessageError
from protocol.receipt import BatchProof
from protocol.wire import Message, decode, encode

BUNDLE_LIMIT_BYTES = 1 << 30


class Bundle(Message, frozen=True, tag="rexis-bundle-1"):
    """A receipt, its place in a batch, rows to replay from, and the model or nothing."""

    receipt: bytes
    batch: bytes
    proof: BatchProof
    boundary: int
    """Where `rows` stand: 0 is the input, l is before layer l."""
    salt: bytes
    rows: bytes
    committed: bytes
    """The host's rows after the first wrong layer; empty in a bundle that should pass."""
    model: bytes
    """Bytes of the trunk or of one layer; empty where the reader brings the trunk."""


def write(bundle: Bundle) -> bytes:
    """The bytes of a bundle file."""
    data = encode(bundle)
    if len(data) > BUNDLE_LIMIT_BYTES:
        raise MalformedMessageError(
            f"bundle has {len(data)} bytes, limit is {BUNDLE_LIMIT_BYTES};"
            " leave the trunk out"
        )
    return data


def read(data: bytes) -> Bundle:
    """The bundle whose bytes these are; `MalformedMessageError` for all others."""
    return decode(data, Bundle, limit_bytes=BUNDLE_LIMIT_BYTES)


def check(bundle: Bundle, trunk: bytes = b"", told: Told = silent) -> Verdict:
    """Replay what the bundle holds; `trunk` stands in for a model left out.

    Raises `ProtocolError` or `IntegerModelError` where the bundle says nothing at all.
    """
    if bool(trunk) == bool(bundle.model):
        raise MalformedMessageError(
            "bundle holds the model already; leave --trunk out"
            if trunk
            else "bundle holds no model; give the trunk's file with --trunk"
        )
    model = Model.read(bundle.model or trunk)
    opened = Opened(bundle.boundary, bundle.salt, bundle.rows)
    about = (model, bundle.receipt, bundle.batch, bundle.proof, opened)
    verdict = audit(*about, told=told)
    if not bundle.committed:
        return verdict
    if verdict.fault is None or verdict.fault.kind != "layer" or not verdict.count:
        raise MalformedMessageError(
            "bundle shows committed rows, but no layer is wrong"
        )
    committed = Opened(verdict.fault.layer + 1, bundle.salt, bundle.committed)
    return audit(*about, committed, told=told)
