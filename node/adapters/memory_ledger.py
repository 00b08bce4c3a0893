"""What the contracts hold and refuse, in plain Python: the datasets and the anchors.

The rules are those of `contracts/src`, under the same names and with the same refusals.  Two
things keep them together: the conformance suite of the Chain port runs on both, and a state
machine (tests/contracts) drives both with the same random calls and compares every answer.
Every method takes who calls, and the time is the ledger's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from node.adapters.chain_errors import refused
from node.adapters.chain_grants import grant_id
from node.adapters.memory_registry import Registry
from node.ports.chain import DatasetToken, Grant, Terms
from protocol.members import ROLE_DATA_PROVIDER
from protocol.types import Digest

MAX_NAME_BYTES = 64
MAX_UNITS = 64
DAY_S = 86_400
_ZERO = bytes(32)


@dataclass
class Record:
    """`Datasets.Grant`."""

    units: int = 0
    purposes: int = 0
    acknowledged: int = 0
    until: int = 0
    given: int = 0
    decided: int = 0
    revoked: bool = False


@dataclass(frozen=True)
class Scope:
    """`Datasets.Scope`."""

    units: int
    purposes: int
    acknowledged: int


@dataclass(frozen=True)
class Order:
    """`Datasets.Order`."""

    dataset: int
    grantee: bytes
    scope: Scope
    until: int
    version: int
    issued: int
    deadline: int


@dataclass
class Ledger(Registry):
    """The contracts' state, shared by every account's view of it."""

    tokens: list[DatasetToken] = field(default_factory=list)
    records: dict[tuple[int, bytes], Record] = field(default_factory=dict)
    anchors: dict[tuple[object, ...], bytes] = field(default_factory=dict)
    batch_of: dict[tuple[bytes, bytes], tuple[int, int]] = field(default_factory=dict)
    """When, and of how many, by host and root."""

    # --- datasets -----------------------------------------------------------------

    def list_dataset(
        self,
        by: bytes,
        record: bytes,
        units: int,
        nth: int,
        price: int,
        terms: Terms,
    ) -> int:
        doing = "datasets.list"
        self.require(doing, by, ROLE_DATA_PROVIDER)
        if record == _ZERO:
            raise refused(doing, "InvalidRecord")
        if not 0 < units <= MAX_UNITS:
            raise refused(doing, "InvalidUnits", units=units)
        expected = sum(token.owner == by for token in self.tokens)
        if nth != expected:
            raise refused(doing, "NotNext", expected=expected, given=nth)
        self._check_terms(doing, terms)
        dataset = len(self.tokens)
        token = DatasetToken(dataset, by, Digest(record), units, price, terms, by)
        self.tokens.append(token)
        self.emit(
            "DatasetListed",
            dataset=dataset,
            owner=by,
            record=record,
            units=units,
            **_terms(price, terms),
        )
        return dataset

    def add_version(
        self, by: bytes, dataset: int, record: bytes, units: int, *, rekeyed: bool
    ) -> None:
        doing = "datasets.addVersion"
        found = self._own(doing, by, dataset)
        if record == _ZERO:
            raise refused(doing, "InvalidRecord")
        if not found.units <= units <= MAX_UNITS:
            raise refused(doing, "InvalidUnits", units=units)
        made = self._change(
            found,
            record=Digest(record),
            units=units,
            version=found.version + 1,
            key_epoch=found.key_epoch + rekeyed,
        )
        self.emit(
            "DatasetVersion",
            dataset=dataset,
            version=made.version,
            record=record,
            units=units,
            keyEpoch=made.key_epoch,
        )

    def set_terms(self, by: bytes, dataset: int, price: int, terms: Terms) -> None:
        doing = "datasets.setTerms"
        found = self._own(doing, by, dataset)
        self._check_terms(doing, terms)
        self._change(found, price=price, terms=terms)
        self.emit("TermsChanged", dataset=dataset, **_terms(price, terms))

    def set_committee(self, by: bytes, dataset: int, committee: bytes) -> None:
        doing = "datasets.setCommittee"
        if committee == bytes(20):
            raise refused(doing, "InvalidCommittee")
        self._change(self._own(doing, by, dataset), committee=committee)
        self.emit("CommitteeChanged", dataset=dataset, committee=committee)

    def withdraw_units(self, by: bytes, dataset: int, units: int) -> None:
        doing = "datasets.withdrawUnits"
        found = self._own(doing, by, dataset)
        if units == 0 or units >> found.units:
            raise refused(doing, "InvalidUnits", units=units)
        self._change(found, withdrawn=found.withdrawn | units)
        self.emit("UnitsWithdrawn", dataset=dataset, units=units)

    def withdraw(self, by: bytes, dataset: int) -> None:
        self._change(self._own("datasets.withdraw", by, dataset), open=False)
        self.emit("DatasetWithdrawn", dataset=dataset)

    def give(
        self, by: bytes, dataset: int, grantee: bytes, scope: Scope, until: int
    ) -> None:
        doing = "datasets.give"
        found = self.token(doing, dataset)
        if found.committee != by:
            raise refused(doing, "NotCommittee", dataset=dataset, account=by)
        self.check_scope(doing, found, scope)
        now = self.now()
        latest = now + found.terms.max_days * DAY_S
        if not now < until <= latest:
            raise refused(
                doing, "InvalidExpiry", until=until, earliest=now + 1, latest=latest
            )
        self.records[dataset, grantee] = Record(
            scope.units, scope.purposes, scope.acknowledged, until, now, now
        )
        self.emit(
            "AccessGranted",
            dataset=dataset,
            grantee=grantee,
            units=scope.units,
            purposes=scope.purposes,
            acknowledged=scope.acknowledged,
            until=until,
        )

    def give_by_signature(self, order: Order, signer: bytes) -> None:
        """`signer` is who signed just this order."""
        doing = "datasets.giveBySignature"
        found, now = self.token(doing, order.dataset), self.now()
        record = self.records.get((order.dataset, order.grantee), Record())
        if now > order.deadline:
            raise refused(doing, "OrderExpired", deadline=order.deadline)
        if order.issued > now:
            raise refused(doing, "OrderFromTheFuture", issued=order.issued)
        if order.issued <= record.decided:
            raise refused(doing, "StaleOrder", issued=order.issued)
        if order.version != found.version:
            raise refused(doing, "StaleVersion", version=order.version)
        if signer != found.committee:
            raise refused(doing, "BadSignature")
        self.give(signer, order.dataset, order.grantee, order.scope, order.until)

    def revoke(self, by: bytes, dataset: int, grantee: bytes) -> None:
        doing = "datasets.revoke"
        self._party(doing, by, dataset)
        record = self.records.setdefault((dataset, grantee), Record())
        if record.revoked:
            raise refused(doing, "AlreadyRevoked", dataset=dataset, grantee=grantee)
        record.revoked, record.decided = True, self.now()
        self.emit("AccessRevoked", dataset=dataset, grantee=grantee)

    def cancel_orders(self, by: bytes, dataset: int, grantee: bytes) -> None:
        self._party("datasets.cancelOrders", by, dataset)
        self.records.setdefault((dataset, grantee), Record()).decided = self.now()
        self.emit("OrdersCancelled", dataset=dataset, grantee=grantee)

    def units_for(self, dataset: int, account: bytes, purposes: int) -> int:
        """`Datasets.unitsFor`."""
        record = self.records.get((dataset, account), Record())
        grant = self._grant(dataset, account, record)
        allowed = purposes != 0 and purposes & ~grant.purposes == 0
        if not allowed or grant.revoked or record.until <= self.now():
            return 0
        return grant.units

    def grants(self, dataset: int) -> list[Grant]:
        """The grants of a dataset as they count, in the order of their grantees' admission."""
        return [
            self._grant(dataset, one.member.account, record)
            for one in self.members
            if (record := self.records.get((dataset, one.member.account))) is not None
            and record.given
        ]

    def place(self, account: bytes) -> int:
        """Position among all who were ever admitted."""
        accounts = [one.member.account for one in self.members]
        return accounts.index(account)

    # --- anchors ------------------------------------------------------------------

    def anchor_model(self, by: bytes, root: bytes, record: bytes) -> None:
        self._anchor("anchors.anchorModel", by, ("model", root), root, record)
        self.emit("ModelAnchored", account=by, root=root, record=record)

    def anchor_round(self, by: bytes, run: bytes, number: int, state: bytes) -> None:
        self._anchor("anchors.anchorRound", by, ("round", run, number), run, state)
        self.emit("RoundAnchored", account=by, run=run, number=number, state=state)

    def anchor_receipts(self, by: bytes, root: bytes, count: int) -> int:
        doing = "anchors.anchorReceipts"
        if count == 0:
            self.require(doing, by)
            raise refused(doing, "InvalidCount")
        self._anchor(doing, by, ("receipts", root), root, root)
        batch = len(self.batch_of)
        self.batch_of[by, root] = (self.now(), count)
        self.emit("ReceiptsAnchored", batch=batch, host=by, root=root, count=count)
        return batch

    # --- what the rules share -----------------------------------------------------

    def token(self, doing: str, dataset: int) -> DatasetToken:
        if dataset >= len(self.tokens):
            raise refused(doing, "NoSuchDataset", dataset=dataset)
        return self.tokens[dataset]

    def check_scope(self, doing: str, found: DatasetToken, scope: Scope) -> None:
        if not found.open:
            raise refused(doing, "Withdrawn", dataset=found.dataset)
        outside = scope.units >> found.units
        if scope.units == 0 or outside or scope.units & found.withdrawn:
            raise refused(doing, "InvalidUnits", units=scope.units)
        if scope.purposes == 0 or scope.purposes & ~found.terms.allowed:
            raise refused(
                doing,
                "PurposeNotAllowed",
                purposes=scope.purposes,
                allowed=found.terms.allowed,
            )
        if found.terms.required & ~scope.acknowledged:
            raise refused(
                doing,
                "NotAcknowledged",
                acknowledged=scope.acknowledged,
                required=found.terms.required,
            )

    def _grant(self, dataset: int, account: bytes, record: Record) -> Grant:
        token, found = self.tokens[dataset], self.membership(account)
        stands = (
            token.open
            and self.roles(token.owner) & ROLE_DATA_PROVIDER != 0
            and not record.revoked
            and found is not None
            and found.member.roles != 0
            and found.since <= record.given
            and record.purposes & token.terms.allowed != 0
            and token.terms.required & ~record.acknowledged == 0
        )
        return Grant(
            grant=-1 if found is None else grant_id(dataset, self.place(account)),
            dataset=dataset,
            grantee=account,
            units=record.units & ~token.withdrawn,
            until=record.until,
            revoked=not stands,
            purposes=record.purposes & token.terms.allowed,
            acknowledged=record.acknowledged,
        )

    def _own(self, doing: str, by: bytes, dataset: int) -> DatasetToken:
        found = self.token(doing, dataset)
        if found.owner != by:
            raise refused(doing, "NotOwner", dataset=dataset, account=by)
        if not found.open:
            raise refused(doing, "Withdrawn", dataset=dataset)
        return found

    def _party(self, doing: str, by: bytes, dataset: int) -> None:
        found = self.token(doing, dataset)
        if by not in {found.owner, found.committee}:
            raise refused(doing, "NotCommittee", dataset=dataset, account=by)

    def _check_terms(self, doing: str, terms: Terms) -> None:
        if terms.allowed == 0 or terms.max_days == 0:
            raise refused(doing, "InvalidTerms")

    def _change(self, found: DatasetToken, **changes: Any) -> DatasetToken:
        made = replace(found, **changes)
        self.tokens[found.dataset] = made
        return made

    def _anchor(
        self,
        doing: str,
        by: bytes,
        key: tuple[object, ...],
        about: bytes,
        offered: bytes,
    ) -> None:
        self.require(doing, by)
        if _ZERO in {about, offered}:
            raise refused(doing, "InvalidDigest")
        place = (by, *key)
        anchored = self.anchors.get(place)
        if anchored == offered:
            raise refused(doing, "AlreadyAnchored", digest=offered)
        if anchored is not None:
            raise refused(
                doing, "ConflictingAnchor", anchored=anchored, offered=offered
            )
        self.anchors[place] = offered


def _terms(price: int, terms: Terms) -> Mapping[str, Any]:
    return {
        "price": price,
        "token": terms.token,
        "allowed": terms.allowed,
        "required": terms.required,
        "maxDays": terms.max_days,
    }
