"""From a passphrase to the key of a box, by argon2id: the work that one guess takes.

What a file asks for is bounded before it is done: whoever can write a file could otherwise have
the reader spend its memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import nacl.bindings
import nacl.pwhash.argon2id

SALT_BYTES = nacl.pwhash.argon2id.SALTBYTES
_BOX_KEY_BYTES = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_KEYBYTES


@dataclass(frozen=True)
class Cost:
    """Work one guess of the passphrase takes."""

    passes: int
    memory_bytes: int


# RFC 9106, section 4, second choice: 3 passes over 64 MiB.
COST = Cost(3, 64 << 20)
# For tests only: a passphrase behind it can be guessed.  No option reaches it.
COST_FOR_TESTS = Cost(1, 8 << 10)
# What a file may ask of us before we know that it is ours.
_LIMIT = Cost(16, 1 << 30)


def asked(document: Mapping[str, Any]) -> Cost:
    """What a file asks for; raises `ValueError`, to go after the file's name, beyond the limit."""
    passes, memory = document.get("passes"), document.get("memory_bytes")
    least = COST_FOR_TESTS
    if (
        type(passes) is not int
        or type(memory) is not int
        or not least.passes <= passes <= _LIMIT.passes
        or not least.memory_bytes <= memory <= _LIMIT.memory_bytes
    ):
        raise ValueError(
            f"asks for {passes} passes over {memory} bytes, limit is"
            f" {_LIMIT.passes} over {_LIMIT.memory_bytes}"
        )
    return Cost(passes, memory)


def box_key(passphrase: bytes, salt: bytes, cost: Cost) -> bytes:
    """32 bytes for XChaCha20-Poly1305."""
    return nacl.pwhash.argon2id.kdf(
        _BOX_KEY_BYTES,
        passphrase,
        salt,
        opslimit=cost.passes,
        memlimit=cost.memory_bytes,
    )
