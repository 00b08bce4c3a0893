"""A signed message: domain label, sender, context, payload (docs/protocol.md §4).

The signature covers all four, each with its length before it, so that no two different
quadruples share signing bytes and a signature made for one purpose proves nothing in
another.  The key that signs is the node's Ed25519 identity, the same that names its
libp2p peer id.
"""

from collections.abc import Callable
from struct import Struct

import nacl.exceptions
import nacl.signing

from protocol.errors import MalformedMessageError, SignatureError
from protocol.types import KEY_BYTES, PublicKey
from protocol.wire import MESSAGE_LIMIT_BYTES, Message, decode, encode, require_length

SIGNATURE_BYTES = 64
_LABEL = b"rexis-envelope-v1"
_size = Struct(">Q").pack
_LABEL_FIELD = _size(len(_LABEL)) + _LABEL


class Envelope(Message, frozen=True, tag="env"):
    """What `seal` makes and `open_envelope` has verified."""

    domain: str
    sender: bytes
    context: bytes
    payload: bytes
    signature: bytes


def signing_bytes(domain: str, sender: bytes, context: bytes, payload: bytes) -> bytes:
    """The bytes under the signature; a second implementation starts here."""
    name = domain.encode()
    return b"".join(
        (
            _LABEL_FIELD,
            *(_size(len(name)), name, _size(len(sender)), sender),
            *(_size(len(context)), context, _size(len(payload)), payload),
        )
    )


def seal(
    sign: Callable[[bytes], bytes],
    domain: str,
    sender: PublicKey,
    context: bytes,
    payload: bytes,
) -> bytes:
    """Sign `payload` for `domain` and `context`; `sign` is Ed25519 under `sender`."""
    require_length("sender", sender, KEY_BYTES)
    signature = sign(signing_bytes(domain, sender, context, payload))
    require_length("signature", signature, SIGNATURE_BYTES)
    return encode(Envelope(domain, sender, context, payload, signature))


def open_envelope(
    data: bytes, domain: str, *, limit_bytes: int = MESSAGE_LIMIT_BYTES
) -> Envelope:
    """Decode and verify; the caller still decides whether `sender` may say this."""
    envelope = decode(data, Envelope, limit_bytes=limit_bytes)
    if envelope.domain != domain:
        raise SignatureError("envelope domain", domain, envelope.domain)
    if len(envelope.sender) != KEY_BYTES:
        raise MalformedMessageError(
            f"sender has {len(envelope.sender)} bytes, needs {KEY_BYTES}"
        )
    if len(envelope.signature) != SIGNATURE_BYTES:
        raise MalformedMessageError(
            f"signature has {len(envelope.signature)} bytes, needs {SIGNATURE_BYTES}"
        )
    message = signing_bytes(
        envelope.domain, envelope.sender, envelope.context, envelope.payload
    )
    if not verified(envelope.sender, message, envelope.signature):
        raise SignatureError(f"signature of a {domain} envelope")
    return envelope


def verified(key: bytes, message: bytes, signature: bytes) -> bool:
    """Is `signature` the Ed25519 signature of `key` on `message`?"""
    try:
        nacl.signing.VerifyKey(key).verify(message, signature)
    except (nacl.exceptions.BadSignatureError, nacl.exceptions.CryptoError):
        return False
    return True
