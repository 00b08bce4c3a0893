"""Requests, decisions, disputes and money of one node: the market beside the listings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
import trio

from node.errors import (
    AccessError,
    ChainDownError,
    ChainError,
    NodeError,
    StorageError,
)
from node.market import names, reader
from node.market.catalogue import Catalogue
from node.market.decisions import Decisions
from node.market.key_messages import KeyMessages
from node.market.requests import Requests
from node.market.tools import Tools
from node.ports.market import Case, Committees, Market, RequestStatus
from protocol.deals import ASK_LIMIT_BYTES, DEALS_PROTOCOL
from protocol.errors import ProtocolError
from protocol.members import Member
from protocol.types import Digest, digest

SEATS_LIMIT = 32
"""`Committee.MAX_SEATS`."""
REPORT_LIMIT_BYTES = 1 << 26

_WAITING = {RequestStatus.OPEN, RequestStatus.APPROVED, RequestStatus.DISPUTED}

Row = dict[str, Any]

log = structlog.get_logger()


class Deals:
    """The face of it; only where the chain has a market."""

    def __init__(
        self,
        tools: Tools,
        catalogue: Catalogue,
        messages: KeyMessages,
        market: Market,
        committees: Committees | None,
    ) -> None:
        self._tools = tools
        self._messages = messages
        self._market = market
        self._committees = committees
        self.requests = Requests(tools, catalogue, market)
        self.decisions = Decisions(tools, self.requests, messages, market, committees)

    def serve(self) -> None:
        """Answer committees and auditors over the transport."""
        self._tools.transport.serve(
            DEALS_PROTOCOL, self.decisions.answer, limit_bytes=ASK_LIMIT_BYTES
        )

    async def committed(self, dataset: int, member: Member, units: int) -> bytes | None:
        """The message that the newest approval for this member and these units promised."""
        for one in reversed(await self._market.requests()):
            if (one.dataset, one.grantee) != (dataset, member.account):
                continue
            if one.status in {RequestStatus.OPEN, RequestStatus.REFUNDED}:
                continue
            found = await self._messages.for_release(one, member, units)
            if found is not None:
                return found
        return None

    async def require_settled(self, dataset: int) -> None:
        """Raise where a request waits for a decision, or for the keys that it was promised."""
        waiting = sorted(
            one.request
            for one in await self._market.requests()
            if one.dataset == dataset and one.status in _WAITING
        )
        if waiting:
            raise AccessError(
                f"requests {', '.join(map(str, waiting))} for dataset {dataset} are not settled: "
                "they were made for its keys as they are",
                hint="refuse them, or wait until they are paid or closed (`rexis grant requests`)",
            )

    async def make_committee(self, seats: Sequence[str], threshold: int) -> Row:
        """A contract in which enough of these members decide together."""
        if self._committees is None:
            raise AccessError("this chain has no committees")
        members = await self._tools.chain.members()
        accounts = [names.by_name(members, name).account for name in seats]
        if twice := sorted({name for name in seats if list(seats).count(name) > 1}):
            raise AccessError(
                f"{', '.join(twice)} is named twice",
                hint="a member sits on a committee once",
            )
        if not 1 <= threshold <= len(accounts) <= SEATS_LIMIT:
            raise AccessError(
                f"{threshold} of {len(accounts)} seats cannot decide",
                hint=f"name 1 to {SEATS_LIMIT} members, and a threshold of 1 to all of them",
            )
        made = await self._committees.make(accounts, threshold)
        address = "0x" + made.hex()
        await self._tools.store.append_event("committee_made", {"committee": address})
        return {"committee": address, "seats": list(seats), "threshold": threshold}

    async def account(self) -> Row:
        """What this node has and how it stands, and the rules that the council set."""
        members = await self._tools.chain.members()
        me = names.me(self._tools.signer.peer_id, members)
        rules = await self._market.rules()
        datasets = await self._tools.chain.datasets()
        tokens = {rules.bond_token, *(one.terms.token for one in datasets)}
        purses = [await self._readable(one) for one in sorted(tokens) if any(one)]
        shown = {
            name: getattr(rules, name)
            for name in rules.__dataclass_fields__
            if name not in {"bond", "bond_token"}
        }
        bonded = any(rules.bond_token)
        return {
            "account": "0x" + me.account.hex(),
            "purses": [one for one in purses if one is not None],
            "scores": await self.scores(me.name),
            "rules": {
                **shown,
                "bond": str(rules.bond),
                "bond_token": "0x" + rules.bond_token.hex() if bonded else None,
            },
        }

    async def _readable(self, token: bytes) -> Row | None:
        """Any owner may write any address into its terms, and what is there may be no ERC-20."""
        try:
            return await self._purse(token)
        except ChainDownError:
            raise
        except ChainError as error:
            log.info("no such token", token=token.hex(), reason=str(error))
            return None

    async def unaccepted(self, dataset: int) -> list[str]:
        """What the owner of a dataset is warned of: nobody can pay in its token."""
        token = await self._tools.token(dataset)
        if not token.price or await self._market.accepts(token.terms.token):
            return []
        return [
            (
                f"the members have not accepted token 0x{token.terms.token.hex()} for prices: nobody "
                "can ask for this dataset; `rexis council propose --take` asks them to"
            )
        ]

    async def require_decider(self, account: bytes) -> None:
        """A member, or a committee: nobody else could answer a request."""
        members = await self._tools.chain.members()
        if members.by_account(account) is not None or self._committees is None:
            return
        if await self._committees.seats(account) is None:
            raise AccessError(
                f"0x{account.hex()} is neither a member nor a committee",
                hint="name a member, or the address that `rexis committee make` printed",
            )

    async def _purse(self, token: bytes) -> Row:
        purse = await self._market.purse(token)
        return {
            "token": "0x" + token.hex(),
            "balance": str(purse.balance),
            "held": str(purse.held),
            "accepted": await self._market.accepts(token),
        }

    async def scores(self, name: str) -> Row:
        """A member's record as numbers; nobody can write it."""
        member = names.by_name(await self._tools.chain.members(), name)
        found = await self._market.scores(member.account)
        return {
            "member": member.name,
            "roles": [
                {"role": role, "score": score, "cases": cases}
                for role, (score, cases) in found.items()
            ],
        }

    async def collect(self, token: bytes) -> Row:
        """Fetch what the contracts hold for this node in one token."""
        await self._market.collect(token)
        row = await self._purse(token)
        await self._tools.store.append_event("collected", {"token": row["token"]})
        return row

    # --- cases -----------------------------------------------------------------

    async def cases(self) -> list[Row]:
        """Disputed deliveries and challenged receipts, by number."""
        members = await self._tools.chain.members()

        def name(account: bytes) -> str:
            member = members.by_account(account)
            return "0x" + account.hex() if member is None else member.name

        return [
            {
                "case": one.case,
                "about": "delivery" if one.delivery else "receipt",
                "request": one.subject if one.delivery else None,
                "plaintiff": name(one.plaintiff),
                "defendant": name(one.defendant),
                "closes": one.closes,
                "upholding": one.upholding,
                "rejecting": one.rejecting,
                "quorum": one.quorum,
                "outcome": one.outcome.name.lower(),
            }
            for one in await self._market.cases()
        ]

    async def check_case(self, number: int) -> Row:
        """An auditor's look at a disputed delivery: is the message there, and is it sound?

        Sound is what can be seen without the grantee's key: the bytes that the approval
        committed to, of the dataset as the chain has it, with a header for each unit.
        """
        case = await self._case(number)
        if not case.delivery:
            raise AccessError(
                f"case {number} is about a receipt",
                hint="`rexis audit list` replays those",
            )
        request = await self.requests.find(case.subject)
        committed = await self._market.approval(case.subject)
        row: Row = {
            "case": number,
            "request": case.subject,
            "committed": None if committed is None else committed.hex(),
            "shown": None,
            "sound": False,
            "why": None,
        }
        try:
            message = await self.decisions.delivered(case.subject)
            row["shown"] = digest(message).hex()
            if digest(message) != committed:
                raise AccessError(
                    "it is another message than the approval committed to"
                )
            token = await self._tools.token(request.dataset)
            owner = names.holder(token, await self._tools.chain.members())
            reader.check_units(
                message, token, owner, wanted=request.units, granted=request.units
            )
        except (NodeError, ProtocolError) as error:
            return {**row, "why": str(error)}
        return {**row, "sound": True}

    async def vote(self, number: int, *, uphold: bool, report: Path) -> Row:
        """An auditor's finding; the chain gets the digest of the report."""
        await self._case(number)

        def read() -> Digest:
            try:
                with report.open("rb") as file:
                    data = file.read(REPORT_LIMIT_BYTES + 1)
            except OSError as error:
                raise StorageError(
                    f"{report} cannot be read: {error.strerror}"
                ) from error
            if len(data) > REPORT_LIMIT_BYTES:
                raise StorageError(
                    f"{report} is longer than {REPORT_LIMIT_BYTES} bytes"
                )
            return digest(data)

        found = await trio.to_thread.run_sync(read)
        await self._market.vote(number, found, uphold=uphold)
        await self._tools.store.append_event(
            "voted", {"case": number, "uphold": uphold, "report": found.hex()}
        )
        return (await self.cases())[number]

    async def close_case(self, number: int) -> Row:
        """Its time is over without a quorum."""
        await self._case(number)
        await self._market.close_case(number)
        return (await self.cases())[number]

    async def _case(self, number: int) -> Case:
        found = await self._market.cases()
        if number >= len(found):
            raise AccessError(
                f"case {number} is not on the chain",
                hint="`rexis market cases` lists them",
            )
        return found[number]
