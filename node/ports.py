"""What the daemon needs from the outside, and nothing about how it is got.

Five ports.  Each has a real adapter and one in memory under `node/adapters/`, and one
conformance suite under `tests/conformance/` that both must pass.  Services and the
driver are written against these names only, so a federation can run inside one test
without a socket, and a transport or a chain can be replaced by writing one module.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from types import TracebackType
from typing import Any, Protocol, Self

from protocol.dispute import Asked, Claim, Leaf, Proof, SaltProof, Trunk, Turn
from protocol.members import Member, MemberSet
from protocol.receipt import BatchProof
from protocol.types import Digest, PeerId, PublicKey

Answer = Callable[[PeerId, bytes], Awaitable[bytes]]
"""Serve one request: who asks, what; a `NodeError` travels back as an error frame."""


@dataclass(frozen=True)
class Announcement:
    """One message a member told everyone."""

    origin: PeerId
    topic: str
    payload: bytes


@dataclass(frozen=True)
class Fetched:
    """How a blob came in."""

    sources: Mapping[PeerId, int]
    """Bytes by holder; what an earlier, interrupted fetch had left is nobody's."""
    liars: frozenset[PeerId]
    """Holders that sent other bytes than the digest names; the blob is right without."""


@dataclass(frozen=True)
class Head:
    """The newest block this node takes as final."""

    number: int
    digest: bytes
    time: int


@dataclass(frozen=True)
class Terms:
    """On what a dataset is given; bits as in docs/chain.md."""

    allowed: int = 0b11111
    """Permissions that may be granted."""
    required: int = 0
    """Modifiers that a grantee has to acknowledge."""
    max_days: int = 65_535
    """The longest a grant may last."""
    token: bytes = bytes(20)
    """The ERC-20 of the price; zero: settled elsewhere."""


OPEN_TERMS = Terms()
"""Every permission, nothing to acknowledge, as long as anybody likes."""


@dataclass(frozen=True)
class DatasetToken:
    """A dataset as the chain knows it."""

    dataset: int
    owner: bytes
    """20-byte account."""
    record: Digest
    units: int
    """Number of consent units, at most 64."""
    price: int
    terms: Terms = OPEN_TERMS
    committee: bytes = b""
    """20-byte account of who decides on access; empty: not said."""
    version: int = 1
    key_epoch: int = 1
    withdrawn: int = 0
    """Bitmap of units that are withdrawn for ever."""
    open: bool = True


@dataclass(frozen=True)
class Grant:
    """Who may read which units of a dataset; one per dataset and grantee."""

    grant: int
    dataset: int
    grantee: bytes
    """20-byte account."""
    units: int
    """Bitmap, bit i is unit i; withdrawn units are not in it."""
    until: int
    revoked: bool
    """Ended by a decision: a revocation, other terms, a withdrawal, the end of a membership."""
    purposes: int = 0b11111
    acknowledged: int = 0


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


@dataclass(frozen=True)
class ChainEvent:
    """One log of our contracts; `kind` is the Solidity event's name, `data` its fields."""

    block: int
    index: int
    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Standing:
    """Whose move it is in a dispute, and until when (Unix seconds of the chain)."""

    turn: Turn
    deadline: int


@dataclass(frozen=True)
class Event:
    """Something an operator may want to know later."""

    number: int
    time: int
    """Unix milliseconds."""
    kind: str
    data: Mapping[str, Any]

    def row(self) -> dict[str, Any]:
        """As the admin interface shows it."""
        return {
            "number": self.number,
            "at_ms": self.time,
            "kind": self.kind,
            "data": dict(self.data),
        }


Progress = Callable[[Mapping[str, Any]], None]


