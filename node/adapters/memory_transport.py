"""The `Transport` port inside one process: a federation without a socket.

It keeps the port's promises, not its timing: membership is asked at every step, sizes are
bounded, refusals travel, an announcement arrives once, and what was missed while apart
comes when two nodes meet.
"""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import trio

from node.errors import AccessError, NodeError, TransportError
from node.ports.storage import Blobs
from node.ports.transport import Announcement, Answer, Fetched
from protocol.errors import LocalProtocolError, ProtocolError
from protocol.gossip import KEEP_NOTES, PAYLOAD_LIMIT_BYTES
from protocol.types import Digest, PeerId
from protocol.types import digest as digest_of

logger = logging.getLogger(__name__)

QUEUE_LENGTH = 1024


class MemoryNetwork:
    """The nodes that can reach each other, by peer id."""

    def __init__(self) -> None:
        self.running: dict[PeerId, MemoryTransport] = {}
        self.said: dict[PeerId, list[Announcement]] = {}


class MemoryTransport:
    """One node of a `MemoryNetwork`."""

    def __init__(
        self,
        *,
        network: MemoryNetwork,
        peer: PeerId,
        allowed: Callable[[PeerId], bool],
        blobs: Blobs,
        may_fetch: Callable[[PeerId, Digest], bool],
    ) -> None:
        self._network = network
        self._peer = peer
        self._allowed = allowed
        self._blobs = blobs
        self._may_fetch = may_fetch
        self._served: dict[str, tuple[Answer, int]] = {}
        self._wanted: set[PeerId] = set()
        self._heard: dict[PeerId, int] = {}
        self._arrived, self._arrivals = trio.open_memory_channel[Announcement](
            QUEUE_LENGTH
        )

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        if self._peer in self._network.running:
            raise TransportError(
                f"cannot listen on {self.addresses()[0]}: taken",
                hint="another process holds the address",
            )
        self._network.running[self._peer] = self
        try:
            for peer in self._network.running:
                self._meet(peer)
            task_status.started()
            await trio.sleep_forever()
        finally:
            del self._network.running[self._peer]

    @property
    def peer_id(self) -> PeerId:
        return self._peer

    def addresses(self) -> tuple[str, ...]:
        return (f"/memory/{self._peer}",)

    def connected(self) -> frozenset[PeerId]:
        if self._peer not in self._network.running:
            return frozenset()
        return frozenset(filter(self._joined, self._network.running))

    def keep_connected(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        if addresses:
            self._wanted.add(peer)
            self._meet(peer)

    def serve(self, protocol: str, answer: Answer, *, limit_bytes: int) -> None:
        if protocol in self._served:
            raise TransportError(f"protocol {protocol!r} is served already")
        self._served[protocol] = (answer, limit_bytes)

    async def announce(self, topic: str, payload: bytes) -> None:
        if len(payload) > PAYLOAD_LIMIT_BYTES:
            raise LocalProtocolError(
                f"announcement has {len(payload)} bytes, limit is {PAYLOAD_LIMIT_BYTES}"
            )
        said = self._network.said.setdefault(self._peer, [])
        said.append(Announcement(self._peer, topic, bytes(payload)))
        for peer in self.connected():
            self._network.running[peer].catch_up()
        await trio.lowlevel.checkpoint()

    def announcements(self) -> AsyncIterator[Announcement]:
        return self._arrivals

    async def request(
        self,
        peer: PeerId,
        protocol: str,
        payload: bytes,
        *,
        timeout_s: float,
        limit_bytes: int,
    ) -> bytes:
        other = self._reach(peer)
        try:
            with trio.fail_after(timeout_s):
                data = await other.answer(self._peer, protocol, payload)
        except trio.TooSlowError as error:
            raise TransportError(
                f"{protocol} to {peer} took longer than {timeout_s} s"
            ) from error
        if len(data) > limit_bytes:
            raise TransportError(
                f"answer of {peer} has {len(data)} bytes, limit is {limit_bytes}"
            )
        return data

    async def fetch(
        self,
        peer: PeerId,
        digest: Digest,
        *,
        limit_bytes: int,
        timeout_s: float,
        others: Sequence[PeerId] = (),
        lasting: bool = True,  # noqa: ARG002 - here nothing is
    ) -> Fetched:
        liars: set[PeerId] = set()
        errors: dict[PeerId, NodeError] = {}
        with trio.move_on_after(timeout_s):  # in memory nothing takes longer
            await trio.lowlevel.checkpoint()
        if self._blobs.has(digest):
            return Fetched({}, frozenset())
        for holder in (peer, *others):
            try:
                data = self._reach(holder).give(self._peer, digest, limit_bytes)
            except (AccessError, TransportError) as error:
                errors[holder] = error
                continue
            if digest_of(data) == digest:
                self._blobs.put(data)
                return Fetched({holder: len(data)}, frozenset(liars))
            liars.add(holder)
            errors[holder] = TransportError(
                f"blob of {holder} has digest {digest_of(data).hex()}, not {digest.hex()}"
            )
        if len(errors) == 1:
            raise errors[peer]
        told = "; ".join(f"{holder}: {error}" for holder, error in errors.items())
        refused = all(isinstance(error, AccessError) for error in errors.values())
        kind = AccessError if refused else TransportError
        raise kind(f"no holder gave blob {digest.hex()}: {told}")

    async def answer(self, peer: PeerId, protocol: str, payload: bytes) -> bytes:
        """Serve `peer`; only what a refusal frame carries gets out."""
        await trio.lowlevel.checkpoint()
        answer, limit = self._served.get(protocol, (None, 0))
        if answer is None:
            raise TransportError(f"protocol {protocol!r} is not served")
        if len(payload) > limit:
            raise TransportError(f"request has {len(payload)} bytes, limit is {limit}")
        try:
            return bytes(await answer(peer, bytes(payload)))
        except AccessError as error:
            raise AccessError(str(error), hint=error.hint()) from error
        except (NodeError, ProtocolError) as error:
            raise TransportError(str(error)) from error
        except Exception as error:  # a service's bug must not stop the node
            logger.exception("service failed protocol=%s peer=%s", protocol, peer)
            raise TransportError("internal error at the peer") from error

    def give(self, peer: PeerId, digest: Digest, limit: int) -> bytes:
        """The blob, if policy, presence and size allow."""
        if not self._may_fetch(peer, digest):
            raise AccessError("not allowed")
        if not self._blobs.has(digest):
            raise TransportError(f"blob {digest.hex()} is not here")
        size = self._blobs.size(digest)
        if size > limit:
            raise TransportError(
                f"answer of {self._peer} has {size} bytes, limit is {limit}"
            )
        return self._blobs.read(digest, 0, size)

    def catch_up(self) -> None:
        """Deliver what was said and not heard, as long as the consumer keeps up."""
        for origin, said in self._network.said.items():
            if origin == self._peer or not self._allowed(origin):
                continue
            start = max(self._heard.get(origin, 0), len(said) - KEEP_NOTES)
            for number in range(start, len(said)):
                try:
                    self._arrived.send_nowait(said[number])
                except trio.WouldBlock:
                    return
                self._heard[origin] = number + 1

    def _joined(self, peer: PeerId) -> bool:
        """Both run, either dialled, both take the other for a member."""
        other = self._network.running.get(peer)
        return (
            other is not None
            and other is not self
            and self._peer in self._network.running
            and (peer in self._wanted or self._peer in other._wanted)  # noqa: SLF001
            and self._allowed(peer)
            and other._allowed(self._peer)  # noqa: SLF001 - the same class
        )

    def _meet(self, peer: PeerId) -> None:
        if self._joined(peer):
            self.catch_up()
            self._network.running[peer].catch_up()

    def _reach(self, peer: PeerId) -> "MemoryTransport":
        if not self._allowed(peer):
            raise TransportError(f"peer {peer} is not a member")
        if not self._joined(peer):
            raise TransportError(
                f"peer {peer} is not connected",
                hint="check that its node runs and that its address is right",
            )
        return self._network.running[peer]
