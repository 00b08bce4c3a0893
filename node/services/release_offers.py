"""Which record of a model counts: the first that the chain had for its root.

Anybody can announce a release of a trunk that it saw, with other hosts or other licences, and
announcements have no order; if the first one heard counted, whoever is quicker would shadow the
true one.  The chain has an order.  So a record is an offer until the chain's first record of
the root is known, and that one alone stands.  A releaser announces after its own record stands,
so nobody learns the root from it any earlier.
"""

import structlog

from node.ports import Store
from protocol.errors import ProtocolError
from protocol.evaluation import RELEASE_LIMIT_BYTES, Release
from protocol.types import DIGEST_BYTES, Digest, digest
from protocol.wire import decode, encode

_OFFERS, _FIRST, _CURSOR = "release-offers", "release-first", "release-cursor"
_BLOCK = b"block"
OFFERS_LIMIT = 16
"""That wait for the chain, of one member: an honest one announces what is on the chain already, so
they wait for this node to see it."""

log = structlog.get_logger()


class Offers:
    """Releases that wait for the chain's word, and the chain's word on each root."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._first: dict[bytes, tuple[Digest, bytes]] = {}
        self._waiting: dict[tuple[bytes, Digest], tuple[bytes, Release]] = {}

    async def load(self) -> None:
        """What was known before the restart."""
        for root, data in await self._store.scan(_FIRST):
            record, account = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
            self._first[root] = Digest(record), account
        for _, data in await self._store.scan(_OFFERS):
            source, encoded = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
            release = decode(encoded, Release, limit_bytes=RELEASE_LIMIT_BYTES)
            self._waiting[release.model_root, digest(encoded)] = source, release

    async def start(self) -> int:
        """The block from which the chain has to be read."""
        cursor = await self._store.get(_CURSOR, _BLOCK)
        return 0 if cursor is None else int.from_bytes(cursor, "big")

    def first(self, root: bytes) -> tuple[Digest, bytes] | None:
        """The record that the chain had first, and whose account anchored it."""
        return self._first.get(root)

    def roots(self) -> list[bytes]:
        """Models that the chain has a record of."""
        return list(self._first)

    async def anchored(
        self, root: bytes, record: bytes, account: bytes, block: int
    ) -> bool:
        """The chain has a record; whether it is the first of that root."""
        news = root not in self._first
        if news:
            await self._store.put(_FIRST, root, record + account)
            self._first[root] = Digest(record), account
        await self._store.put(_CURSOR, _BLOCK, block.to_bytes(8, "big"))
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
        first = self._first.get(root)
        if first is None or (root, first[0]) not in self._waiting:
            return None
        return self._waiting[root, first[0]][1]

    async def clear(self, root: bytes) -> int:
        """Forget all offers of a root; how many there were."""
        gone = [place for place in self._waiting if place[0] == root]
        for place in gone:
            await self._store.delete(_OFFERS, place[0] + place[1])
            del self._waiting[place]
        return len(gone)
