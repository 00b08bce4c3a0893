"""Messages of the evaluation level: releases, requests and receipt batches.

A release names a keyed integer trunk by its root and by the digest of its bytes.  The bytes
are for everybody who hosts or audits; the key to what goes in and comes out is sealed to
each member that may ask.  A host sees rows under the key, an auditor sees the same rows.
"""

from protocol.errors import MalformedMessageError
from protocol.types import DIGEST_BYTES
from protocol.wire import Message, require_length

INFER_PROTOCOL = "/rexis/infer/1"
RECEIPTS_PROTOCOL = "/rexis/receipts/1"
RELEASE_TOPIC = "release"
AUDIT_TOPIC = "audit"

ROWS_LIMIT = 4096
RELEASE_LIMIT_BYTES = 1 << 18
REQUEST_LIMIT_BYTES = 16 << 20
BATCH_LIMIT_BYTES = 4 << 20


class SealedKey(Message, frozen=True, tag="sealed-key"):
    """The release key for one member; only its seal key opens it."""

    node_key: bytes
    sealed: bytes


class Release(Message, frozen=True, tag="release"):
    """A trained model offered for encrypted inference."""

    model_root: bytes
    """Merkle root of the integer trunk, op-spec included; what receipts name."""
    blob: bytes
    """SHA-256 of the trunk's bytes."""
    blob_bytes: int
    run: bytes
    state_root: bytes
    """The training state the stem and the head are taken from."""
    hosts: tuple[bytes, ...]
    """Node keys of members that agreed to run it; empty: every compute host."""
    keys: tuple[SealedKey, ...]

    def check(self) -> None:
        """Lengths; the signature is the announcement's."""
        for name in ("model_root", "blob", "run", "state_root"):
            require_length(name, getattr(self, name), DIGEST_BYTES)
        if self.blob_bytes <= 0:
            raise MalformedMessageError(f"trunk of {self.blob_bytes} bytes")


class InferRequest(Message, frozen=True, tag="infer"):
    """Rows under the release key, int32 little-endian, (rows, tokens, width)."""

    model_root: bytes
    shape: tuple[int, int, int]
    rows: bytes

    def check(self) -> None:
        """The bytes are as many as the shape says, within the limit."""
        require_length("model_root", self.model_root, DIGEST_BYTES)
        count = self.shape[0]
        if not 0 < count <= ROWS_LIMIT:
            raise MalformedMessageError(f"{count} rows, limit is {ROWS_LIMIT}")
        wanted = 4 * count * self.shape[1] * self.shape[2]
        if min(self.shape) <= 0 or len(self.rows) != wanted:
            raise MalformedMessageError(
                f"rows have {len(self.rows)} bytes, shape {self.shape} needs {wanted}"
            )


class InferAnswer(Message, frozen=True, tag="inferred"):
    """The trunk's output for the same rows, and the host's receipt for it."""

    receipt: bytes
    output: bytes


class BatchRequest(Message, frozen=True, tag="batch"):
    """An auditor asks for the receipts under an anchored root."""

    root: bytes


class BatchAnswer(Message, frozen=True, tag="receipts"):
    """All sealed receipts of a batch in the order of its leaves."""

    receipts: tuple[bytes, ...]
