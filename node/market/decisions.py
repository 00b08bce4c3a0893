"""Who decides on a request: its owner, another account, or the seats of a committee.

Before anybody agrees, the owner's node has made and kept the message that will bring the keys, so
an approval commits to bytes that exist.  Seats sign off the chain; the owner's node collects what
they signed and brings it once it is enough.  It can keep a decision back, as an owner can by being
away, and cannot make one: the contract counts the signatures again.
"""

from collections.abc import Mapping
from typing import Any

from node.errors import AccessError
from node.market import names
from node.market.key_messages import KeyMessages
from node.market.requests import Requests
from node.market.tools import Tools
from node.ports.chain import DatasetToken
from node.ports.market import (
    Committees,
    Decision,
    Market,
    Request,
    RequestStatus,
    Seats,
)
from protocol.deals import (
    ASK_LIMIT_BYTES,
    DEALS_PROTOCOL,
    Ask,
    Ballot,
    BallotAnswer,
    DeliveryQuery,
    KeyDigestAnswer,
    KeyDigestQuery,
)
from protocol.manifest import ANSWER_LIMIT_BYTES
from protocol.members import ROLE_AUDITOR, Member
from protocol.types import DIGEST_BYTES, Digest, PeerId, digest
from protocol.wire import decode, encode

ASK_TIMEOUT_S = 600.0
"""Counting a ballot may end in a transaction."""
_BALLOTS = "market.ballots"

Row = dict[str, Any]


