"""Names for the few plain values that travel everywhere."""

import hashlib
from typing import NewType

Digest = NewType("Digest", bytes)
"""32 bytes: SHA-256 of canonical bytes."""

PublicKey = NewType("PublicKey", bytes)
"""32 bytes: an Ed25519 verification key."""

PeerId = NewType("PeerId", str)
"""Base58 text of a libp2p peer id."""

Millis = NewType("Millis", int)
"""Milliseconds; differences are meaningful everywhere, epochs only where said."""

DIGEST_BYTES = 32
KEY_BYTES = 32


def digest(data: bytes) -> Digest:
    """SHA-256 of `data`."""
    return Digest(hashlib.sha256(data).digest())
