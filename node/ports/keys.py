"""The node's own keys."""

from typing import Protocol

from protocol.types import PeerId, PublicKey


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
