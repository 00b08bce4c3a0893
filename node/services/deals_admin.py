"""What an operator may ask about requests, committees, cases and the council."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from node.errors import ChainError
from node.market.deals import Deals
from node.ports.market import Council
from node.services.node import Node

Row = dict[str, Any]
Handler = Callable[[Any], Awaitable[Row]]


class DealsAdmin:
    """The methods of one node that need the chain's market."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def methods(self) -> Mapping[str, Handler]:
        """Every one by its name."""
        return {
            "requests.make": self._make,
            "requests.list": self._list,
            "requests.approve": self._approve,
            "requests.refuse": self._refuse,
            "requests.cancel": self._cancel,
            "requests.accept": self._accept,
            "requests.dispute": self._dispute,
            "requests.close": self._close,
            "committees.make": self._committee,
            "market.show": self._account,
            "market.scores": self._scores,
            "market.collect": self._collect,
            "cases.list": self._cases,
            "cases.check": self._check,
            "cases.vote": self._vote,
            "cases.close": self._close_case,
            "council.list": self._motions,
            "council.propose": self._propose,
            "council.vote": self._agree,
            "council.execute": self._execute,
        }

    async def _make(self, params: Any) -> Row:
        return await self._deals.requests.make(
            params.dataset,
            params.days,
            params.units,
            params.purposes,
            params.acknowledged,
            int(params.max_price),
        )

    async def _list(self, params: Any) -> Row:
        return {"requests": await self._deals.requests.rows(params.dataset)}

    async def _approve(self, params: Any) -> Row:
        return await self._deals.decisions.approve(params.request)

    async def _refuse(self, params: Any) -> Row:
        return await self._deals.decisions.refuse(params.request)

    async def _cancel(self, params: Any) -> Row:
        return await self._deals.requests.cancel(params.request)

    async def _accept(self, params: Any) -> Row:
        return await self._deals.requests.accept(params.request)

    async def _dispute(self, params: Any) -> Row:
        return await self._deals.requests.dispute(
            params.request, params.reason, Path(params.path)
        )

    async def _close(self, params: Any) -> Row:
        return await self._deals.requests.close(params.request)

    async def _committee(self, params: Any) -> Row:
        return await self._deals.make_committee(params.seats, params.threshold)

    async def _account(self, _params: Any) -> Row:
        return await self._deals.account()

    async def _scores(self, params: Any) -> Row:
        return await self._deals.scores(params.member)

    async def _collect(self, params: Any) -> Row:
        return await self._deals.collect(bytes.fromhex(params.token[2:]))

    async def _cases(self, _params: Any) -> Row:
        return {"cases": await self._deals.cases()}

    async def _check(self, params: Any) -> Row:
        return await self._deals.check_case(params.case)

    async def _vote(self, params: Any) -> Row:
        return await self._deals.vote(
            params.case, uphold=params.uphold, report=Path(params.report)
        )

    async def _close_case(self, params: Any) -> Row:
        return await self._deals.close_case(params.case)

    async def _motions(self, _params: Any) -> Row:
        return {
            "motions": [
                {
                    "motion": one.number,
                    "text": one.text,
                    "yes": one.yes,
                    "electorate": one.electorate,
                    "opened": one.opened,
                    "ready": one.ready or None,
                    "done": one.done,
                }
                for one in await self._council.motions()
            ]
        }

    async def _propose(self, params: Any) -> Row:
        if (params.token is None) == (not params.rules):
            raise ChainError(
                "one proposal is about one token, or about some parameters",
                hint="name a token or parameters, not both",
            )
        if params.token is not None:
            token = bytes.fromhex(params.token[2:])
            await self._council.propose_token(token, accepted=params.accepted)
        else:
            await self._council.propose_rules(**params.rules)
        return await self._motions(params)

    async def _agree(self, params: Any) -> Row:
        await self._council.vote(params.motion)
        return await self._motions(params)

    async def _execute(self, params: Any) -> Row:
        await self._council.execute(params.motion)
        return await self._motions(params)

    @property
    def _deals(self) -> Deals:
        deals = self._node.market.deals
        if deals is None:
            raise ChainError("this chain has no market")
        return deals

    @property
    def _council(self) -> Council:
        council = self._node.parts.council
        if council is None:
            raise ChainError("this chain has no council")
        return council
