"""The grantee's side of a request: ask, pay into escrow, accept, dispute; and what all can see."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
import trio

from node.adapters import chain_duo
from node.errors import AccessError, ContractRefusedError
from node.market import names
from node.market.catalogue import Catalogue
from node.market.reader import write_private
from node.market.tools import Tools
from node.ports.chain import DatasetToken
from node.ports.market import Market, Request, RequestStatus
from protocol import duo
from protocol.listing import Listing
from protocol.manifest import unit_list
from protocol.members import Member, MemberSet
from protocol.types import digest

_RECEIVED = "market.received"
NO_TOKEN = bytes(20)
_DAY_S = 86_400

Row = dict[str, Any]

log = structlog.get_logger()


class Requests:
    """What this node asked for, and every request on the chain."""

    def __init__(self, tools: Tools, catalogue: Catalogue, market: Market) -> None:
        self._tools = tools
        self._catalogue = catalogue
        self._market = market

    async def make(
        self,
        dataset: int,
        days: int,
        units: Sequence[int] | None,
        purposes: Sequence[str],
        acknowledged: Sequence[str],
        max_price: int,
    ) -> Row:
        """Ask the dataset's committee; the price goes into escrow until it has answered."""
        token = await self._tools.token(dataset)
        members = await self._tools.chain.members()
        me = names.me(self._tools.signer.peer_id, members)
        if token.owner == me.account:
            raise AccessError(
                f"dataset {dataset} is this node's own",
                hint="requests are for datasets of others",
            )
        listing = await self._catalogue.listing(dataset)
        asked = _purposes(token, listing, purposes)
        kept = _acknowledged(token, acknowledged)
        if token.price > max_price:
            raise AccessError(
                f"dataset {dataset} costs {token.price} of token 0x"
                f"{token.terms.token.hex()}, at most {max_price} was offered",
                hint="name the price you agree to with --max-price",
            )
        if not 1 <= days <= token.terms.max_days:
            raise AccessError(
                f"{days} days, dataset {dataset} is given for 1 to "
                f"{token.terms.max_days}",
                hint="ask for fewer; one may ask again when they are over",
            )
        if token.price and not await self._market.accepts(token.terms.token):
            raise AccessError(
                f"dataset {dataset} costs {token.price} of token 0x"
                f"{token.terms.token.hex()}, which the members have not accepted",
                hint="`rexis council propose --take 0x…` asks them to",
            )
        left = [i for i in range(token.units) if not token.withdrawn >> i & 1]
        chosen = names.bits(left if units is None else units, token.units)
        await self._require_wider(token, me, chosen, asked, days)
        number = await self._market.request(
            dataset,
            chosen,
            days,
            max_price,
            purposes=asked,
            acknowledged=kept,
            record=listing.digest(),
        )
        await self._tools.store.append_event(
            "access_requested",
            {"request": number, "dataset": dataset, "price": str(token.price)},
        )
        return await self.row(number)

    async def _require_wider(
        self, token: DatasetToken, me: Member, units: int, purposes: int, days: int
    ) -> None:
        """The contract would refuse the approval, after everybody had decided and the price was paid."""
        head = await self._tools.chain.head()
        now = max(self._tools.now(), head.time)
        for one in await self._tools.chain.grants(token.dataset):
            if one.grantee != me.account or one.revoked or one.until <= now:
                continue
            lost = unit_list(one.units & ~units)
            codes, _ = chain_duo.described(one.purposes & ~purposes, 0)
            late = one.until > now + days * _DAY_S
            if not (lost or codes or late):
                continue
            less = [
                *([f"units {lost}"] if lost else []),
                *codes,
                *([f"{-((now - one.until) // _DAY_S)} days"] if late else []),
            ]
            raise AccessError(
                f"{me.name} has grant {one.grant} of dataset {token.dataset}, with "
                f"{', '.join(less)} that this request leaves out",
                hint="a request says all that one is to have: ask for these too, or once the "
                "grant is over",
            )

    async def cancel(self, number: int) -> Row:
        """Take back a request that nobody has answered; its price comes back."""
        await self._mine(number)
        await self._market.cancel(number)
        return await self._closed(number, "request_cancelled")

    async def accept(self, number: int) -> Row:
        """Say that the keys came, which pays the owner; only if this node has seen them come."""
        found = await self._mine(number)
        if found.status is RequestStatus.APPROVED and not await self._came(found):
            raise AccessError(
                f"the keys that the approval of request {number} committed to have not "
                "been read here",
                hint=f"`rexis dataset fetch {found.dataset} --to PATH` reads them; if they "
                "do not come, dispute the request",
            )
        await self._market.accept(number)
        return await self._closed(number, "request_accepted")

    async def dispute(self, number: int, reason: str, path: Path) -> Row:
        """Say that no key came, or a wrong one; `path` is what auditors are shown."""
        found = await self._mine(number)
        if found.status is not RequestStatus.APPROVED:
            # Before the claim is written: there would be a file about nothing.
            raise AccessError(
                f"request {number} is {found.status.name.lower()}, not approved",
                hint="one disputes what was approved and is not paid yet",
            )
        committed = await self._market.approval(number)
        claim = {
            "request": number,
            "dataset": found.dataset,
            "committed": None if committed is None else committed.hex(),
            "received": await self._came(found),
            "reason": reason,
        }
        data = json.dumps(claim, sort_keys=True).encode() + b"\n"
        # The file first: a claim that nobody can show is lost with its bond.
        await trio.to_thread.run_sync(write_private, path, data)
        case = await self._market.dispute(number, digest(data))
        return {
            **await self._closed(number, "request_disputed"),
            "case": case,
            "path": str(path),
        }

    async def close(self, number: int) -> Row:
        """Its time is over: a request nobody answered is refunded, an approved one paid."""
        await self._market.close_request(number)
        return await self._closed(number, "request_closed")

    async def close_due(self) -> None:
        """Close what is over and would give this node its money."""
        members = await self._tools.chain.members()
        me = members.by_peer(self._tools.signer.peer_id)
        if me is None:
            return
        now = (await self._tools.chain.head()).time
        tokens = await self._tools.chain.datasets()
        for one in await self._market.requests():
            over = one.deadline < now
            refund = one.status is RequestStatus.OPEN and one.grantee == me.account
            pay = one.status is RequestStatus.APPROVED
            pay = pay and tokens[one.dataset].owner == me.account
            if over and (refund or pay):
                try:
                    await self.close(one.request)
                except ContractRefusedError as error:
                    # Somebody else closed it meanwhile; the others wait for their money.
                    log.info("not closed", request=one.request, reason=str(error))

    async def received(self, dataset: int, message: bytes) -> None:
        """The owner sent keys: note which request's approval had committed to just these."""
        found = digest(message)
        members = await self._tools.chain.members()
        me = names.me(self._tools.signer.peer_id, members)
        for one in await self._market.requests():
            if (one.dataset, one.grantee) != (dataset, me.account):
                continue
            if one.status is not RequestStatus.APPROVED or await self._came(one):
                continue
            if await self._market.approval(one.request) == found:
                await self._tools.store.put_many(
                    [(_RECEIVED, _key(one), found)],
                    event=(
                        "keys_received",
                        {"request": one.request, "dataset": dataset},
                    ),
                )

    async def rows(self, dataset: int | None) -> list[Row]:
        """Every request, or those for one dataset, by number."""
        members = await self._tools.chain.members()
        tokens = await self._tools.chain.datasets()
        found = await self._market.requests()
        return [
            self._shown(one, tokens[one.dataset], members)
            for one in found
            if dataset is None or one.dataset == dataset
        ]

    async def row(self, number: int) -> Row:
        found = await self.find(number)
        token = await self._tools.token(found.dataset)
        return self._shown(found, token, await self._tools.chain.members())

    async def find(self, number: int) -> Request:
        """A request by its number, or a refusal."""
        found = await self._market.requests()
        if number >= len(found):
            raise AccessError(
                f"request {number} is not on the chain",
                hint="`rexis grant requests` lists what is",
            )
        return found[number]

    async def _mine(self, number: int) -> Request:
        found = await self.find(number)
        members = await self._tools.chain.members()
        me = names.me(self._tools.signer.peer_id, members)
        if found.grantee != me.account:
            raise AccessError(
                f"request {number} is of another member",
                hint="`rexis grant requests` shows who asked",
            )
        return found

    async def _came(self, request: Request) -> bool:
        return await self._tools.store.get(_RECEIVED, _key(request)) is not None

    async def _closed(self, number: int, event: str) -> Row:
        row = await self.row(number)
        said = {"request": number, "dataset": row["dataset"], "status": row["status"]}
        await self._tools.store.append_event(event, said)
        return row

    def _shown(self, one: Request, token: DatasetToken, members: MemberSet) -> Row:
        mine = members.by_peer(self._tools.signer.peer_id)
        account = b"" if mine is None else mine.account
        purposes, acknowledged = chain_duo.described(one.purposes, one.acknowledged)
        return {
            "request": one.request,
            "dataset": one.dataset,
            "owner": _name(members.by_account(token.owner), token.owner),
            "grantee": _name(members.by_account(one.grantee), one.grantee),
            "units": unit_list(one.units),
            "purposes": purposes,
            "acknowledged": acknowledged,
            "days": one.days,
            "price": str(one.price),
            "token": None if one.token == NO_TOKEN else "0x" + one.token.hex(),
            "status": one.status.name.lower(),
            "deadline": one.deadline,
            "mine": one.grantee == account,
        }


