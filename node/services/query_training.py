"""A training, round after round, through restarts of this node and absences of others.

What has come of each round is durable before the next is asked, and the question of the next
follows from it alone.  So a training that was cut goes on where it was, and asks nobody twice:
who has answered a round answers it with the same bytes, and has charged all rounds with the first.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trio

from node.market.reader import write_private
from node.ports import Store
from node.services.query_asking import Asking
from protocol.listing import COUNT_FLOOR
from protocol.queries import fitting
from protocol.queries.bundle import BUNDLE_LIMIT_BYTES, Bundle
from protocol.queries.fitting import Rounds
from protocol.queries.spec import Query
from protocol.wire import decode, encode

_TRAINING, _ROUND = "query-training", "query-training-round"

Owners = Mapping[int, bytes]
"""By dataset, as the chain has them."""


class Trainings:
    """Those of this node that are under way."""

    def __init__(self, store: Store, asking: Asking) -> None:
        self._store = store
        self._asking = asking

    async def train(
        self, first: Query, owners: Owners, manifests: Owners, path: Path | None
    ) -> dict[str, Any]:
        """All rounds that are not done yet; `first` is the question of the first."""
        await self._store.put(_TRAINING, first.id(), encode(first))
        bundles = await self._bundles(first)
        rounds = first.fit.rounds if first.fit is not None else 1
        course = fitting.followed(first, fitting.totals(bundles, owners, manifests))
        for number in range(len(bundles), rounds):
            query = fitting.question(first, number, course.weights)
            bundle = await self._asking.bundle(query, owners, manifests)
            await self._store.put(_ROUND, _key(first, number), encode(bundle))
            bundles.append(bundle)
            course = fitting.followed(first, fitting.totals(bundles, owners, manifests))
        if path is not None:
            data = encode(Rounds(tuple(bundles)))
            await trio.to_thread.run_sync(write_private, path, data)
        done = [(_ROUND, _key(first, number), None) for number in range(rounds)]
        await self._store.put_many([*done, (_TRAINING, first.id(), None)])
        return {
            **self._asking.row(first, bundles[-1], owners, path),
            "result": fitting.model(first, course, COUNT_FLOOR),
        }

    async def named(self, name: str) -> Query | None:
        """The training under way whose id, or whose next question's, begins with `name`."""
        for key, data in await self._store.scan(_TRAINING):
            first = decode(data, Query)
            if key.hex().startswith(name):
                return first
        return None

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
