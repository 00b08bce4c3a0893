"""Messages of the evaluation level: releases, requests, batches and openings.

A release names a keyed integer trunk by its root and by the digest of its bytes.  The bytes
are for everybody who hosts or audits; the key to what goes in and comes out is sealed to
each member that may ask.  A host sees rows under the key, an auditor sees the same rows.
"""

from protocol.boundary import SALT_BYTES
from protocol.errors import MalformedMessageError, VerificationError
from protocol.provenance import chain_digest, open_step, verify_chain
from protocol.receipt import (
    BATCH_COUNT_LIMIT,
    LAYERS_LIMIT,
    TIME_LIMIT,
    BatchProof,
)
from protocol.types import DIGEST_BYTES
from protocol.wire import Message

INFER_PROTOCOL = "/rexis/infer/1"
RECEIPTS_PROTOCOL = "/rexis/receipts/1"
PLACE_PROTOCOL = "/rexis/place/1"
OPEN_PROTOCOL = "/rexis/open/1"
SLICE_PROTOCOL = "/rexis/slice/1"
TRACE_PROTOCOL = "/rexis/trace/1"
RELEASE_TOPIC = "release"
AUDIT_TOPIC = "audit"

RELEASE_STEPS = 2
"""Training, then keying and rounding."""
RELEASE_LIMIT_BYTES = 1 << 18
TRUNK_LIMIT_BYTES = 1 << 30
REQUEST_LIMIT_BYTES = 16 << 20
"""One inference: rows in or rows out; more cases are more requests."""
TRACE_LIMIT_BYTES = 32 << 20
"""Rows and sums of one layer; six sequences of 128 tokens at the size of BERT-base."""
BATCH_LIMIT_BYTES = 4 << 20
SMALL_LIMIT_BYTES = 1 << 12


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
    """Whoever has one may ask."""
    provenance: tuple[bytes, ...]
    """Signed steps from the listings that trained it, through the state, to the trunk."""
    until: int = 0
    """Unix second after which hosts answer nobody; 0: they answer for good.  What was answered
    is shown and audited after that as before."""

    def is_over(self, now: int) -> bool:
        """Whether the licence has ended at Unix second `now`."""
        return self.until != 0 and now > self.until

    def sources(self) -> tuple[bytes, ...]:
        """What training used: records of listings, and the first state."""
        return open_step(self.provenance[0]).used

    def released_by(self) -> bytes:
        """Node key of who signed for making it; whoever passes it on is another matter."""
        return open_step(self.provenance[-1]).agent

    def check(self) -> None:
        """Lengths and the chain of steps; the release's own signature is its announcement's."""
        for name in ("model_root", "blob", "run", "state_root"):
            _require(name, getattr(self, name))
        for key in (*self.hosts, *(sealed.node_key for sealed in self.keys)):
            _require("node key", key)
        if not 0 < self.blob_bytes <= TRUNK_LIMIT_BYTES:
            raise MalformedMessageError(
                f"trunk of {self.blob_bytes} bytes, limit is {TRUNK_LIMIT_BYTES}"
            )
        if not 0 <= self.until <= TIME_LIMIT:
            raise MalformedMessageError(
                f"licence until {self.until}, limit is {TIME_LIMIT}"
            )
        if len(self.provenance) != RELEASE_STEPS:
            raise MalformedMessageError(
                f"release with {len(self.provenance)} steps, needs {RELEASE_STEPS}"
            )
        trained, released = verify_chain(
            self.provenance,
            expected=chain_digest([open_step(one) for one in self.provenance]),
            product=self.model_root,
        )
        if trained.made != self.state_root or released.used != (self.state_root,):
            raise VerificationError("release does not follow from its training state")


class SliceRequest(Message, frozen=True, tag="slice"):
    """An auditor asks a holder of a trunk for one layer of it."""

    model_root: bytes
    layer: int

    def check(self) -> None:
        _require("model root", self.model_root)
        if not 0 <= self.layer < LAYERS_LIMIT:
            raise MalformedMessageError(
                f"layer is {self.layer}, limit is {LAYERS_LIMIT - 1}"
            )