def _name(member: Member | None, account: bytes) -> str:
    return "0x" + account.hex() if member is None else member.name


def _key(request: Request) -> bytes:
    return request.request.to_bytes(8, "big") + request.grantee


def _purposes(token: DatasetToken, listing: Listing, codes: Sequence[str]) -> int:
    """What is asked for, if the listing's terms and the chain's both admit it."""
    bits = 0
    for code in codes:
        bit = chain_duo.purpose(code)
        if not (duo.permits(listing.duo, code) and token.terms.allowed & bit):
            allowed, _ = chain_duo.described(token.terms.allowed, 0)
            raise AccessError(
                f"dataset {token.dataset} is not for {code} ({duo.label(code)})",
                hint=f"it is for {', '.join(allowed)}",
            )
        bits |= bit
    return bits


def _acknowledged(token: DatasetToken, codes: Sequence[str]) -> int:
    bits = chain_duo.modifiers(codes)
    if missing := token.terms.required & ~bits:
        _, wanted = chain_duo.described(0, missing)
        said = ", ".join(f"{code} ({duo.label(code)})" for code in wanted)
        raise AccessError(
            f"dataset {token.dataset} asks to acknowledge {said}",
            hint="acknowledge a condition that you keep to with --acknowledge",
        )
    return bits
