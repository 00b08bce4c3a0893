"""What the contracts' views return, as the port's values."""

from dataclasses import dataclass
from typing import Any

from web3 import Web3

from node.adapters.chain_grants import grant_id
from node.errors import ChainError
from node.ports.chain import DatasetToken, Grant, Terms
from node.ports.market import Case, Outcome, Request, RequestStatus
from protocol.members import Member
from protocol.types import Digest

_GIVEN = 4
"""Position in `Datasets.Grant`; zero where there is no grant."""


@dataclass(frozen=True)
class Row:
    """A member, and since when it is one."""

    member: Member
    since: int


def address(account: bytes) -> str:
    if len(account) != 20:
        raise ChainError(f"account has {len(account)} bytes, needs 20")
    return str(Web3.to_checksum_address("0x" + account.hex()))


def member_row(row: Any) -> Row:
    node_key, seal_key, account, roles, _, since, name = row
    return Row(
        Member(
            node_key=bytes(node_key),
            seal_key=bytes(seal_key),
            account=bytes.fromhex(account[2:]),
            roles=roles,
            name=name,
        ),
        since,
    )


def terms_row(price: int, terms: Terms) -> tuple[Any, ...]:
    return (price, address(terms.token), terms.allowed, terms.required, terms.max_days)


def token(dataset: int, row: Any) -> DatasetToken:
    record, owner, committee, version, key_epoch, units, is_open, withdrawn, terms = row
    price, token, allowed, required, max_days = terms
    return DatasetToken(
        dataset=dataset,
        owner=bytes.fromhex(owner[2:]),
        record=Digest(bytes(record)),
        units=units,
        price=price,
        terms=Terms(allowed, required, max_days, bytes.fromhex(token[2:])),
        committee=bytes.fromhex(committee[2:]),
        version=version,
        key_epoch=key_epoch,
        withdrawn=withdrawn,
        open=is_open,
    )


def is_given(found: Any) -> bool:
    """Whether a row of `grantsOf` is a grant at all."""
    return bool(found[_GIVEN])


def grant(
    of: DatasetToken, place: int, row: Row, found: Any, *, provides: bool
) -> Grant:
    """A grant as it counts, that is, after everything that narrows it (`unitsFor`).

    `provides` says whether the dataset's owner is a data provider now.
    """
    units, purposes, acknowledged, until, given, _, revoked = found
    stands = (
        of.open
        and provides
        and not revoked
        and row.member.roles != 0
        and row.since <= given
        and purposes & of.terms.allowed != 0
        and of.terms.required & ~acknowledged == 0
    )
    return Grant(
        grant=grant_id(of.dataset, place),
        dataset=of.dataset,
        grantee=row.member.account,
        units=units & ~of.withdrawn,
        until=until,
        revoked=not stands,
        purposes=purposes & of.terms.allowed,
        acknowledged=acknowledged,
    )


def request(number: int, row: Any) -> Request:
    grantee, status, units, days, dataset, purposes, acknowledged, *rest = row
    version, deadline, dispute_s, paid_in, amount = rest
    return Request(
        request=number,
        dataset=dataset,
        grantee=bytes.fromhex(grantee[2:]),
        units=units,
        purposes=purposes,
        acknowledged=acknowledged,
        days=days,
        version=version,
        price=amount,
        token=bytes.fromhex(paid_in[2:]),
        status=RequestStatus(status),
        deadline=deadline,
        dispute_s=dispute_s,
    )


def case(number: int, row: Any) -> Case:
    plaintiff, opened, closes, kind, outcome, defendant, *rest = row
    quorum, upholding, rejecting, bond, taken, subject = rest
    return Case(
        case=number,
        plaintiff=bytes.fromhex(plaintiff[2:]),
        defendant=bytes.fromhex(defendant[2:]),
        delivery=kind == 1,
        subject=subject,
        opened=opened,
        closes=closes,
        quorum=quorum,
        bond=bond,
        taken=taken,
        outcome=Outcome(outcome),
        upholding=upholding,
        rejecting=rejecting,
    )


def place_of(roll: list[Row], account: bytes) -> int | None:
    places = (i for i, row in enumerate(roll) if row.member.account == account)
    return next(places, None)


def same_keys(known: Member, offered: Member) -> bool:
    """Whether only the roles differ."""
    return (known.node_key, known.seal_key, known.name) == (
        offered.node_key,
        offered.seal_key,
        offered.name,
    )
