"""Every way a rule of the specification can be broken (docs/protocol.md §2).

A caller's bug and a stranger's bytes never share a type: `LocalProtocolError` is ours,
everything else is the other side's.  Verdicts do not end in `Error` because they are an
ordinary outcome of gossip, not a failure of this node.
"""


class ProtocolError(Exception):
    """Root of everything expected to go wrong in normal operation."""


class MalformedMessageError(ProtocolError):
    """The bytes are not the canonical form of any message."""


class LocalProtocolError(ProtocolError):
    """Our own caller broke a rule: a bug on this node."""


class GossipIgnore(ProtocolError):  # noqa: N818 - a verdict
    """Do not relay; nobody is to blame."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class GossipReject(ProtocolError):  # noqa: N818 - a verdict
    """Do not relay; whoever sent it should have known better."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class VerificationError(ProtocolError):
    """A proof does not hold."""

    def __init__(
        self, check: str, expected: object = None, actual: object = None
    ) -> None:
        detail = "" if expected is None else f": expected {expected}, got {actual}"
        super().__init__(f"{check}{detail}")
        self.check = check
        self.expected = expected
        self.actual = actual


class SignatureError(VerificationError):
    """A signature does not match its message and key."""


class DealerError(VerificationError):
    """Good shares join to another secret than their dealer announced."""

    def __init__(self, dealer: bytes, what: str) -> None:
        super().__init__(
            f"{dealer.hex()[:16]} dealt shares of another {what} than it announced"
        )
        self.dealer = dealer
        self.what = what


class InclusionError(VerificationError):
    """A leaf is not under the root it was claimed under."""
