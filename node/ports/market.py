"""Requests, escrow, committees and the council, as contracts keep them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Protocol

from protocol.types import Digest


class RequestStatus(IntEnum):
    """`Market.Status`."""

    OPEN = 1
    APPROVED = 2
    DISPUTED = 3
    PAID = 4
    REFUNDED = 5
    HALVED = 6


@dataclass(frozen=True)
class Request:
    """What a member asked for, and what has become of it."""

    request: int
    dataset: int
    grantee: bytes
    """20-byte account."""
    units: int
    purposes: int
    acknowledged: int
    days: int
    version: int
    """The dataset's version that was asked for."""
    price: int
    token: bytes
    status: RequestStatus
    deadline: int
    """Until when it may be answered; once approved, until when it may be disputed."""
    dispute_s: int

    def changed(self, **changes: Any) -> "Request":
        return replace(self, **changes)


@dataclass(frozen=True)
class Purse:
    """What an account has in one token, in the token's smallest unit."""

    token: bytes
    balance: int
    held: int
    """What our contracts hold for it, and it may collect."""


@dataclass(frozen=True)
class Rules:
    """`Parameters.Values`, and the token of bonds and stakes; seconds, votes, token units."""

    answer_s: int
    dispute_s: int
    challenge_s: int
    vote_s: int
    unbonding_s: int
    quorum: int
    open_requests: int
    bond: int
    bond_token: bytes


@dataclass(frozen=True)
class Seats:
    """Who sits on a data access committee, how many of them decide, and its next act."""

    accounts: tuple[bytes, ...]
    threshold: int
    nonce: int


@dataclass(frozen=True)
class Decision:
    """What a committee's members sign about one request."""

    request: int
    key_digest: Digest | None
    """What an approval commits to; None refuses."""
    nonce: int
    deadline: int


@dataclass(frozen=True)
class Motion:
    """A proposal before the council."""

    number: int
    text: str
    """The call, as a person reads it."""
    yes: int
    electorate: int
    opened: int
    ready: int
    """When it may be carried out, in Unix seconds; 0: not passed."""
    done: bool


class Outcome(IntEnum):
    """`Board.Outcome`."""

    PENDING = 0
    UPHELD = 1
    REJECTED = 2
    UNDECIDED = 3


@dataclass(frozen=True)
class Case:
    """A disputed delivery or a challenged receipt."""

    case: int
    plaintiff: bytes
    defendant: bytes
    delivery: bool
    """False: a receipt."""
    subject: int
    """The request's number; of a receipt, a number that only it has."""
    opened: int
    closes: int
    quorum: int
    bond: int
    taken: int
    """Of a host's stake, once a receipt is found wrong."""
    outcome: Outcome
    upholding: int = 0
    rejecting: int = 0

    def with_vote(self, *, uphold: bool) -> "Case":
        return replace(
            self,
            upholding=self.upholding + uphold,
            rejecting=self.rejecting + (not uphold),
        )

    def closed(self, outcome: Outcome, taken: int) -> "Case":
        return replace(self, outcome=outcome, taken=taken)


class Market(Protocol):
    """Requests for access with their price in escrow, and the cases about them.

    The chain's other half: what `Chain` says of finality and refusals holds here too.
    """

    async def requests(self) -> list[Request]:
        """All requests, by number."""

    async def request(
        self,
        dataset: int,
        units: int,
        days: int,
        max_price: int,
        *,
        purposes: int | None = None,
        acknowledged: int | None = None,
        record: Digest | None = None,
    ) -> int:
        """Ask for access to a dataset; returns the number.

        Puts the price into escrow, if it is at most `max_price`.  A request says all that
        this member is to have; purposes and modifiers default as in `Chain.grant`.  It is
        refused if the dataset is not listed by `record` any more (None: as it is now).
        """

    async def approve(self, request: int, key_digest: Digest) -> None:
        """The committee agrees; `key_digest` commits to the message that brings the keys."""

    async def approval(self, request: int) -> Digest | None:
        """The key digest that a request's approval committed to; None before it."""

    async def reject(self, request: int) -> None: ...

    async def cancel(self, request: int) -> None: ...

    async def accept(self, request: int) -> None:
        """The keys came; the owner is paid."""

    async def dispute(self, request: int, claim: Digest) -> int:
        """The keys did not come; `claim` is the digest of what auditors will see."""

    async def close_request(self, request: int) -> None:
        """Its time is over: refund what nobody answered, pay what nobody disputed."""

    async def cases(self) -> list[Case]: ...

    async def challenge(
        self,
        host: bytes,
        root: Digest,
        receipt: bytes,
        index: int,
        proof: Sequence[Digest],
        claim: Digest,
    ) -> int:
        """Say that a receipt is wrong, which `host` anchored at `index` under `root`."""

    async def vote(self, case: int, report: Digest, *, uphold: bool) -> None:
        """An auditor's finding; `report` is the digest of what it rests on."""

    async def close_case(self, case: int) -> None:
        """Its time is over without a quorum."""

    async def stake(self, amount: int) -> None:
        """Answer with so much more for what this host anchors."""

    async def unstake(self, amount: int) -> None: ...

    async def release(self) -> None:
        """What was asked back long enough ago becomes collectable."""

    async def collect(self, token: bytes) -> None:
        """Fetch everything held for this account in one token."""

    async def scores(self, account: bytes) -> Mapping[str, tuple[int, int]]:
        """Role to score from 0 to 100 and the number of cases it rests on."""

    async def rules(self) -> Rules:
        """Windows, quorum, bond: what the council decides."""

    async def accepts(self, token: bytes) -> bool:
        """Whether prices may be in this token."""

    async def purse(self, token: bytes) -> Purse:
        """What this account has in one token."""


class Committees(Protocol):
    """Data access committees that are contracts: enough of their seats decide."""

    async def make(self, accounts: Sequence[bytes], threshold: int) -> bytes:
        """Put one on the chain; its address."""

    async def seats(self, committee: bytes) -> Seats | None:
        """None where the account is no such contract."""

    async def sign(self, committee: bytes, decision: Decision) -> bytes:
        """The signature of this account."""

    async def signer(
        self, committee: bytes, decision: Decision, signature: bytes
    ) -> bytes:
        """Whose account signed just this decision."""

    async def decide(
        self, committee: bytes, decision: Decision, signatures: Sequence[bytes]
    ) -> None:
        """Have the contract do it; `signatures` in the order of their accounts."""


class Council(Protocol):
    """The members' votes on the market's parameters."""

    async def motions(self) -> list[Motion]: ...

    async def propose_token(self, token: bytes, *, accepted: bool) -> int:
        """Take a token for prices, or no longer; the proposal's number."""

    async def propose_rules(self, **changes: int) -> int:
        """Change some of `Rules`."""

    async def vote(self, motion: int) -> None: ...

    async def execute(self, motion: int) -> None: ...
