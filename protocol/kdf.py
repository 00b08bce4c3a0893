"""HKDF-SHA256 for keys of 32 bytes (RFC 5869): extract, then the one block of expand that it takes.

By the standard library's HMAC, which is OpenSSL's: a member derives a key for every pair of
members and every pre-key, and a general HKDF of any length costs five times as much for each.
"""

import hmac

_HASH = "sha256"
_FIRST_BLOCK = b"\x01"


def derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """32 bytes that tell nothing of `secret` or of those under another `salt` or `info`.

    An empty salt is the same as 32 zero bytes, as the RFC has it.
    """
    pseudorandom = hmac.digest(salt, secret, _HASH)
    return hmac.digest(pseudorandom, info + _FIRST_BLOCK, _HASH)
