"""Orders, receipts and batches of receipts (docs/verify.md §4).

A requester signs an order: this host, this model, these rows.  The host answers with a
receipt: that order, and the root of the rows after every layer.  Nothing in it is a rounding
away from true or false: whoever has the rows and the trunk computes the same roots, or the
host lied.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from protocol import merkle
from protocol.boundary import ENTRY_BYTES, Shape, boundary_root
from protocol.envelope import open_envelope, seal
from protocol.errors import MalformedMessageError, VerificationError
from protocol.types import DIGEST_BYTES, Digest, PublicKey, digest
from protocol.wire import Message, decode, encode

Sign = Callable[[bytes], bytes]
ORDER_DOMAIN = "rexis/order/1"
RECEIPT_DOMAIN = "rexis/receipt/1"

JOB_BYTES = 16
LAYERS_LIMIT = 1024
SHAPE_LIMITS = (4096, 4096, 16_384)
BATCH_COUNT_LIMIT = 4096
RECEIPT_LIMIT_BYTES = 1 << 16
"""1024 roots and an order come to 36 KiB."""

TIME_LIMIT = 253_402_300_799
"""The last second of the year 9999: what a date can still show."""

ROWS_KEPT_S = 90 * 86_400
"""How long a host shows the rows behind a receipt, from the receipt's time on: three times the
window in which it can be challenged (docs/chain.md §1.4).  After that they are deleted."""
CLOCKS_APART_S = 600
"""How far a receipt's time may be from its requester's clock.  A host that could date a receipt
back would have its rows out of reach the sooner."""

_BATCH_LABEL = b"rexis-receipt-batch-1"


class Order(Message, frozen=True, tag="order"):
    """What a requester asks of one host."""

    model_root: bytes
    host: bytes
    """Node key of the host; an order is worth nothing to another."""
    job: bytes
    """Drawn by the requester; two orders for the same rows differ."""
    shape: Shape
    input_root: bytes

    def check(self) -> None:
        """Lengths and limits; `MalformedMessageError` names what is wrong."""
        _require("model root", self.model_root, DIGEST_BYTES)
        _require("host", self.host, DIGEST_BYTES)
        _require("job", self.job, JOB_BYTES)
        _require("input root", self.input_root, DIGEST_BYTES)
        for extent, limit in zip(self.shape, SHAPE_LIMITS, strict=True):
            if not 1 <= extent <= limit:
                raise MalformedMessageError(
                    f"rows have shape {self.shape}, limits are {SHAPE_LIMITS}"
                )

    @property
    def rows_bytes(self) -> int:
        """How long the packed rows of any boundary are."""
        cases, tokens, width = self.shape
        return ENTRY_BYTES * cases * tokens * width


class _Answered(Message, frozen=True, tag="receipt"):
    """The host's words: the sealed order, a root for each layer, the time."""

    order: bytes
    roots: tuple[bytes, ...]
    time: int


@dataclass(frozen=True)
class Receipt:
    """A sealed receipt, opened: both signatures hold."""

    digest: Digest
    sealed_order: bytes
    order: Order
    requester: PublicKey
    host: PublicKey
    roots: tuple[bytes, ...]
    """Root of the input rows, then of the rows after each layer; the last is the output."""
    time: int
    """Unix seconds by the host's clock."""

    @property
    def model_root(self) -> bytes:
        return self.order.model_root

    @property
    def layers(self) -> int:
        return len(self.roots) - 1

    @property
    def kept_bytes(self) -> int:
        """Packed rows that its host keeps, those of every boundary."""
        return self.order.rows_bytes * len(self.roots)

    def is_expired(self, now: int) -> bool:
        """Is its host free of showing rows at Unix second `now`?"""
        return now > self.time + ROWS_KEPT_S

    def check_time(self, now: int) -> None:
        """Raise `VerificationError` where the host's clock is not the requester's."""
        if abs(now - self.time) > CLOCKS_APART_S:
            raise VerificationError(
                "receipt's time", f"within {CLOCKS_APART_S} s of {now}", self.time
            )

    def check_answer(self, sealed_order: bytes, output: bytes, salt: bytes) -> None:
        """Raise `VerificationError` unless this receipt is for that order and output."""
        if self.sealed_order != sealed_order:
            raise VerificationError("receipt is for another order")
        found = boundary_root(output, self.order.shape, self.layers, salt)
        if found != self.roots[-1]:
            raise VerificationError("output root", self.roots[-1].hex(), found.hex())


