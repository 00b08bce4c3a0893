"""One case of a receipt, shown without the others (docs/verify.md §6.1).

A requester that had many cases answered in one order can show a regulator one of them: its
rows in, its rows out, and the proofs that both stand under roots the host signed.  Sequences
do not see each other, so with the trunk this one case replays to the last bit alone.
"""

from ee import integer
from ee.integer import IntegerModelError
from node.verifier.bundle import BUNDLE_LIMIT_BYTES
from node.verifier.replay import Told, Verdict, first_difference, silent
from protocol import merkle
from protocol.audit import Fault
from protocol.boundary import SALT_BYTES, case_root
from protocol.errors import MalformedMessageError, VerificationError
from protocol.receipt import BatchProof, Receipt, open_receipt
from protocol.wire import Message, decode


class Case(Message, frozen=True, tag="rexis-case-1"):
    """What is shown of one case."""

    receipt: bytes
    batch: bytes
    proof: BatchProof
    case: int
    salt: bytes
    """The case's own; it opens no other."""
    rows: bytes
    path: tuple[bytes, ...]
    """From the case's root to the input root."""
    output: bytes
    output_path: tuple[bytes, ...]
    model: bytes
    """Bytes of the trunk; empty where the reader brings it."""


def read(data: bytes) -> Case:
    """The case whose bytes these are; `MalformedMessageError` for all others."""
    return decode(data, Case, limit_bytes=BUNDLE_LIMIT_BYTES)


def check(shown: Case, trunk: bytes = b"", told: Told = silent) -> Verdict:
    """Both ends under the signed roots, and the one computed from the other.

    Raises `ProtocolError` or `IntegerModelError` where nothing can be said.
    """
    if bool(trunk) == bool(shown.model):
        raise MalformedMessageError(
            "case holds the model already; leave --trunk out"
            if trunk
            else "case holds no model; give the trunk's file with --trunk"
        )
    shown.proof.verify(shown.batch, shown.receipt)
    receipt = open_receipt(shown.receipt)
    _require_end(receipt, shown, 0, shown.rows, shown.path)
    _require_end(receipt, shown, receipt.layers, shown.output, shown.output_path)
    model = integer.decode(shown.model or trunk)
    root = integer.model_root(model)
    if root != receipt.model_root:
        raise VerificationError("model root", receipt.model_root.hex(), root.hex())
    config, (_, tokens, width) = model.config, receipt.order.shape
    if (width, receipt.layers) != (
        config.width,
        config.layers,
    ) or tokens > config.tokens:
        return Verdict(receipt, 0, 0, Fault("shape", 0))
    try:
        rows = integer.unpack_rows(shown.rows, (1, tokens, width))
    except IntegerModelError:
        return Verdict(receipt, 0, 0, Fault("shape", 0))
    computed = rows
    for index in range(config.layers):
        told(index, config.layers)
        computed = model.replay_layer(index, computed)
    fault = None
    if integer.pack_rows(computed) != shown.output:
        fault = Fault("output", 0, first_difference(shown.output, computed, shown.case))
    return Verdict(receipt, 0, config.layers, fault)


def _require_end(
    receipt: Receipt, shown: Case, boundary: int, rows: bytes, path: tuple[bytes, ...]
) -> None:
    cases, tokens, width = receipt.order.shape
    if not 0 <= shown.case < cases:
        raise MalformedMessageError(f"case {shown.case} of {cases} cases")
    if len(rows) * cases != receipt.order.rows_bytes or len(shown.salt) != SALT_BYTES:
        raise MalformedMessageError(
            f"rows of a case have {len(rows)} bytes, need"
            f" {receipt.order.rows_bytes // cases}; salt has {len(shown.salt)}"
        )
    root = case_root(rows, (tokens, width), boundary, shown.case, shown.salt)
    merkle.verify_inclusion(receipt.roots[boundary], root, shown.case, cases, path)
