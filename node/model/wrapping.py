"""How the secret of a key is kept at rest: under a passphrase, or sealed to this node.

Either way the clear part of the key file is bound to the secret: a file that says it opens
something else than it was made for does not open at all.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import nacl.bindings
import nacl.exceptions

from ee.ledger import SECRET_BYTES
from node.errors import ModelError, NodeError
from node.stretching import COST, SALT_BYTES, Cost, asked, box_key

_NONCE_BYTES = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES


class Wrapping(Protocol):
    """One way to keep 32 bytes."""

    def wrap(self, secret: bytes, clear: bytes) -> dict[str, Any]:
        """`clear` is bound in, and is needed to unwrap."""

    def unwrap(self, wrapped: Mapping[str, Any], clear: bytes) -> bytes:
        """`ModelError` if this is not how, or not with what, it was wrapped."""


@dataclass(frozen=True, repr=False)
class Passphrase:
    """Argon2id, then XChaCha20-Poly1305 with the clear part as associated data."""

    passphrase: bytes
    cost: Cost = COST

    def wrap(self, secret: bytes, clear: bytes) -> dict[str, Any]:
        salt = secrets.token_bytes(SALT_BYTES)
        # A fresh salt gives a fresh box key, so the nonce could not repeat even if zero.
        nonce = secrets.token_bytes(_NONCE_BYTES)
        box = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
            secret, clear, nonce, box_key(self.passphrase, salt, self.cost)
        )
        return {
            "kind": "passphrase",
            "passes": self.cost.passes,
            "memory_bytes": self.cost.memory_bytes,
            "salt": salt.hex(),
            "nonce": nonce.hex(),
            "box": box.hex(),
        }

    def unwrap(self, wrapped: Mapping[str, Any], clear: bytes) -> bytes:
        salt, nonce, box = (_hex(wrapped, name) for name in ("salt", "nonce", "box"))
        try:
            cost = asked(wrapped)
        except ValueError as error:
            raise ModelError(f"the key file {error}") from error
        if wrapped.get("kind") != "passphrase" or len(salt) != SALT_BYTES:
            raise ModelError("this key is not kept under a passphrase")
        try:
            secret = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
                box, clear, nonce, box_key(self.passphrase, salt, cost)
            )
        except (nacl.exceptions.CryptoError, ValueError) as error:
            raise ModelError(
                "the passphrase does not open this key file, or the file was changed",
                hint="try again; a changed file needs its backup",
            ) from error
        return _checked(secret)


@dataclass(frozen=True, repr=False)
class Sealed:
    """An X25519 sealed box to the node's own key; `seal` and `open_` are the node's.

    A sealed box has no associated data, so the digest of the clear part is sealed in.
    """

    seal: Callable[[bytes], bytes]
    open_: Callable[[bytes], bytes]

    def wrap(self, secret: bytes, clear: bytes) -> dict[str, Any]:
        box = self.seal(hashlib.sha256(clear).digest() + secret)
        return {"kind": "sealed", "box": box.hex()}

    def unwrap(self, wrapped: Mapping[str, Any], clear: bytes) -> bytes:
        if wrapped.get("kind") != "sealed":
            raise ModelError("this key is not sealed to a node")
        try:
            opened = self.open_(_hex(wrapped, "box"))
        except NodeError as error:
            raise ModelError(
                "this key was sealed to another node, or was changed",
                hint="it opens only with the node key file it was made under",
            ) from error
        bound, secret = opened[:32], opened[32:]
        if not hmac.compare_digest(bound, hashlib.sha256(clear).digest()):
            raise ModelError("the key file was changed: it is not what was sealed")
        return _checked(secret)


def _checked(secret: bytes) -> bytes:
    if len(secret) != SECRET_BYTES:
        raise ModelError(f"the key file holds {len(secret)} secret bytes")
    return secret


def _hex(wrapped: Mapping[str, Any], name: str) -> bytes:
    try:
        return bytes.fromhex(wrapped[name])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the key file has no readable {name!r}") from error
