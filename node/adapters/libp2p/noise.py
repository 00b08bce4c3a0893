"""Noise with the membership gate, and with whole writes.

The stock session encrypts, then sends, and can be cancelled in between; the two ends then
disagree about the nonce and the connection is dead but listed.  Here a write leaves whole
or the connection is closed.  Reads take whatever the socket has and decrypt all complete
messages at once, instead of two socket calls for each.
"""

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

_READ_BYTES = 1 << 18
_COMPACT_BYTES = 1 << 20
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
        self._encrypt: Callable[[bytes, Any], bytes] = (
            noise.cipher_state_encrypt.encrypt_with_ad
        )
        self._decrypt: Callable[[bytes, Any], bytes] = (
            noise.cipher_state_decrypt.decrypt_with_ad
        )
        self._sealed = bytearray()
        self._plain = bytearray()
        self._taken = 0
        self._dead = False

    async def read(self, n: int | None = None) -> bytes:
        """Exactly `n` bytes, or what there is; fewer only at the end of the stream."""
        wanted = 1 if n is None else n
        while len(self._plain) - self._taken < wanted:
            if not await self._fill():
                break
        left = len(self._plain) - self._taken
        if wanted and not left:
            raise IncompleteReadError(
                "connection closed", expected_bytes=wanted, received_bytes=0
            )
        return self._take(left if n is None else min(n, left))

    def _take(self, count: int) -> bytes:
        end = self._taken + count
        with memoryview(self._plain) as view:
            data = bytes(view[self._taken : end])
        self._taken = end
        if end == len(self._plain):
            self._plain = bytearray()
            self._taken = 0
        elif end > _COMPACT_BYTES:
            del self._plain[:end]
            self._taken = 0
        return data

    async def _fill(self) -> bool:
        data = await self._raw.read(_READ_BYTES)
        if not data:
            return False
        self._sealed += data
        try:
            self._open_complete()
        except (InvalidTag, NoiseInvalidMessage, ValueError) as error:
            await self._kill()
            raise ConnectionClosedError("bytes do not authenticate") from error
        return True

    def _open_complete(self) -> None:
        position = 0
        end = len(self._sealed)
        with memoryview(self._sealed) as view:
            while end - position >= 2:
                start = position + 2
                length = (view[position] << 8) | view[position + 1]
                if end - start < length:
                    break
                self._plain += self._decrypt(b"", bytes(view[start : start + length]))
                position = start + length
        if position:
            del self._sealed[:position]

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
            await stock.close()
            raise ConnectionClosedError(f"peer {peer} is not a member")
        return Session(stock)
