"""Lookups in what the chain says, each with its refusal."""

import re
from collections.abc import Sequence
from typing import Any

from node.adapters import chain_duo
from node.errors import AccessError, ChainError
from node.ports.chain import DatasetToken, Grant
from protocol.croissant import to_croissant
from protocol.listing import Listing, Part
from protocol.manifest import bitmap
from protocol.members import Member, MemberSet
from protocol.types import PeerId


def me(peer: PeerId, members: MemberSet) -> Member:
    """The member that has our own peer id."""
    member = members.by_peer(peer)
    if member is None:
        raise AccessError(
            "this node is not a member on the chain",
            hint="ask the federation's registrar to admit it",
        )
    return member


def bits(units: Sequence[int] | None, size: int) -> int:
    """Bitmap of named units of a dataset with `size`; None is all."""
    chosen = tuple(range(size)) if units is None else tuple(units)
    outside = [unit for unit in chosen if not 0 <= unit < size]
    if not chosen or outside:
        raise AccessError(
            f"units {outside} are not in the dataset" if outside else "no unit named",
            hint=f"the dataset has units 0 to {size - 1}",
        )
    return bitmap(chosen)


def by_name(members: MemberSet, name: str) -> Member:
    found = [member for member in members.members if member.name == name]
    if len(found) != 1:
        known = ", ".join(sorted(member.name for member in members.members))
        raise AccessError(
            f"{len(found)} members are called {name!r}", hint=f"members are {known}"
        )
    return found[0]


def account(members: MemberSet, said: str) -> bytes:
    """A member's account by its name, or an account as it was written."""
    if re.fullmatch(r"0x[0-9a-fA-F]{40}", said):
        return bytes.fromhex(said[2:])
    return by_name(members, said).account


def holder(
    token: DatasetToken, members: MemberSet, expected: PeerId | None = None
) -> Member:
    """The owner as a member; `expected` is who the caller takes it to be."""
    owner = members.by_account(token.owner)
    if owner is None:
        raise AccessError(
            f"the owner of dataset {token.dataset} is no longer a member",
            hint="nobody can release its keys",
        )
    if expected is not None and expected != owner.peer_id:
        other = members.by_peer(expected)
        raise AccessError(
            f"dataset {token.dataset} belongs to {owner.name}, not to "
            f"{expected if other is None else other.name}",
            hint="leave the owner out; the chain knows it",
        )
    return owner


def terms(token: DatasetToken, members: MemberSet) -> dict[str, Any]:
    """What the chain holds a request and a grant against."""
    allowed, required = chain_duo.described(token.terms.allowed, token.terms.required)
    decides = token.committee or token.owner
    member = members.by_account(decides)
    return {
        "token": "0x" + token.terms.token.hex() if any(token.terms.token) else None,
        "max_days": token.terms.max_days,
        "allowed": allowed,
        "required": required,
        "committee": "0x" + decides.hex() if member is None else member.name,
    }


def columns(listing: Listing) -> list[str]:
    return [column.name for column in listing.columns]


def described(listing: Listing) -> dict[str, Any]:
    return {
        "licence": listing.licence,
        "duo": list(listing.duo),
        "source": listing.source,
        "disease": listing.disease,
        "version": listing.version,
        "previous": listing.previous.hex() or None,
        "parts": [_part(part) for part in listing.parts],
        "packed": listing.packed,
        "columns": [{"name": c.name, "kind": c.kind} for c in listing.columns],
        "rows": list(listing.rows),
        "created": listing.created,
        "manifest": listing.manifest.hex(),
        "provenance": listing.provenance.hex(),
        "croissant": to_croissant(listing),
    }


def _part(part: Part) -> dict[str, Any]:
    return {
        "name": part.name,
        "format": part.format,
        "columns": [{"name": c.name, "kind": c.kind} for c in part.columns],
        "details": list(part.details),
        "records": part.records,
    }


def grant(grants: Sequence[Grant], number: int) -> Grant:
    """The grant whose transaction has just become final."""
    for one in grants:
        if one.grant == number:
            return one
    raise ChainError(
        f"grant {number} is not on the chain after its transaction",
        hint="the chain was reorganised or replaced; look at its head",
    )