class SliceAnswer(Message, frozen=True, tag="sliced"):
    """The blob with that layer's bytes; they name the model root, nobody is believed."""

    blob: bytes
    blob_bytes: int

    def check(self) -> None:
        _require("slice", self.blob)
        if not 0 < self.blob_bytes <= TRUNK_LIMIT_BYTES:
            raise MalformedMessageError(
                f"slice of {self.blob_bytes} bytes, limit is {TRUNK_LIMIT_BYTES}"
            )


class TraceRequest(Message, frozen=True, tag="trace"):
    """An auditor without weights asks for what the matrices of one layer gave."""

    receipt: bytes
    """Digest of the sealed receipt."""
    layer: int

    def check(self) -> None:
        _require("receipt", self.receipt)
        if not 0 <= self.layer < LAYERS_LIMIT:
            raise MalformedMessageError(
                f"layer is {self.layer}, limit is {LAYERS_LIMIT - 1}"
            )


class TraceAnswer(Message, frozen=True, tag="traced"):
    """The rows before the layer, and the packed sums of its matrices; worth what a check says."""

    salt: bytes
    rows: bytes
    sums: tuple[bytes, ...]

    def check(self) -> None:
        if len(self.salt) != SALT_BYTES:
            raise MalformedMessageError(
                f"salt has {len(self.salt)} bytes, needs {SALT_BYTES}"
            )


class InferRequest(Message, frozen=True, tag="infer"):
    """Rows under the release key, packed (docs/verify.md), and the signed order for them."""

    order: bytes
    salt: bytes
    rows: bytes


class InferAnswer(Message, frozen=True, tag="inferred"):
    """The trunk's output for the same rows, packed, and the host's receipt for it."""

    receipt: bytes
    output: bytes


class BatchRequest(Message, frozen=True, tag="batch"):
    """An auditor asks for the receipts under an anchored root."""

    root: bytes

    def check(self) -> None:
        _require("batch root", self.root)


class BatchAnswer(Message, frozen=True, tag="receipts"):
    """All sealed receipts of a batch in the order of its leaves."""

    receipts: tuple[bytes, ...]

    def check(self) -> None:
        if not 1 <= len(self.receipts) <= BATCH_COUNT_LIMIT:
            raise MalformedMessageError(
                f"batch of {len(self.receipts)} receipts, limit is {BATCH_COUNT_LIMIT}"
            )


class PlaceRequest(Message, frozen=True, tag="place"):
    """Whoever holds a receipt asks in which batch it was anchored."""

    receipt: bytes
    """Digest of the sealed receipt."""

    def check(self) -> None:
        _require("receipt", self.receipt)


class Place(Message, frozen=True, tag="placed"):
    """The batch root and the proof; the chain says whether the root is anchored."""

    batch: bytes
    proof: BatchProof


class OpenRequest(Message, frozen=True, tag="open"):
    """An auditor asks for the rows a host committed to at one boundary of a receipt."""

    receipt: bytes
    """Digest of the sealed receipt."""
    boundary: int
    """0 is the input, l stands after l layers."""

    def check(self) -> None:
        _require("receipt", self.receipt)
        if not 0 <= self.boundary <= LAYERS_LIMIT:
            raise MalformedMessageError(
                f"boundary is {self.boundary}, limit is {LAYERS_LIMIT}"
            )


class Opening(Message, frozen=True, tag="opening"):
    """The salt and the packed rows; they have the receipt's root, or are worth nothing."""

    salt: bytes
    rows: bytes

    def check(self) -> None:
        if len(self.salt) != SALT_BYTES:
            raise MalformedMessageError(
                f"salt has {len(self.salt)} bytes, needs {SALT_BYTES}"
            )


def _require(name: str, value: bytes) -> None:
    if len(value) != DIGEST_BYTES:
        raise MalformedMessageError(
            f"{name} has {len(value)} bytes, needs {DIGEST_BYTES}"
        )
