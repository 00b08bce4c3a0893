"""All datasets and members as the chain last had them, to look at while it does not answer.

For eyes only.  Keys are released, grants given and prices paid on what the chain says at that
moment; what is kept here says when it was read, and decides nothing.
"""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from node.errors import ChainDownError
from node.ports.chain import Chain, DatasetToken
from node.ports.storage import Store
from protocol.members import Member, MemberSet
from protocol.wire import decode, encode

_ROLL = "market.roll"
_TOKENS, _MEMBERS, _READ_AT = b"tokens", b"members", b"read-at"
_LIMIT_BYTES = 1 << 24
"""Tens of thousands of datasets and members."""


class Roll(NamedTuple):
    """`as_of` is None where it is what the chain says now, otherwise Unix seconds."""

    tokens: list[DatasetToken]
    members: MemberSet
    as_of: int | None = None

    def token(self, dataset: int) -> DatasetToken | None:
        return next((one for one in self.tokens if one.dataset == dataset), None)


class KeptRoll:
    """Reads the chain, and keeps what it read over a restart too."""

    def __init__(self, store: Store, chain: Chain, now: Callable[[], int]) -> None:
        self._store = store
        self._chain = chain
        self._now = now
        self._last: Roll | None = None

    async def read(self) -> Roll:
        """Raises `ChainDownError` only where there is nothing of an earlier day."""
        try:
            members = await self._chain.members()
            tokens = list(await self._chain.datasets())
        except ChainDownError:
            last = await self._kept()
            if last is None:
                raise
            return last
        await self._keep(Roll(tokens, members, self._now()))
        return Roll(tokens, members)

    async def _keep(self, roll: Roll) -> None:
        same = self._last is not None and self._last[:2] == roll[:2]
        self._last = roll
        if same:
            return  # nothing moved; after a restart it is as of when it last did
        await self._store.put_many(
            [
                # JSON, because a price may have more than 64 bits.
                (_ROLL, _TOKENS, msgspec.json.encode(roll.tokens)),
                (_ROLL, _MEMBERS, encode(roll.members.members)),
                (_ROLL, _READ_AT, str(roll.as_of).encode()),
            ]
        )

    async def _kept(self) -> Roll | None:
        if self._last is None:
            stored = [
                await self._store.get(_ROLL, key)
                for key in (_TOKENS, _MEMBERS, _READ_AT)
            ]
            tokens, members, read_at = stored
            if tokens is None or members is None or read_at is None:
                return None
            self._last = Roll(
                msgspec.json.decode(tokens, type=list[DatasetToken]),
                MemberSet.of(
                    list(decode(members, tuple[Member, ...], limit_bytes=_LIMIT_BYTES))
                ),
                int(read_at),
            )
        return self._last
