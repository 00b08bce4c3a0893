"""How the daemon speaks to other members."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from protocol.types import Digest, PeerId

Answer = Callable[[PeerId, bytes], Awaitable[bytes]]
"""Serve one request: who asks, what; a `NodeError` travels back as an error frame."""


@dataclass(frozen=True)
class Announcement:
    """One message a member told everyone."""

    origin: PeerId
    topic: str
    payload: bytes


@dataclass(frozen=True)
class Fetched:
    """How a blob came in."""

    sources: Mapping[PeerId, int]
    """Bytes by holder; what an earlier, interrupted fetch had left is nobody's."""
    liars: frozenset[PeerId]
    """Holders that sent other bytes than the digest names; the blob is right without."""


class Transport(Protocol):
    """Members of the federation, and the three ways to reach them."""

    @property
    def peer_id(self) -> PeerId: ...

    def addresses(self) -> tuple[str, ...]: ...

    def connected(self) -> frozenset[PeerId]: ...

    def keep_connected(self, peer: PeerId, addresses: tuple[str, ...]) -> None: ...

    def serve(self, protocol: str, answer: Answer, *, limit_bytes: int) -> None: ...

    async def announce(self, topic: str, payload: bytes) -> None:
        """Tell every member; delivered once to each, repaired after losses."""

    def announcements(self) -> AsyncIterator[Announcement]:
        """What others announced, in the order of arrival; one consumer."""

    async def request(
        self,
        peer: PeerId,
        protocol: str,
        payload: bytes,
        *,
        timeout_s: float,
        limit_bytes: int,
    ) -> bytes: ...

    async def fetch(
        self,
        peer: PeerId,
        digest: Digest,
        *,
        limit_bytes: int,
        timeout_s: float,
        others: Sequence[PeerId] = (),
        lasting: bool = True,
    ) -> Fetched:
        """Pull one blob into our own `Blobs`, checked against its digest.

        `others` are further holders: all give at once, and any of them may die, hang or
        lie.  What has arrived when a fetch ends early is kept for the next one.  `lasting`
        as in `Blobs`.
        """
