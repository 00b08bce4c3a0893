"""The Market port on the market in memory, for tests that need a federation and not an EVM."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple

import trio

from node.adapters.chain_scores import BOARD_FIELDS, MARKET_FIELDS, scores
from node.adapters.memory_ledger import Scope
from node.adapters.memory_market import Market, Wanted
from node.ports.market import Case, Purse, Request, RequestStatus, Rules
from protocol.types import Digest


class MemoryMarket:
    """The Market port on such a market, through one account."""

    def __init__(self, market: Market, account: bytes) -> None:
        self._market, self._board = market, market.board
        self.account = account

    async def requests(self) -> list[Request]:
        await trio.lowlevel.checkpoint()
        return list(self._market.requests)

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
        await trio.lowlevel.checkpoint()
        token = self._market.ledger.token("datasets.datasetOf", dataset)
        scope = Scope(
            units,
            token.terms.allowed if purposes is None else purposes,
            token.terms.required if acknowledged is None else acknowledged,
        )
        paid_in = token.terms.token
        read = token.record if record is None else record
        wanted = Wanted(dataset, read, scope, days, max_price, paid_in)
        return self._market.request(self.account, wanted)

    async def approve(self, request: int, key_digest: Digest) -> None:
        await trio.lowlevel.checkpoint()
        self._market.approve(self.account, request, key_digest)

    async def approval(self, request: int) -> Digest | None:
        await trio.lowlevel.checkpoint()
        for event in reversed(self._market.ledger.events):
            approved = event.kind == "RequestApproved"
            if approved and event.data["request"] == request:
                return Digest(event.data["keyDigest"])
        return None

    async def reject(self, request: int) -> None:
        await trio.lowlevel.checkpoint()
        self._market.reject(self.account, request)

    async def cancel(self, request: int) -> None:
        await trio.lowlevel.checkpoint()
        self._market.cancel(self.account, request)

    async def accept(self, request: int) -> None:
        await trio.lowlevel.checkpoint()
        self._market.accept(self.account, request)

    async def dispute(self, request: int, claim: Digest) -> int:
        await trio.lowlevel.checkpoint()
        return self._market.dispute(self.account, request, claim)

    async def close_request(self, request: int) -> None:
        await trio.lowlevel.checkpoint()
        found = self._market.find("market.requestOf", request)
        if found.status is RequestStatus.APPROVED:
            self._market.settle(request)
        else:
            self._market.expire(request)

    async def cases(self) -> list[Case]:
        await trio.lowlevel.checkpoint()
        return list(self._board.cases)

    async def challenge(
        self,
        host: bytes,
        root: Digest,
        receipt: bytes,
        index: int,
        proof: Sequence[Digest],
        claim: Digest,
    ) -> int:
        await trio.lowlevel.checkpoint()
        row = (host, root, receipt, index, proof, claim)
        return self._board.challenge(self.account, *row)

    async def vote(self, case: int, report: Digest, *, uphold: bool) -> None:
        await trio.lowlevel.checkpoint()
        self._board.vote(self.account, case, report, uphold=uphold)

    async def close_case(self, case: int) -> None:
        await trio.lowlevel.checkpoint()
        self._board.close(case)

    async def stake(self, amount: int) -> None:
        await trio.lowlevel.checkpoint()
        self._board.stake(self.account, amount)

    async def unstake(self, amount: int) -> None:
        await trio.lowlevel.checkpoint()
        self._board.unstake(self.account, amount)

    async def release(self) -> None:
        await trio.lowlevel.checkpoint()
        self._board.release(self.account)

    async def collect(self, token: bytes) -> None:
        await trio.lowlevel.checkpoint()
        place = (token, self.account)
        held = [one for one in (self._market, self._board) if one.credits[place]]
        for one in held or [self._market]:
            one.collect(self.account, token)

    async def scores(self, account: bytes) -> Mapping[str, tuple[int, int]]:
        await trio.lowlevel.checkpoint()
        return scores(
            {name: self._market.tally[account, name] for name in MARKET_FIELDS},
            {name: self._board.tally[account, name] for name in BOARD_FIELDS},
        )

    async def rules(self) -> Rules:
        await trio.lowlevel.checkpoint()
        return Rules(*[*astuple(self._market.values), self._board.token])

    async def accepts(self, token: bytes) -> bool:
        await trio.lowlevel.checkpoint()
        return token in self._market.accepted

    async def purse(self, token: bytes) -> Purse:
        await trio.lowlevel.checkpoint()
        place = (token, self.account)
        held = self._market.credits[place] + self._board.credits[place]
        return Purse(token, self._market.coins.balances[token][self.account], held)