class Transport(Protocol):
    """Members of the federation, and the three ways to reach them."""

    @property
    def peer_id(self) -> PeerId: ...

    def addresses(self) -> tuple[str, ...]: ...

    def connected(self) -> frozenset[PeerId]: ...

    def keep_connected(self, peer: PeerId, addresses: tuple[str, ...]) -> None: ...

    def serve(self, protocol: str, answer: Answer, *, limit_bytes: int) -> None: ...

    async def announce(self, topic: str, payload: bytes) -> None:
        """Tell every member; delivered once to each, repaired after losses."""

    def announcements(self) -> AsyncIterator[Announcement]:
        """What others announced, in the order of arrival; one consumer."""

    async def request(
        self,
        peer: PeerId,
        protocol: str,
        payload: bytes,
        *,
        timeout_s: float,
        limit_bytes: int,
    ) -> bytes: ...

    async def fetch(
        self,
        peer: PeerId,
        digest: Digest,
        *,
        limit_bytes: int,
        timeout_s: float,
        others: Sequence[PeerId] = (),
        lasting: bool = True,
    ) -> Fetched:
        """Pull one blob into our own `Blobs`, checked against its digest.

        `others` are further holders: all give at once, and any of them may die, hang or
        lie.  What has arrived when a fetch ends early is kept for the next one.  `lasting`
        as in `Blobs`.
        """


class Blobs(Protocol):
    """Large content by its SHA-256, on disk.

    What is not `lasting` survives kill -9, and is gone after a restart of the machine.
    """

    def has(self, digest: Digest) -> bool: ...

    def size(self, digest: Digest) -> int: ...

    def read(self, digest: Digest, offset: int, length: int) -> bytes: ...

    def put(self, data: bytes | memoryview) -> Digest:
        """Durable when this returns; the buffer is the caller's again."""

    def batch(self) -> "BlobBatch":
        """For many that are to be durable at one moment."""

    def delete(self, digest: Digest) -> None:
        """Nothing happens if it is not here."""


class BlobBatch(Protocol):
    """Blobs that are here, durably, once `commit` has returned, and not before.

    Leaving its context drops what was not committed.
    """

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def put(self, data: bytes | memoryview) -> Digest:
        """The buffer is the caller's again when this returns; from any thread."""

    def commit(self) -> None:
        """Nobody may be putting."""


class Store(Protocol):
    """Small records that survive kill -9 once a write has returned."""

    async def get(self, namespace: str, key: bytes) -> bytes | None: ...

    async def put(self, namespace: str, key: bytes, value: bytes) -> None: ...

    async def delete(self, namespace: str, key: bytes) -> None: ...

    async def scan(self, namespace: str) -> list[tuple[bytes, bytes]]: ...

    async def append_event(self, kind: str, data: Mapping[str, Any]) -> int: ...

    async def put_many(
        self,
        writes: Sequence[tuple[str, bytes, bytes | None]],
        *,
        event: tuple[str, Mapping[str, Any]] | None = None,
        lasting: bool = True,
    ) -> int | None:
        """All of it or nothing; None as a value deletes.  Returns the event's number.

        What is not `lasting` survives kill -9; a power cut may take it back.
        """

    async def scrub(self) -> None:
        """What was deleted or replaced until now is in none of our files any more."""

    async def events(self, after: int = 0, limit: int = 100) -> list[Event]:
        """Numbered from 1, without gaps, oldest first."""

    async def wait_events(self, after: int) -> None:
        """Until there is an event with a higher number."""


class Compute(Protocol):
    """The trusted child that does the key holder's tensor work."""

    async def call(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        progress: Progress | None = None,
    ) -> dict[str, Any]: ...


class Signer(Protocol):
    """The node's keys; the secret halves never leave the adapter."""

    @property
    def public_key(self) -> PublicKey: ...

    @property
    def peer_id(self) -> PeerId: ...

    @property
    def seal_key(self) -> bytes: ...

    def sign(self, message: bytes) -> bytes: ...

    def agree(self, seal_key: bytes) -> bytes: ...

    def open_sealed(self, sealed: bytes) -> bytes: ...


