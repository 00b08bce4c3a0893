"""What a fetch is about and what has become known of it, and how holders are asked."""

from collections import Counter
from contextlib import AbstractAsyncContextManager

from node.adapters.libp2p.exchange import Exchange
from node.adapters.libp2p.frames import Body
from node.adapters.partial_blob import CHUNK_BYTES
from node.errors import NodeError, TransportError
from node.ports.storage import Blobs
from protocol.types import DIGEST_BYTES, Digest, PeerId
from protocol.wire import Message, encode

BLOB_PROTOCOL = "rexis/blob/2"
LIST_PROTOCOL = "rexis/blob-list/1"
SIZE_BYTES = 8


class Want(Message, frozen=True, tag="want"):
    """Ask for `count` chunks of a blob from chunk `first` on, and for its size."""

    digest: bytes
    first: int
    count: int


class Wanted:
    """One blob, its limits, and what its holders have done so far."""

    def __init__(
        self,
        exchange: Exchange,
        blobs: Blobs,
        digest: Digest,
        *,
        limit_bytes: int,
        timeout_s: float,
        lasting: bool = True,
    ) -> None:
        self._exchange = exchange
        self._timeout = timeout_s
        self.blobs = blobs
        self.digest = digest
        self.limit_bytes = limit_bytes
        self.lasting = lasting
        self.sources: Counter[PeerId] = Counter()
        self.liars: set[PeerId] = set()
        self.errors: dict[PeerId, NodeError] = {}

    def ask(self, peer: PeerId, span: range) -> AbstractAsyncContextManager[Body]:
        """`SIZE_BYTES` of the size of the whole, then the chunks of `span` there are."""
        return self._exchange.answer(
            peer,
            BLOB_PROTOCOL,
            encode(Want(self.digest, span.start, len(span))),
            timeout_s=self._timeout,
            limit_bytes=SIZE_BYTES + len(span) * CHUNK_BYTES,
        )

    async def claims(self, peer: PeerId, chunks: int) -> list[bytes]:
        """The digests that `peer` says the chunks have."""
        data = await self._exchange.request(
            peer,
            LIST_PROTOCOL,
            self.digest,
            timeout_s=self._timeout,
            limit_bytes=DIGEST_BYTES * chunks,
        )
        starts = range(0, len(data), DIGEST_BYTES)
        return [data[start : start + DIGEST_BYTES] for start in starts]

    def accuse(self, peer: PeerId, found: str) -> None:
        self.liars.add(peer)
        self.errors[peer] = TransportError(
            f"blob of {peer} has digest {found}, not {self.digest.hex()}",
            hint="the peer sent other bytes than it announced; ask another",
        )
