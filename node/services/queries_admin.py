"""What an operator may ask about questions: what is let be asked, and asking (docs/rpc.md)."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from node.errors import AccessError
from node.services.node import Node
from protocol.queries import fitting
from protocol.queries.models import Feature, Fit, Linear
from protocol.queries.spec import MICRO

Row = dict[str, Any]
Handler = Callable[[Any], Awaitable[Row]]


class QueriesAdmin:
    """Handlers by method."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def methods(self) -> Mapping[str, Handler]:
        """As `node.services.admin.Admin` serves them."""
        return {
            "queries.allow": self._allow,
            "queries.stop": self._stop,
            "queries.list": self._list,
            "queries.ask": self._ask,
            "queries.evaluate": self._evaluate,
            "queries.train": self._train,
            "queries.resume": self._resume,
            "queries.forget": self._forget,
        }

    async def _allow(self, params: Any) -> Row:
        row = await self._node.queries.allow(
            params.dataset, params.kinds, params.epsilon, params.delta, params.floor
        )
        slices = await self._node.market.slices(params.dataset)
        answering = {one["dataset"] for one in await self._node.queries.rows()}
        return {**row, "same_rows": [one for one in slices if one in answering]}

    async def _stop(self, params: Any) -> Row:
        return await self._node.queries.stop(params.dataset)

    async def _list(self, _params: Any) -> Row:
        queries = self._node.queries
        return {"policies": await queries.rows(), "open": await queries.open()}

    async def _ask(self, params: Any) -> Row:
        return await self._node.queries.ask(
            params.kind,
            params.datasets,
            round(params.rho * MICRO),
            columns=params.columns,
            where=list(params.where.items()),
            between=(params.low, params.high),
            bins=params.bins,
            levels=params.levels,
            event=params.event,
            probabilities=params.probabilities,
            path=params.path and Path(params.path),
        )

    async def _evaluate(self, params: Any) -> Row:
        return await self._node.queries.evaluate(
            params.datasets,
            round(params.rho * MICRO),
            _asked(params),
            where=list(params.where.items()),
            reach=params.reach,
            bins=params.bins,
            every=params.every,
            path=params.path and Path(params.path),
        )

    async def _train(self, params: Any) -> Row:
        return await self._node.queries.train(
            params.datasets,
            round(params.rho * MICRO),
            *_fitted(params),
            where=list(params.where.items()),
            path=params.path and Path(params.path),
        )

    async def _resume(self, params: Any) -> Row:
        return await self._node.queries.resume(
            params.query, params.path and Path(params.path)
        )

    async def _forget(self, params: Any) -> Row:
        return await self._node.queries.forget(params.query)


def _asked(params: Any) -> Linear | tuple[bytes, bytes | None, str]:
    """What `queries.evaluate` is to try: weights, or a run, perhaps its state, and a class."""
    if (params.model is None) == (params.run is None):
        raise AccessError("needs a model or a run, one of the two")
    if params.model is not None:
        if params.answer:
            raise AccessError("a class is of a run, and weights have their own answer")
        return _linear(params.model, params.model.weights)
    return (
        bytes.fromhex(params.run),
        None if params.state is None else bytes.fromhex(params.state),
        params.answer,
    )


def _fitted(params: Any) -> tuple[Linear, Fit]:
    """What `queries.train` begins with."""
    linear = _linear(params, (0.0,) * (1 + len(params.features)))
    rate = params.rate
    if rate is None:
        rate = 0.75 * fitting.steady_rate(linear, params.ridge)
    return linear, Fit(
        params.rounds, 0, float(params.clip), float(rate), float(params.ridge)
    )


def _linear(said: Any, weights: Any) -> Linear:
    return Linear(
        tuple(
            Feature(one.column, float(one.low), float(one.high))
            for one in said.features
        ),
        said.label,
        said.yes,
        tuple(map(float, weights)),
    )
