"""Noise with the membership gate, whole writes, and reads without a detour.

The stock session encrypts, then sends, and can be cancelled in between; the two ends then
disagree about the nonce and the connection is dead but listed.  Here a write leaves whole
or the connection is closed.  Reads take whatever the socket has into one buffer and
decrypt all complete messages at once, instead of two socket calls for each.
"""

import logging
import os
from collections import deque
from collections.abc import Callable
from typing import Any

import trio
from cryptography.exceptions import InvalidTag
from libp2p.abc import IRawConnection, ISecureConn
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from libp2p.peer.id import ID
from libp2p.security.noise.io import MAX_PLAINTEXT_LENGTH
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.secure_session import SecureSession
from noise.exceptions import NoiseInvalidMessage

from protocol.types import PeerId

logger = logging.getLogger(__name__)

_SEALED_BYTES = 1 << 16
"""A Noise message with its length has at most this and one byte more."""
_BUFFER_BYTES = 5 * _SEALED_BYTES
WRITE_TIMEOUT_S = 30.0
"""A peer that takes nothing for this long is dead or hostile; its connection goes."""


class Session(SecureSession):
    """A finished handshake, continued with buffered reads and shielded writes."""

    def __init__(self, stock: SecureSession) -> None:
        super().__init__(
            local_peer=stock.local_peer,
            local_private_key=stock.local_private_key,
            remote_peer=stock.remote_peer,
            remote_permanent_pubkey=stock.remote_permanent_pubkey,
            is_initiator=stock.is_initiator,
            conn=stock.conn,
        )
        noise = stock.conn.noise_state.noise_protocol
        self._raw = stock.conn.read_writer.read_write_closer
        self._socket: trio.socket.SocketType = self._raw.stream.stream.socket
        self._encrypt: Callable[[bytes, Any], bytes] = (
            noise.cipher_state_encrypt.encrypt_with_ad
        )
        self._decrypt: Callable[[bytes, Any], bytes] = (
            noise.cipher_state_decrypt.decrypt_with_ad
        )
        self._sealed = memoryview(bytearray(_BUFFER_BYTES))
        self._filled = 0
        self._plain: deque[bytes] = deque()
        self._taken = 0  # of the first piece
        self.ready = 0
        """Plain bytes that `take` can return at once."""
        self._dead = False
        self.heard = trio.current_time()
        """When bytes last came."""

    async def read(self, n: int | None = None) -> bytes:
        """Exactly `n` bytes, or what there is; fewer only at the end of the stream."""
        wanted = 1 if n is None else n
        while self.ready < wanted:
            if not await self.fill():
                break
        if wanted and not self.ready:
            raise IncompleteReadError(
                "connection closed", expected_bytes=wanted, received_bytes=0
            )
        return b"".join(self.take(self.ready if n is None else min(n, self.ready)))

    def take(self, count: int) -> list[bytes]:
        """The next `count` plain bytes, whole messages as they were decrypted."""
        self.ready -= count
        parts: list[bytes] = []
        while count:
            piece = self._plain[0]
            end = self._taken + count
            if end < len(piece):
                parts.append(piece[self._taken : end])
                self._taken = end
                break
            parts.append(piece[self._taken :])
            count = end - len(piece)
            self._plain.popleft()
            self._taken = 0
        return parts

    async def fill(self) -> bool:
        """Read once and decrypt what is complete; false at the end of the stream."""
        count = await self._receive(self._sealed[self._filled :])
        if not count:
            return False
        self.heard = trio.current_time()
        self._filled += count
        try:
            self._open_complete()
        except (InvalidTag, NoiseInvalidMessage, ValueError) as error:
            await self._kill()
            raise ConnectionClosedError("bytes do not authenticate") from error
        return True

    async def _receive(self, into: memoryview) -> int:
        """One `readv`, and one turn of the scheduler whether or not it has to wait.

        The way through the library's stream and trio's takes three turns; at full rate
        that is most of what receiving costs.
        """
        waited = False
        while (descriptor := self._socket.fileno()) >= 0:
            try:
                count = os.readv(descriptor, [into])
            except BlockingIOError:
                try:
                    await trio.lowlevel.wait_readable(descriptor)
                except trio.ClosedResourceError:
                    break
                waited = True
            except OSError as error:
                raise ConnectionClosedError(f"connection lost: {error}") from error
            else:
                if not waited:
                    await trio.lowlevel.checkpoint()
                return count
        return 0  # closed by us

    def _open_complete(self) -> None:
        """Decrypt every complete message and move the rest to the front."""
        sealed, filled, position = self._sealed, self._filled, 0
        while filled - position >= 2:
            start = position + 2
            end = start + (sealed[position] << 8 | sealed[position + 1])
            if end > filled:
                break
            piece = self._decrypt(b"", sealed[start:end])
            if piece:
                self._plain.append(piece)
                self.ready += len(piece)
            position = end
        self._filled = filled - position
        if position:
            sealed[: self._filled] = bytes(sealed[position:filled])

    async def write(self, data: bytes) -> None:
        """Send all of `data`; a cancelled caller waits until it has left."""
        if self._dead:
            raise ConnectionClosedError("connection closed")
        packets: list[bytes] = []
        with memoryview(data) as view:
            for start in range(0, max(len(data), 1), MAX_PLAINTEXT_LENGTH):
                piece = view[start : start + MAX_PLAINTEXT_LENGTH]
                sealed = self._encrypt(b"", piece)
                packets += (len(sealed).to_bytes(2, "big"), sealed)
        with trio.CancelScope(shield=True, deadline=_deadline()) as scope:
            await self._raw.write(b"".join(packets))
        if scope.cancelled_caught:
            await self._kill()
            raise ConnectionClosedError("peer takes no bytes")

    async def _kill(self) -> None:
        self._dead = True
        await self._raw.close()


def _deadline() -> float:
    return trio.current_time() + WRITE_TIMEOUT_S


class GatedNoise(NoiseTransport):
    """Noise XX that ends the connection of whoever `allowed` does not know."""

    def __init__(
        self, *args: Any, allowed: Callable[[PeerId], bool], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._allowed = allowed

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        return await self._gate(await super().secure_inbound(conn))

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        return await self._gate(await super().secure_outbound(conn, peer_id))

    async def _gate(self, stock: SecureSession) -> ISecureConn:
        peer = PeerId(str(stock.get_remote_peer()))
        if not self._allowed(peer):
            logger.warning("stranger refused peer=%s", peer)
            await stock.close()
            raise ConnectionClosedError(f"peer {peer} is not a member")
        return Session(stock)
