"""What the Market holds and refuses, in plain Python, over a ledger (`contracts/src/Market.sol`).

See `memory_ledger` for what keeps the two together.
"""

from collections import Counter
from dataclasses import dataclass

from node.adapters.chain_errors import refused
from node.adapters.memory_board import Board, Kind
from node.adapters.memory_coins import NO_TOKEN, Coins, Credits, Values
from node.adapters.memory_ledger import DAY_S, Ledger, Record, Scope
from node.ports.chain import DatasetToken
from node.ports.market import Outcome, Request, RequestStatus
from protocol.members import ROLE_DATA_PROVIDER

_ZERO = bytes(32)


@dataclass(frozen=True)
class Wanted:
    """`Market.Wanted`."""

    dataset: int
    record: bytes
    scope: Scope
    days: int
    max_price: int
    token: bytes


class Market(Credits):
    """Requests for access, and what becomes of them and of their price."""

    def __init__(
        self, ledger: Ledger, coins: Coins, values: Values, bond_token: bytes
    ) -> None:
        super().__init__(coins)
        self.ledger, self.values = ledger, values
        self.accepted: set[bytes] = set()
        self.requests: list[Request] = []
        self.tally: Counter[tuple[bytes, str]] = Counter()
        self.board = Board(ledger, coins, values, bond_token, self.resolve)

    def request(self, by: bytes, wanted: Wanted) -> int:
        doing, ledger = "market.request", self.ledger
        ledger.require(doing, by)
        waiting = self.open_of(by)
        if waiting >= self.values.open_requests:
            limit = self.values.open_requests
            raise refused(doing, "TooManyOpen", open=waiting, limit=limit)
        token = ledger.token(doing, wanted.dataset)
        ledger.check_scope(doing, token, wanted.scope)
        if not 0 < wanted.days <= token.terms.max_days:
            raise refused(doing, "InvalidExpiry", days=wanted.days)
        if wanted.record != token.record:
            raise refused(doing, "StaleRecord", record=wanted.record)
        if token.price > wanted.max_price:
            raise refused(
                doing, "PriceAbove", price=token.price, limit=wanted.max_price
            )
        paid_in = token.terms.token if token.price else NO_TOKEN
        if token.price and (wanted.token != paid_in or paid_in not in self.accepted):
            raise refused(doing, "TokenNotAccepted", token=paid_in)
        self.coins.take(doing, paid_in, by, token.price)
        made = Request(
            request=len(self.requests),
            dataset=wanted.dataset,
            grantee=by,
            units=wanted.scope.units,
            purposes=wanted.scope.purposes,
            acknowledged=wanted.scope.acknowledged,
            days=wanted.days,
            version=token.version,
            price=token.price,
            token=paid_in,
            status=RequestStatus.OPEN,
            deadline=ledger.now() + self.values.answer_s,
            dispute_s=self.values.dispute_s,
        )
        self.requests.append(made)
        ledger.emit(
            "AccessRequested",
            request=made.request,
            dataset=made.dataset,
            grantee=by,
            units=made.units,
            purposes=made.purposes,
            acknowledged=made.acknowledged,
            duration=made.days,
            token=paid_in,
            amount=made.price,
        )
        return made.request

    def approve(self, by: bytes, request: int, key_digest: bytes) -> None:
        doing = "market.approve"
        found = self._in(doing, request, RequestStatus.OPEN)
        if key_digest == _ZERO:
            raise refused(doing, "InvalidDigest")
        now = self.ledger.now()
        if now > found.deadline:
            raise refused(doing, "TooLate", deadline=found.deadline)
        self._check_approval(doing, by, found, now)
        self._change(
            found, status=RequestStatus.APPROVED, deadline=now + found.dispute_s
        )
        self.ledger.emit(
            "RequestApproved",
            request=request,
            dataset=found.dataset,
            grantee=found.grantee,
            keyDigest=key_digest,
        )
        scope = Scope(found.units, found.purposes, found.acknowledged)
        until = now + found.days * DAY_S
        self.ledger.give(by, found.dataset, found.grantee, scope, until)

    def reject(self, by: bytes, request: int) -> None:
        doing = "market.reject"
        found = self._in(doing, request, RequestStatus.OPEN)
        if self._token(found).committee != by:
            raise refused(doing, "NotCommittee", dataset=found.dataset, account=by)
        self._refund(found)

    def cancel(self, by: bytes, request: int) -> None:
        doing = "market.cancel"
        found = self._in(doing, request, RequestStatus.OPEN)
        self._only_grantee(doing, by, found)
        self._refund(found)

    def expire(self, request: int) -> None:
        doing = "market.expire"
        found = self._in(doing, request, RequestStatus.OPEN)
        self._only_after(doing, found)
        self.tally[self._token(found).owner, "unanswered"] += 1
        self._refund(found)

    def accept(self, by: bytes, request: int) -> None:
        doing = "market.accept"
        found = self._in(doing, request, RequestStatus.APPROVED)
        self._only_grantee(doing, by, found)
        self._pay(found)

    def settle(self, request: int) -> None:
        doing = "market.settle"
        found = self._in(doing, request, RequestStatus.APPROVED)
        self._only_after(doing, found)
        self._pay(found)

    def dispute(self, by: bytes, request: int, claim: bytes) -> int:
        doing = "market.dispute"
        found = self._in(doing, request, RequestStatus.APPROVED)
        self._only_grantee(doing, by, found)
        if claim == _ZERO:
            raise refused(doing, "InvalidDigest")
        if self.ledger.now() > found.deadline:
            raise refused(doing, "TooLate", deadline=found.deadline)
        owner = self._token(found).owner
        number = self.board.open(doing, Kind.DELIVERY, by, owner, request, claim)
        self._change(found, status=RequestStatus.DISPUTED)
        self.ledger.emit("RequestDisputed", request=request, number=number, claim=claim)
        return number

    def resolve(self, request: int, outcome: Outcome) -> None:
        """What the Board calls."""
        found = self.requests[request]
        owner = self._token(found).owner
        if outcome is Outcome.REJECTED:
            self.tally[found.grantee, "overruled"] += 1
            self._pay(found)
        elif outcome is Outcome.UPHELD:
            self.tally[owner, "failed"] += 1
            self.credit(found.token, found.grantee, found.price)
            self._close(found, RequestStatus.REFUNDED)
        else:
            self.tally[owner, "undecided"] += 1
            self.credit(found.token, owner, found.price // 2)
            self.credit(found.token, found.grantee, found.price - found.price // 2)
            self._close(found, RequestStatus.HALVED)

    def open_of(self, account: bytes) -> int:
        return sum(
            one.grantee == account and one.status is RequestStatus.OPEN
            for one in self.requests
        )

    def _check_approval(self, doing: str, by: bytes, found: Request, now: int) -> None:
        """What `Datasets.giveFor` asks beyond `give`."""
        token = self._token(found)
        if token.committee != by:
            raise refused(doing, "NotCommittee", dataset=found.dataset, account=by)
        if found.grantee == token.owner:
            raise refused(doing, "OwnDataset", dataset=found.dataset)
        self.ledger.require(doing, token.owner, ROLE_DATA_PROVIDER)
        if found.version != token.version:
            raise refused(doing, "StaleVersion", version=found.version)
        held = self.ledger.records.get((found.dataset, found.grantee), Record())
        lives = not held.revoked and held.until > now
        narrower = (
            held.units & ~found.units
            or held.purposes & ~found.purposes
            or held.until > now + found.days * DAY_S
        )
        if lives and narrower:
            raise refused(doing, "NarrowerThanGranted", units=held.units)
        scope = Scope(found.units, found.purposes, found.acknowledged)
        self.ledger.check_scope(doing, token, scope)
        if found.days > token.terms.max_days:
            raise refused(doing, "InvalidExpiry", days=found.days)

    def _token(self, found: Request) -> DatasetToken:
        return self.ledger.tokens[found.dataset]

    def find(self, doing: str, request: int) -> Request:
        if request >= len(self.requests):
            raise refused(doing, "NoSuchRequest", request=request)
        return self.requests[request]

    def _in(self, doing: str, request: int, status: RequestStatus) -> Request:
        found = self.find(doing, request)
        if found.status is not status:
            raise refused(doing, "WrongStatus", request=request, status=found.status)
        return found

    def _only_grantee(self, doing: str, by: bytes, found: Request) -> None:
        if found.grantee != by:
            raise refused(doing, "NotGrantee", request=found.request, account=by)

    def _only_after(self, doing: str, found: Request) -> None:
        if self.ledger.now() <= found.deadline:
            raise refused(doing, "TooEarly", deadline=found.deadline)

    def _refund(self, found: Request) -> None:
        self.credit(found.token, found.grantee, found.price)
        self._close(found, RequestStatus.REFUNDED)

    def _pay(self, found: Request) -> None:
        owner = self._token(found).owner
        self.tally[owner, "delivered"] += 1
        self.tally[found.grantee, "received"] += 1
        self.credit(found.token, owner, found.price)
        self._close(found, RequestStatus.PAID)

    def _close(self, found: Request, status: RequestStatus) -> None:
        self._change(found, status=status)
        self.ledger.emit(
            "RequestClosed",
            request=found.request,
            dataset=found.dataset,
            status=int(status),
        )

    def _change(self, found: Request, **changes: object) -> None:
        # The values are checked by the tests that hold this against the contracts.
        self.requests[found.request] = found.changed(**changes)