class Decisions:
    """Approvals and refusals, of this node or through it."""

    def __init__(
        self,
        tools: Tools,
        requests: Requests,
        messages: KeyMessages,
        market: Market,
        committees: Committees | None,
    ) -> None:
        self._tools = tools
        self._requests = requests
        self._messages = messages
        self._market = market
        self._committees = committees

    async def approve(self, number: int) -> Row:
        """Agree: alone where this account decides, as one seat where a committee does."""
        found, token = await self._open(number)
        return await self._decide(found, token, await self._key_digest(found, token))

    async def refuse(self, number: int) -> Row:
        """Likewise say no; the price goes back."""
        return await self._decide(*await self._open(number), None)

    async def answer(self, peer: PeerId, payload: bytes) -> bytes:
        """Serve who decides on our datasets, and auditors."""
        ask: Ask = decode(payload, Ask, limit_bytes=ASK_LIMIT_BYTES)  # type: ignore[arg-type] # a union is no class
        members = await self._tools.chain.members()
        member = members.by_peer(peer)
        if member is None:
            raise AccessError("not a member", hint="register with the federation")
        if isinstance(ask, DeliveryQuery):
            return await self._shown(ask.request, member)
        found, token = await self._open(ask.request)
        if isinstance(ask, KeyDigestQuery):
            await self._require_seat(token, member)
            message = await self._message(found)
            return encode(KeyDigestAnswer(digest(message)))
        return encode(await self._count(found, token, member, ask))

    async def delivered(self, number: int) -> bytes:
        """The message of a disputed request, from its owner; for an auditor."""
        found = await self._requests.find(number)
        token = await self._tools.token(found.dataset)
        return await self._ask(token, DeliveryQuery(number), ANSWER_LIMIT_BYTES)

    # --- deciding --------------------------------------------------------------

    async def _decide(
        self, found: Request, token: DatasetToken, key_digest: Digest | None
    ) -> Row:
        members = await self._tools.chain.members()
        me = names.me(self._tools.signer.peer_id, members)
        done, said = True, {"signed": 1, "threshold": 1}
        if token.committee == me.account:
            await self._alone(found.request, key_digest)
        else:
            answer = await self._sign(found, token, me, key_digest)
            done = answer.done
            said = {"signed": answer.signed, "threshold": answer.threshold}
        verb = "refused" if key_digest is None else "approved"
        await self._tools.store.append_event(
            f"request_{verb}" if done else "ballot_signed",
            {"request": found.request, "dataset": found.dataset, "agreed": verb},
        )
        return {**await self._requests.row(found.request), **said}

    async def _alone(self, number: int, key_digest: Digest | None) -> None:
        if key_digest is None:
            await self._market.reject(number)
        else:
            await self._market.approve(number, key_digest)

    async def _sign(
        self,
        found: Request,
        token: DatasetToken,
        me: Member,
        key_digest: Digest | None,
    ) -> BallotAnswer:
        seats = await self._require_seat(token, me)
        assert self._committees is not None
        decision = Decision(found.request, key_digest, seats.nonce, found.deadline)
        ballot = Ballot(
            found.request,
            key_digest or b"",
            seats.nonce,
            found.deadline,
            await self._committees.sign(token.committee, decision),
        )
        if token.owner == me.account:
            return await self._count(found, token, me, ballot)
        answer = await self._ask(token, ballot, ASK_LIMIT_BYTES)
        return decode(answer, BallotAnswer, limit_bytes=ASK_LIMIT_BYTES)

    async def _key_digest(self, found: Request, token: DatasetToken) -> Digest:
        if self._tools.shelf.by_dataset(found.dataset) is not None:
            return digest(await self._message(found))
        answer = await self._ask(token, KeyDigestQuery(found.request), ASK_LIMIT_BYTES)
        said = decode(answer, KeyDigestAnswer, limit_bytes=ASK_LIMIT_BYTES).digest
        if len(said) != DIGEST_BYTES:
            raise AccessError(f"the owner's digest has {len(said)} bytes")
        return Digest(said)

    # --- the owner's part ------------------------------------------------------

    async def _message(self, found: Request) -> bytes:
        members = await self._tools.chain.members()
        grantee = members.by_account(found.grantee)
        if grantee is None:
            raise AccessError(f"who asked in request {found.request} is no member now")
        return await self._messages.of(found, grantee)

    async def _shown(self, number: int, member: Member) -> bytes:
        found = await self._requests.find(number)
        disputed = found.status is RequestStatus.DISPUTED
        if not (member.has(ROLE_AUDITOR) and disputed):
            raise AccessError("only auditors of a dispute see a message with keys")
        message = await self._messages.shown(found)
        if message is None:
            raise AccessError(f"there is no message for request {number}")
        return message

    async def _count(
        self, found: Request, token: DatasetToken, member: Member, ballot: Ballot
    ) -> BallotAnswer:
        """Keep a seat's ballot; bring the decision once enough have signed the same."""
        seats = await self._require_seat(token, member)
        committees = self._committees
        assert committees is not None
        key = Digest(ballot.key_digest) if ballot.key_digest else None
        if key is not None and key != digest(await self._message(found)):
            raise AccessError("the ballot approves other keys than there are")
        if (ballot.nonce, ballot.deadline) != (seats.nonce, found.deadline):
            raise AccessError(
                f"the ballot is for act {ballot.nonce} of the committee, the next is "
                f"{seats.nonce}",
                hint="the committee has decided something meanwhile; sign again",
            )
        decision = Decision(ballot.request, key, ballot.nonce, ballot.deadline)
        signer = await committees.signer(token.committee, decision, ballot.signature)
        if signer != member.account:
            raise AccessError("the ballot is signed by another account than it is of")
        place = found.request.to_bytes(8, "big") + signer
        await self._tools.store.put(_BALLOTS, place, encode(ballot))
        same = await self._same(ballot, seats)
        if len(same) < seats.threshold:
            return BallotAnswer(len(same), seats.threshold, False)
        enough = [same[one] for one in sorted(same)][: seats.threshold]
        await committees.decide(token.committee, decision, enough)
        await self._forget(found.request)
        return BallotAnswer(len(same), seats.threshold, True)

    async def _same(self, ballot: Ballot, seats: Seats) -> Mapping[bytes, bytes]:
        """Signatures under the same decision, by account."""
        found: dict[bytes, bytes] = {}
        for place, value in await self._tools.store.scan(_BALLOTS):
            one = decode(value, Ballot)
            said = (one.request, one.key_digest, one.nonce, one.deadline)
            if said == (
                *(ballot.request, ballot.key_digest),
                *(ballot.nonce, ballot.deadline),
            ):
                found[place[8:]] = one.signature
        return {one: found[one] for one in found if one in seats.accounts}

    async def _forget(self, number: int) -> None:
        start = number.to_bytes(8, "big")
        gone = await self._tools.store.scan(_BALLOTS)
        await self._tools.store.put_many(
            [(_BALLOTS, place, None) for place, _ in gone if place.startswith(start)]
        )

    # --- lookups ---------------------------------------------------------------

    async def _open(self, number: int) -> tuple[Request, DatasetToken]:
        await self._tools.shelf.load()
        found = await self._requests.find(number)
        if found.status is not RequestStatus.OPEN:
            raise AccessError(
                f"request {number} is {found.status.name.lower()}, not open",
                hint="`rexis grant requests` shows those that are",
            )
        return found, await self._tools.token(found.dataset)

    async def _require_seat(self, token: DatasetToken, member: Member) -> Seats:
        """Whoever decides alone is a committee of one, too."""
        if token.committee == member.account:
            return Seats((member.account,), 1, 0)
        seats = None
        if self._committees is not None:
            seats = await self._committees.seats(token.committee)
        if seats is None or member.account not in seats.accounts:
            raise AccessError(
                f"{member.name} does not decide on dataset {token.dataset}",
                hint=f"its committee is 0x{token.committee.hex()}",
            )
        return seats

    async def _ask(
        self,
        token: DatasetToken,
        ask: KeyDigestQuery | Ballot | DeliveryQuery,
        limit_bytes: int,
    ) -> bytes:
        members = await self._tools.chain.members()
        owner = names.holder(token, members)
        if owner.peer_id == self._tools.signer.peer_id:
            return await self.answer(owner.peer_id, encode(ask))
        return await self._tools.transport.request(
            owner.peer_id,
            DEALS_PROTOCOL,
            encode(ask),
            timeout_s=ASK_TIMEOUT_S,
            limit_bytes=limit_bytes,
        )
