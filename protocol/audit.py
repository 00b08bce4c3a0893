"""An auditor's signed report on one receipt (docs/verify.md §4.4).

A report that accuses names the layer, and the number if the host showed it.  It convinces
nobody by itself: whoever doubts it replays the same layer.
"""

from typing import Any

from protocol.envelope import open_envelope, seal
from protocol.errors import MalformedMessageError
from protocol.receipt import LAYERS_LIMIT, RECEIPT_LIMIT_BYTES, TIME_LIMIT, Sign
from protocol.types import DIGEST_BYTES, PublicKey
from protocol.wire import Message, decode, encode

AUDIT_DOMAIN = "rexis/audit/2"


class Entry(Message, frozen=True, tag="entry"):
    """The first number that differs, and how many do."""

    case: int
    token: int
    column: int
    committed: int
    computed: int
    differing: int


class Fault(Message, frozen=True, tag="fault"):
    """What a replay found: the host's own signed words against it."""

    kind: str
    """`layer`: these rows are not this layer's result.  `shape`: the model has no
    such rows, or another number of layers.  `output`: these rows are not the model's
    answer, and which layer went wrong was not looked at; in no report, only where one
    case is shown.  `receipt`: the anchored batch holds something that is none."""
    layer: int
    """Counted from 0; 0 for the other kinds."""
    entry: Entry | None = None
    """Unknown where the host did not show the rows it committed to."""


TIERS = frozenset({"replay", "freivalds"})
FAULT_KINDS = frozenset({"layer", "shape", "receipt"})


class Audit(Message, frozen=True, tag="audit"):
    """One auditor's report on one receipt."""

    receipt: bytes
    batch: bytes
    host: bytes
    model_root: bytes
    """All zeros for a leaf that is no receipt."""
    first: int
    """First layer replayed."""
    count: int
    """How many layers were replayed, up to the first that differed."""
    fault: Fault | None
    time: int
    tier: str = "replay"
    """`replay`: computed again.  `freivalds`: checked with a secret key and no weights; such a
    report never accuses, because what it rests on convinces its auditor alone."""
    error_bits: int = 0
    """A wrong layer passes `freivalds` with probability 2^-error_bits at most; 0: never."""

    def check(self) -> None:
        """Lengths and closed sets."""
        for name in ("receipt", "batch", "host", "model_root"):
            if len(getattr(self, name)) != DIGEST_BYTES:
                raise MalformedMessageError(f"{name} is not {DIGEST_BYTES} bytes")
        if not (0 <= self.first < LAYERS_LIMIT and 0 <= self.count <= LAYERS_LIMIT):
            raise MalformedMessageError(f"layers {self.first} and {self.count} more")
        if not 0 <= self.time <= TIME_LIMIT:
            raise MalformedMessageError(
                f"report is of second {self.time}, limit is {TIME_LIMIT}"
            )
        if self.tier not in TIERS or (self.tier == "freivalds") != (
            self.error_bits > 0
        ):
            raise MalformedMessageError(
                f"report of tier {self.tier[:32]!r} with error 2^-{self.error_bits}"
            )
        if self.fault is not None and self.tier != "replay":
            raise MalformedMessageError(f"report of tier {self.tier} accuses a host")
        if self.fault is not None and self.fault.kind not in FAULT_KINDS:
            raise MalformedMessageError(f"fault of kind {self.fault.kind[:32]!r}")

    def describe(self) -> dict[str, Any]:
        """For a person or a program to read; keys and roots in hex."""
        fault = self.fault
        entry = None if fault is None else fault.entry
        names = () if entry is None else entry.__struct_fields__
        return {
            "receipt": self.receipt.hex(),
            "batch": self.batch.hex(),
            "host": self.host.hex(),
            "model": self.model_root.hex(),
            "verdict": "passed" if fault is None else "failed",
            "fault": None if fault is None else fault.kind,
            "layer": fault.layer
            if fault is not None and fault.kind == "layer"
            else None,
            "entry": None if entry is None else {n: getattr(entry, n) for n in names},
            "first_layer": self.first,
            "layers_replayed": self.count,
            "tier": self.tier,
            "error_bits": self.error_bits,
            "time": self.time,
        }


def seal_audit(sign: Sign, auditor: PublicKey, audit: Audit) -> bytes:
    """Signed by the auditor."""
    audit.check()
    return seal(sign, AUDIT_DOMAIN, auditor, audit.receipt, encode(audit))


def open_audit(data: bytes) -> tuple[Audit, PublicKey]:
    """A verified report and who signed it."""
    envelope = open_envelope(data, AUDIT_DOMAIN, limit_bytes=RECEIPT_LIMIT_BYTES)
    audit = decode(envelope.payload, Audit, limit_bytes=RECEIPT_LIMIT_BYTES)
    audit.check()
    if envelope.context != audit.receipt:
        raise MalformedMessageError(
            "report is signed in the context of another receipt"
        )
    return audit, PublicKey(envelope.sender)
