"""Keys of simulated nodes: real ones, and ones that are made and used a hundred times faster.

The stand-in for a signature is a keyed hash that only the simulator can check, since it holds
every key.  It is as deterministic as Ed25519 and as hard to get right by accident.  The stand-in
for X25519 of pre-keys is a hash of both public keys: the two sides agree on it, a third member's
key gives another.  Whoever sees public keys could work it out, so it hides nothing; no law of the
simulator rests on hiding, and one seed in `REAL_EVERY` runs with the real things.  Long-term seal
keys are real in both, and shared secrets of them are remembered; beside the stand-ins so are the
keys that follow from those, which the dealer of a share and its holder would each derive.
"""

import hashlib
import hmac
import random
from collections.abc import Iterable
from functools import lru_cache
from typing import ClassVar

import nacl.signing
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)

from protocol import kdf
from protocol.envelope import verified
from protocol.rounds import prekeys

CIPHERS_KEPT = 4096
"""Pre-keys that 32 members have dealt to each other and not opened: two each, and more."""

_SEAL_KEYS: list[tuple[bytes, bytes]] = []
_AGREED: dict[tuple[bytes, bytes], bytes] = {}


def seal_pair(number: int) -> tuple[bytes, bytes]:
    """Long-term X25519 pairs, the same in every federation of a process: agreement is slow."""
    while len(_SEAL_KEYS) <= number:
        secret = hashlib.sha256(b"seal" + len(_SEAL_KEYS).to_bytes(4, "big")).digest()
        private = X25519PrivateKey.from_private_bytes(secret)
        _SEAL_KEYS.append((secret, private.public_key().public_bytes_raw()))
    return _SEAL_KEYS[number]


class _FastCurve:
    """Stands in for the X25519 of `protocol.rounds.prekeys`."""

    @staticmethod
    def public_of(secret: bytes) -> bytes:
        return hashlib.sha256(b"point" + secret).digest()

    @classmethod
    def exchanges(cls, secret: bytes, publics: Iterable[bytes]) -> list[bytes]:
        mine = cls.public_of(secret)
        pairs = [sorted((mine, public)) for public in publics]
        return [hashlib.sha256(low + high).digest() for low, high in pairs]

    @staticmethod
    def is_usable(public: bytes) -> bool:
        return public != bytes(len(public))

    _cipher = staticmethod(lru_cache(CIPHERS_KEPT)(prekeys._cipher))
    """Not a stand-in but the same, which dealer and holder of a share would each derive."""


def derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """What `protocol.kdf.derive` gives, as two HMACs of the standard library: at a fifth of the cost
    of an HKDF of any length, and a world derives a key for every pair of members."""
    pseudorandom = hmac.digest(salt, secret, "sha256")
    return hmac.digest(pseudorandom, info + b"\x01", "sha256")


_CURVE = ("public_of", "exchanges", "is_usable", "_cipher")
_REAL_CURVE = {name: getattr(prekeys, name) for name in _CURVE}
_REAL_DERIVE = kdf.derive


def use_curve(*, real: bool) -> None:
    """Until the next call every world of this process makes pre-keys so."""
    for name in _CURVE:
        made = _REAL_CURVE[name] if real else getattr(_FastCurve, name)
        setattr(prekeys, name, made)
    kdf.derive = _REAL_DERIVE if real else derive


class Identity:
    """A node's keyring; `chance` makes its fresh bytes."""

    def __init__(self, number: int, chance: random.Random) -> None:
        self._seal, self.seal_key = seal_pair(number)
        self._chance = chance

    def agree(self, seal_key: bytes) -> bytes:
        pair = (min(self.seal_key, seal_key), max(self.seal_key, seal_key))
        if pair not in _AGREED:
            private = X25519PrivateKey.from_private_bytes(self._seal)
            public = X25519PublicKey.from_public_bytes(seal_key)
            _AGREED[pair] = private.exchange(public)
        return _AGREED[pair]

    def fresh(self, count: int) -> bytes:
        return self._chance.randbytes(count)


class FastIdentity(Identity):
    """Signs with a keyed hash."""

    _secrets: ClassVar[dict[bytes, bytes]] = {}

    def __init__(self, number: int, chance: random.Random) -> None:
        super().__init__(number, chance)
        self._secret = hashlib.sha256(b"node" + number.to_bytes(4, "big")).digest()
        self.node_key = hashlib.sha256(b"public" + self._secret).digest()
        self._secrets[self.node_key] = self._secret

    def sign(self, message: bytes) -> bytes:
        return hashlib.blake2b(message, key=self._secret, digest_size=64).digest()

    @classmethod
    def verify(cls, key: bytes, message: bytes, signature: bytes) -> bool:
        secret = cls._secrets.get(key)
        if secret is None:
            return False
        wanted = hashlib.blake2b(message, key=secret, digest_size=64).digest()
        return wanted == signature


class RealIdentity(Identity):
    """Signs with Ed25519."""

    def __init__(self, number: int, chance: random.Random) -> None:
        super().__init__(number, chance)
        seed = hashlib.sha256(b"node" + number.to_bytes(4, "big")).digest()
        self._key = nacl.signing.SigningKey(seed)
        self.node_key = bytes(self._key.verify_key)

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message).signature

    verify = staticmethod(verified)
