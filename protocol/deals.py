"""What members say to a dataset's owner about a request for access (docs/data.md §4).

The chain has the request, the price in escrow and the decision; what cannot be there is the
message that brings the keys.  Its owner makes it before anybody decides, a committee approves its
digest, and an auditor of a dispute is shown it: the keys in it are the grantee's alone to open.
"""

from protocol.wire import Message

DEALS_PROTOCOL = "/rexis/deals/1"
ASK_LIMIT_BYTES = 1 << 10


class KeyDigestQuery(Message, frozen=True, tag="key-digest?"):
    """Who decides on a dataset asks to what an approval of a request would commit."""

    request: int


class KeyDigestAnswer(Message, frozen=True, tag="key-digest!"):
    """SHA-256 of the message that would bring the keys."""

    digest: bytes


class Ballot(Message, frozen=True, tag="ballot"):
    """One seat's signature under a committee's decision about a request."""

    request: int
    key_digest: bytes
    """Empty: refuse."""
    nonce: int
    deadline: int
    signature: bytes


class BallotAnswer(Message, frozen=True, tag="ballot!"):
    """How many have signed the same, of how many needed, and whether that was enough."""

    signed: int
    threshold: int
    done: bool


class DeliveryQuery(Message, frozen=True, tag="delivery?"):
    """An auditor of a dispute asks for the message; the answer is the message."""

    request: int


Ask = KeyDigestQuery | Ballot | DeliveryQuery
