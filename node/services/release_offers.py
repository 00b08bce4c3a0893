"""Which record of a model counts: the first that the chain had for its root.

Anybody can announce a release of a trunk that it saw, with other hosts or other licences, and
announcements have no order; if the first one heard counted, whoever is quicker would shadow the
true one.  The chain has an order (`protocol.first_record`).  So a record is an offer until the
chain's first record of the root is known, and that one alone stands.  A releaser announces after
its own record stands, so nobody learns the root from it any earlier.
"""

import struct

import structlog

from node.ports.chain import ChainEvent
from node.ports.storage import Store
from protocol.errors import ProtocolError
from protocol.evaluation import RELEASE_LIMIT_BYTES, Release
from protocol.first_record import First, FirstRecords, Place
from protocol.types import DIGEST_BYTES, Digest, digest
from protocol.wire import decode, encode

_OFFERS, _FIRST, _CLAIMS = "release-offers", "release-firsts", "release-claims"
_CURSOR, _BLOCK = "release-followed", b"block"
_PLACE = struct.Struct(">QQ?")
"""Block and place from which a record counts, and whether a claim was before it."""
OFFERS_LIMIT = 16
"""That wait for the chain, of one member: an honest one announces what is on the chain already, so
they wait for this node to see it."""

log = structlog.get_logger()


class Offers:
    """Releases that wait for the chain's word, and the chain's word on each root."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._chain = FirstRecords()
        self._waiting: dict[tuple[bytes, Digest], tuple[bytes, Release]] = {}

    async def load(self) -> None:
        """What was known before the restart."""
        firsts = [(root, _first(data)) for root, data in await self._store.scan(_FIRST)]
        claims = [
            ((key[DIGEST_BYTES:], key[:DIGEST_BYTES]), _PLACE.unpack(data)[:2])
            for key, data in await self._store.scan(_CLAIMS)
        ]
        self._chain = FirstRecords(firsts, claims)
        for _, data in await self._store.scan(_OFFERS):
            source, encoded = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
            release = decode(encoded, Release, limit_bytes=RELEASE_LIMIT_BYTES)
            self._waiting[release.model_root, digest(encoded)] = source, release

    async def start(self) -> int:
        """The block from which the chain has to be read."""
        cursor = await self._store.get(_CURSOR, _BLOCK)
        return 0 if cursor is None else int.from_bytes(cursor, "big")

    def first(self, root: bytes) -> First | None:
        """The record that the chain had first."""
        return self._chain.first(root)

    def claimed(self, account: bytes, claim: bytes) -> Place | None:
        """Where this account's claim stands in the chain."""
        return self._chain.claimed(account, claim)

    def roots(self) -> list[bytes]:
        """Models that the chain has a record of."""
        return self._chain.roots()

    async def anchored(self, event: ChainEvent) -> bool:
        """A model was anchored; whether another record counts for that root now."""
        data, place = event.data, (event.block, event.index)
        account, root, record = (
            bytes(data[name]) for name in ("account", "root", "record")
        )
        news = self._chain.anchored(account, root, record, place)
        if root == record:
            await self._store.put(_CLAIMS, root + account, _PLACE.pack(*place, True))
        elif (first := self._chain.first(root)) is not None:
            at = _PLACE.pack(*first.place, first.claimed)
            await self._store.put(_FIRST, root, first.record + first.account + at)
        await self._store.put(_CURSOR, _BLOCK, event.block.to_bytes(8, "big"))
        return news

    async def add(self, release: Release, source: bytes, name: str) -> None:
        """Keep what a member called `name` offers until the chain says whether it stands."""
        encoded = encode(release)
        place = release.model_root, digest(encoded)
        if place in self._waiting:
            return
        held = sum(by == source for by, _ in self._waiting.values())
        if held >= OFFERS_LIMIT:
            raise ProtocolError(
                f"{name} has offered {held} releases that the chain has no record of,"
                f" limit is {OFFERS_LIMIT}"
            )
        await self._store.put(_OFFERS, place[0] + place[1], source + encoded)
        self._waiting[place] = source, release

    def standing(self, root: bytes) -> Release | None:
        """The offer with the chain's record."""
        first = self.first(root)
        if first is None or (root, first.record) not in self._waiting:
            return None
        return self._waiting[root, first.record][1]

    async def clear(self, root: bytes) -> None:
        """Forget the offers of a root that the chain has decided.

        A record without a claim stands only until one with an earlier claim is shown, so what
        was offered beside it waits on.
        """
        first = self.first(root)
        if first is None:
            return
        for place in list(self._waiting):
            if place[0] == root and (first.claimed or place[1] == first.record):
                await self._store.delete(_OFFERS, place[0] + place[1])
                del self._waiting[place]


def _first(data: bytes) -> First:
    """As it was kept: record, account, place."""
    record, account = data[:DIGEST_BYTES], data[DIGEST_BYTES : -_PLACE.size]
    block, index, claimed = _PLACE.unpack(data[-_PLACE.size :])
    return First(Digest(record), account, (block, index), claimed)
