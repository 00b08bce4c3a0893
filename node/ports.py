"""What the daemon needs from the outside, and nothing about how it is got.

Five ports.  Each has a real adapter and one in memory under `node/adapters/`, and one
conformance suite under `tests/conformance/` that both must pass.  Services and the
driver are written against these names only, so a federation can run inside one test
without a socket, and a transport or a chain can be replaced by writing one module.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Protocol

from protocol.types import Digest, PeerId, PublicKey

Answer = Callable[[PeerId, bytes], Awaitable[bytes]]
"""Serve one request: who asks, what; a `NodeError` travels back as an error frame."""

Progress = Callable[[Mapping[str, Any]], None]


class Transport(Protocol):
    """Members of the federation, and the three ways to reach them."""

    @property
    def peer_id(self) -> PeerId: ...

    def addresses(self) -> tuple[str, ...]: ...

    def connected(self) -> frozenset[PeerId]: ...

    def keep_connected(self, peer: PeerId, addresses: tuple[str, ...]) -> None: ...

    def serve(self, protocol: str, answer: Answer, *, limit_bytes: int) -> None: ...

    async def announce(self, topic: str, payload: bytes) -> None: ...

    async def request(
        self,
        peer: PeerId,
        protocol: str,
        payload: bytes,
        *,
        timeout_s: float,
        limit_bytes: int,
    ) -> bytes: ...


class Blobs(Protocol):
    """Large content by its SHA-256, on disk."""

    def has(self, digest: Digest) -> bool: ...

    def size(self, digest: Digest) -> int: ...

    def read(self, digest: Digest, offset: int, length: int) -> bytes: ...

    def put(self, data: bytes) -> Digest: ...


class Store(Protocol):
    """Small records that survive kill -9 once a write has returned."""

    async def get(self, namespace: str, key: bytes) -> bytes | None: ...

    async def put(self, namespace: str, key: bytes, value: bytes) -> None: ...

    async def delete(self, namespace: str, key: bytes) -> None: ...

    async def scan(self, namespace: str) -> list[tuple[bytes, bytes]]: ...

    async def append_event(self, kind: str, data: Mapping[str, Any]) -> int: ...


class Compute(Protocol):
    """The trusted child that does the key holder's tensor work."""

    async def call(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        progress: Progress | None = None,
    ) -> dict[str, Any]: ...


class Signer(Protocol):
    """The node's keys; the secret halves never leave the adapter."""

    @property
    def public_key(self) -> PublicKey: ...

    @property
    def peer_id(self) -> PeerId: ...

    @property
    def seal_key(self) -> bytes: ...

    def sign(self, message: bytes) -> bytes: ...

    def agree(self, seal_key: bytes) -> bytes: ...

    def open_sealed(self, sealed: bytes) -> bytes: ...


class Chain(Protocol):
    """The contracts, as the daemon speaks of them; see `adapters/evm_contracts.py`."""

    async def head(self) -> Any: ...

    def follow(self, from_block: int) -> AsyncIterator[Any]: ...
