"""A training, round after round, through restarts of this node and absences of others.

What has come of each round is durable before the next is asked, and the question of the next
follows from it alone.  So a training that was cut goes on where it was, and asks nobody twice:
who has answered a round answers it with the same bytes, and has charged all rounds with the first.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trio

from node.clock import now_s
from node.market.reader import write_private
from node.ports.storage import Store
from node.services import query_courses
from node.services.query_asking import Asking, LostError
from protocol.listing import COUNT_FLOOR
from protocol.queries import fitting
from protocol.queries.bundle import BUNDLE_LIMIT_BYTES, Bundle
from protocol.queries.fitting import Rounds
from protocol.queries.spec import Query
from protocol.wire import Message, decode, encode

_TRAINING, _ROUND = "query-training", "query-training-round"

Owners = Mapping[int, bytes]
"""By dataset, as the chain has them."""


class UnderWay(Message, frozen=True, tag="query-training"):
    """The question of the first round, and when that was done."""

    first: Query
    at: int


class Trainings:
    """Those of this node that are under way."""

    def __init__(self, store: Store, asking: Asking) -> None:
        self._store = store
        self._asking = asking

    async def train(
        self, first: Query, owners: Owners, manifests: Owners, path: Path | None
    ) -> dict[str, Any]:
        """All rounds that are not done yet; `first` is the question of the first."""
        async with self._asking.alone(first):
            bundles = await self._bundles(first)
            rounds = first.fit.rounds if first.fit is not None else 1
            sums = fitting.totals(bundles, owners, manifests)
            course = fitting.followed(first, sums)
            for number in range(len(bundles), rounds):
                query = fitting.question(first, number, course.weights)
                try:
                    bundle = await self._asking.bundle(query, owners, manifests)
                except LostError:
                    await self.forget(first)
                    raise
                await self._done(first, number, bundle)
                bundles.append(bundle)
                sums += fitting.totals([bundle], owners, manifests)
                course = fitting.followed(first, sums)
            if path is not None:
                data = encode(Rounds(tuple(bundles)))
                await trio.to_thread.run_sync(write_private, path, data)
            await self.forget(first)
        return {
            **self._asking.row(first, bundles[-1], owners, path),
            "result": fitting.model(first, course, COUNT_FLOOR),
        }

    async def named(self, name: str) -> Query | None:
        """The training under way whose id begins with `name`."""
        for first, _ in await self._under_way():
            if first.id().hex().startswith(name):
                return first
        return None

    async def open(self) -> list[dict[str, Any]]:
        """Those with a round behind them and no weights yet, as open questions."""
        return [
            query_courses.row(first, at, "answers", running=self._asking.running(first))
            for first, at in await self._under_way()
        ]

    async def _under_way(self) -> list[tuple[Query, int]]:
        """First questions, and when their first rounds were done."""
        found = [
            decode(data, UnderWay, limit_bytes=BUNDLE_LIMIT_BYTES)
            for _, data in await self._store.scan(_TRAINING)
        ]
        return [(one.first, one.at) for one in found]

    async def _done(self, first: Query, number: int, bundle: Bundle) -> None:
        writes: list[tuple[str, bytes, bytes | None]] = [
            (_ROUND, _key(first, number), encode(bundle))
        ]
        if number == 0:
            # Not before: until there is an answer it is a question like another.
            kept = encode(UnderWay(first, now_s()))
            writes.append((_TRAINING, first.id(), kept))
        await self._store.put_many(writes)

    async def forget(self, first: Query) -> None:
        """Nothing is held of it any more; nothing happens if nothing was."""
        rounds = [
            (_ROUND, key, None)
            for key, _ in await self._store.scan(_ROUND)
            if key.startswith(first.id())
        ]
        await self._store.put_many([*rounds, (_TRAINING, first.id(), None)])

    async def _bundles(self, first: Query) -> list[Bundle]:
        start = bytes(first.id())
        found = sorted(
            row for row in await self._store.scan(_ROUND) if row[0].startswith(start)
        )
        return [
            decode(data, Bundle, limit_bytes=BUNDLE_LIMIT_BYTES) for _, data in found
        ]


def _key(first: Query, number: int) -> bytes:
    return first.id() + number.to_bytes(8, "big")