def seal_order(sign: Sign, requester: PublicKey, order: Order) -> bytes:
    """Signed by the requester."""
    order.check()
    return seal(sign, ORDER_DOMAIN, requester, order.model_root, encode(order))


def open_order(data: bytes) -> tuple[Order, PublicKey]:
    """A verified order and who signed it."""
    envelope = open_envelope(data, ORDER_DOMAIN, limit_bytes=RECEIPT_LIMIT_BYTES)
    order = decode(envelope.payload, Order, limit_bytes=RECEIPT_LIMIT_BYTES)
    order.check()
    if envelope.context != order.model_root:
        raise MalformedMessageError("order is signed in the context of another model")
    return order, PublicKey(envelope.sender)


def seal_receipt(
    sign: Sign, host: PublicKey, sealed_order: bytes, roots: Sequence[bytes], time: int
) -> bytes:
    """Signed by the host; `roots` are those of the rows after each layer."""
    answered = _Answered(sealed_order, tuple(roots), time)
    return seal(sign, RECEIPT_DOMAIN, host, digest(sealed_order), encode(answered))


def open_receipt(data: bytes) -> Receipt:
    """Verify both signatures; the caller decides whether host and requester are known."""
    envelope = open_envelope(data, RECEIPT_DOMAIN, limit_bytes=RECEIPT_LIMIT_BYTES)
    answered = decode(envelope.payload, _Answered, limit_bytes=RECEIPT_LIMIT_BYTES)
    order, requester = open_order(answered.order)
    # Whoever signs a receipt for another host's order answers for nothing.
    if envelope.sender != order.host:
        raise VerificationError(
            "receipt is not by the ordered host",
            order.host.hex(),
            envelope.sender.hex(),
        )
    if envelope.context != digest(answered.order):
        raise MalformedMessageError("receipt is signed in the context of another order")
    if not 1 <= len(answered.roots) <= LAYERS_LIMIT:
        raise MalformedMessageError(
            f"receipt has {len(answered.roots)} roots, limit is {LAYERS_LIMIT}"
        )
    if not 0 <= answered.time <= TIME_LIMIT:
        raise MalformedMessageError(f"receipt is of second {answered.time}")
    for root in answered.roots:
        _require("boundary root", root, DIGEST_BYTES)
    return Receipt(
        digest=digest(data),
        sealed_order=answered.order,
        order=order,
        requester=requester,
        host=PublicKey(envelope.sender),
        roots=(order.input_root, *answered.roots),
        time=answered.time,
    )


class BatchProof(Message, frozen=True, tag="batch-proof"):
    """Where a receipt stands in an anchored batch."""

    index: int
    size: int
    tree: bytes
    """Merkle root over the batch's receipts."""
    path: tuple[bytes, ...]

    def verify(self, batch: bytes, sealed: bytes) -> None:
        """Raise `InclusionError` or `VerificationError` unless the receipt is in `batch`."""
        if not 1 <= self.size <= BATCH_COUNT_LIMIT:
            raise VerificationError(
                "batch size", f"1 to {BATCH_COUNT_LIMIT}", self.size
            )
        merkle.verify_inclusion(self.tree, sealed, self.index, self.size, self.path)
        found = batch_digest(self.size, self.tree)
        if found != batch:
            raise VerificationError("batch root", batch.hex(), found.hex())


def batch_root(receipts: Sequence[bytes]) -> Digest:
    """What is anchored for a batch: its count and the Merkle root over sealed receipts.

    The count is in the digest because an inclusion proof alone does not fix it.
    """
    return batch_digest(len(receipts), merkle.root(receipts))


def batch_proof(receipts: Sequence[bytes], index: int) -> BatchProof:
    """The proof for the receipt at `index`."""
    path = merkle.inclusion_proof(receipts, index)
    return BatchProof(index, len(receipts), merkle.root(receipts), tuple(path))


def batch_digest(size: int, tree: bytes) -> Digest:
    """What is anchored for `size` receipts whose Merkle root is `tree`."""
    return digest(_BATCH_LABEL + size.to_bytes(4, "big") + tree)


def _require(name: str, value: bytes, length: int) -> None:
    if len(value) != length:
        raise MalformedMessageError(f"{name} has {len(value)} bytes, needs {length}")
