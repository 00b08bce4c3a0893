"""A member's word that a release is what it says (docs/verify.md §7.1)."""

from collections.abc import Callable

from protocol.envelope import open_envelope, seal
from protocol.errors import MalformedMessageError
from protocol.types import DIGEST_BYTES, PublicKey
from protocol.wire import Message, decode, encode

CONFIRMATION_TOPIC = "release-confirmed"
CONFIRMATION_DOMAIN = "rexis/confirmation/1"
LIMIT_BYTES = 1 << 10


class Confirmation(Message, frozen=True, tag="confirmed"):
    """A holder of the release key has compared a release with the state it trained."""

    model_root: bytes
    record: bytes
    """Digest of the release."""

    def check(self) -> None:
        for name in ("model_root", "record"):
            if len(getattr(self, name)) != DIGEST_BYTES:
                raise MalformedMessageError(f"{name} is not {DIGEST_BYTES} bytes")


def seal_confirmation(
    sign: Callable[[bytes], bytes], member: PublicKey, said: Confirmation
) -> bytes:
    """Signed by the member that compared."""
    said.check()
    return seal(sign, CONFIRMATION_DOMAIN, member, said.model_root, encode(said))


def open_confirmation(data: bytes) -> tuple[Confirmation, PublicKey]:
    """A verified confirmation and who signed it."""
    envelope = open_envelope(data, CONFIRMATION_DOMAIN, limit_bytes=LIMIT_BYTES)
    said = decode(envelope.payload, Confirmation, limit_bytes=LIMIT_BYTES)
    said.check()
    if envelope.context != said.model_root:
        raise MalformedMessageError("confirmation is signed in another context")
    return said, PublicKey(envelope.sender)
