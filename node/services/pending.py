"""Batches a verifier is not done with: what was drawn of each, and when to look again.

A host sees what it is asked for.  Could it have other coins tossed by not answering, or by being
away for a minute, it would choose what is audited; so what is drawn of a batch is stored before
the host is asked for any of it, and stands until it was looked at, or until the host is free of
showing it.
"""

from collections.abc import Callable

from node.clock import now_s
from node.ports.storage import Store
from protocol.receipt import ROWS_KEPT_S
from protocol.wire import Message, decode, encode

_PENDING, _LOOKED = "audit-batches", "audit-looked"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 600, 86_400
"""Between two looks at a batch; each is twice the last, so that a host that is gone for good costs
an attempt and an event a day until its rows would be deleted."""
LOOKED_LIMIT_BYTES = 1 << 16
"""Of a batch's 4096 draws, five bytes each at most."""

WHOLE, PASSED_OVER = -1, -2


class _Looked(Message, frozen=True, tag="audit-looked"):
    """What a node knows of a batch it could not finish."""

    since: int
    """Unix seconds of the first look."""
    times: int
    due: int
    draws: tuple[int, ...]
    """For each receipt a layer, `WHOLE` or `PASSED_OVER`; empty until the host listed them."""


class Pending:
    """By key, which is the host's account and the batch's root."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def note(self, key: bytes, place: bytes) -> None:
        """A batch was anchored at `place` of the chain."""
        await self._store.put(_PENDING, key, place)

    async def all(self) -> list[bytes]:
        """Every batch that is not done with."""
        return [key for key, _ in await self._store.scan(_PENDING)]

    async def due(self) -> list[bytes]:
        """Those whose pause is over."""
        now = now_s()
        found = await self._store.scan(_LOOKED)
        return [key for key, data in found if _read(data).due <= now]

    async def draws(
        self, key: bytes, count: int, toss: Callable[[int], int]
    ) -> tuple[int, ...]:
        """What is looked at of each of `count` receipts: tossed once, durable from then on."""
        looked = await self._looked(key)
        if len(looked.draws) != count:
            draws = tuple(toss(index) for index in range(count))
            looked = _Looked(looked.since, looked.times, looked.due, draws)
            await self._store.put(_LOOKED, key, encode(looked))
        return looked.draws

    async def done(self, key: bytes) -> None:
        """Never look at it again."""
        await self._store.put_many([(_PENDING, key, None), (_LOOKED, key, None)])

    async def later(self, key: bytes) -> bool:
        """Look again after a pause; False if nothing need be shown any more."""
        looked, now = await self._looked(key), now_s()
        if now > looked.since + ROWS_KEPT_S:
            return False
        # Not 2 to the power of whatever is stored: sixteen doublings are beyond the longest.
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S << min(looked.times, 16))
        again = _Looked(looked.since, looked.times + 1, now + pause, looked.draws)
        await self._store.put(_LOOKED, key, encode(again))
        return True

    async def _looked(self, key: bytes) -> _Looked:
        data = await self._store.get(_LOOKED, key)
        return _Looked(now_s(), 0, 0, ()) if data is None else _read(data)


def _read(data: bytes) -> _Looked:
    return decode(data, _Looked, limit_bytes=LOOKED_LIMIT_BYTES)