class Chain(Protocol):
    """The contracts, as the daemon speaks of them (docs/chain.md).

    Every call that changes something returns once the transaction is final by this
    node's confirmation rule, and raises `ChainError` with the contract's reason if not.
    """

    async def head(self) -> Head: ...

    async def members(self) -> MemberSet: ...

    async def register(self, member: Member, roles: int) -> None:
        """The registry's owner admits a member, or changes its roles.

        Keys, account and name are fixed when it is admitted; only a member changes its keys.
        """

    async def rotate_keys(self, node_key: bytes, seal_key: bytes) -> None:
        """Give the member of this account new keys."""

    async def list_dataset(
        self, record: Digest, units: int, price: int, terms: Terms = OPEN_TERMS
    ) -> int:
        """Mint a dataset token for a listing record; returns its id."""

    async def add_version(
        self, dataset: int, record: Digest, units: int, *, rekeyed: bool
    ) -> None:
        """Replace a listing record; units keep their numbers and are never fewer."""

    async def set_terms(self, dataset: int, price: int, terms: Terms) -> None:
        """Narrower terms also end what was granted on wider ones."""

    async def set_committee(self, dataset: int, committee: bytes) -> None:
        """Who decides on access from now on."""

    async def withdraw_units(self, dataset: int, units: int) -> None:
        """End the use of some units (a bitmap) for everybody, for ever."""

    async def withdraw_dataset(self, dataset: int) -> None:
        """End the use of a dataset for everybody, for ever."""

    async def datasets(self) -> list[DatasetToken]: ...

    async def grant(
        self,
        dataset: int,
        grantee: bytes,
        units: int,
        until: int,
        *,
        purposes: int | None = None,
        acknowledged: int | None = None,
    ) -> int:
        """Give a member access; replaces what it had.  Returns the grant's id.

        `units` is a bitmap over consent units, `until` Unix seconds; purposes and
        acknowledged modifiers are what the terms allow and require unless said otherwise.
        """

    async def revoke(self, grant: int) -> None: ...

    async def grants(self, dataset: int) -> list[Grant]: ...

    async def anchor_model(self, root: Digest, record: Digest) -> None: ...

    async def anchor_round(self, run: Digest, number: int, state: Digest) -> None: ...

    async def anchor_receipts(self, root: Digest, count: int) -> int:
        """Anchor a Merkle root over signed receipts; returns the batch's id."""

    async def anchored_receipts(self, host: bytes, root: Digest) -> int:
        """Of how many receipts the batch is that `host` anchored; 0 if it did not."""

    def follow(self, from_block: int) -> AsyncIterator[ChainEvent]:
        """Everything final since `from_block`, then what comes; never twice on one branch."""


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


class Arbiter(Protocol):
    """Disputes that a contract decides by computing (docs/verify.md §10)."""

    @property
    def account(self) -> bytes:
        """Who moves."""

    async def accuse(
        self,
        host: bytes,
        batch: bytes,
        proof: BatchProof,
        receipt: bytes,
        trunk: Trunk,
        place: tuple[int, int, int],
    ) -> int:
        """Dispute the row at (layer, case, token) of a sealed receipt; the number."""

    async def answer(self, number: int, roots: Sequence[bytes]) -> None: ...

    async def ask(self, number: int, claim: Claim, asked: Asked) -> None: ...

    async def show(
        self, number: int, claim: Claim, roots: Sequence[bytes], leaf: Leaf
    ) -> None: ...

    async def split(
        self,
        number: int,
        claim: Claim,
        roots: Sequence[bytes],
        nodes: Sequence[bytes],
        path: Sequence[bytes],
    ) -> None:
        """What is below the node that was asked for, and the way up from it."""

    async def prove(
        self,
        number: int,
        claim: Claim,
        roots: Sequence[bytes],
        proof: Proof | SaltProof,
    ) -> None: ...

    async def close(self, number: int) -> None:
        """Whoever had to move let the time pass."""

    async def standing(self, number: int) -> Standing: ...
