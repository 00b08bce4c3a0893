"""Keys of 32 bytes from a secret: HKDF-SHA256 (RFC 5869)."""

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.types import KEY_BYTES


def derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """32 bytes that tell nothing of `secret` or of those under another `salt` or `info`."""
    return HKDF(SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(secret)
