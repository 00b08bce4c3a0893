"""Keys of simulated nodes: real ones, and ones that are made and used a hundred times faster.

The stand-in for a signature is a keyed hash that only the simulator can check, since it holds
every key.  It is as deterministic as Ed25519 and as hard to get right by accident.  The stand-in
for X25519 of pre-keys is a hash of both public keys: the two sides agree on it, a third member's
key gives another.  Whoever sees public keys could work it out, so it hides nothing; no law of the
simulator rests on hiding, and one seed in `REAL_EVERY` runs with the real things.  Long-term seal
keys are real in both, and shared secrets of them are remembered; beside the stand-ins so is what
follows from keys, where two members would each work out the same.
"""

import hashlib
import hmac
import random
from collections.abc import Iterable
from functools import lru_cache
from types import ModuleType
from typing import Any, ClassVar

import nacl.signing
import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)

from protocol import kdf
from protocol.aggregate import checks, masks
from protocol.envelope import verified
from protocol.rounds import prekeys

CIPHERS_KEPT = 4096
"""Pre-keys that 32 members have dealt to each other and not opened: two each, and more."""
SHARES_KEPT = 2 * CIPHERS_KEPT
"""Of each pre-key its holder has two."""
STAMPS_KEPT = 2048
"""What is signed is heard soon; votes are looked at again in certificates, by everyone."""
STREAMS_KEPT = 1024
"""Two for each pair of 32 members; a world of so many has short vectors."""
DRAWN_KEPT = 128
"""For each slice of a sum the numbers of its places and of its rows."""

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


@lru_cache(CIPHERS_KEPT)
def derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """What `protocol.kdf.derive` gives, as two HMACs of the standard library: at a fifth of the cost
    of an HKDF of any length, and a world derives a key for every pair of members."""
    pseudorandom = hmac.digest(salt, secret, "sha256")
    return hmac.digest(pseudorandom, info + b"\x01", "sha256")


def apply(
    words: masks.Words, start: int, plus: Iterable[bytes], minus: Iterable[bytes]
) -> None:
    """What `protocol.aggregate.masks.apply` does, for vectors of a few hundred entries."""
    block = start * words.itemsize // masks.BLOCK_BYTES
    for keys, join in ((plus, np.add), (minus, np.subtract)):
        for key in keys:
            stream = _keystream(key, block, words.nbytes)
            join(words, np.frombuffer(stream, words.dtype), out=words)


_keystream = lru_cache(STREAMS_KEPT)(masks.keystream)
"""A pair's mask is added by one of the two, and taken off by the other."""

_FAST: dict[tuple[ModuleType, str], Any] = {
    (prekeys, "public_of"): _FastCurve.public_of,
    (prekeys, "exchanges"): _FastCurve.exchanges,
    (prekeys, "is_usable"): _FastCurve.is_usable,
    (prekeys, "_cipher"): lru_cache(CIPHERS_KEPT)(prekeys._cipher),
    (prekeys, "_share_digest"): lru_cache(SHARES_KEPT)(prekeys._share_digest),
    (checks, "_drawn"): lru_cache(DRAWN_KEPT)(checks._drawn),
    (checks, "_places"): lru_cache(DRAWN_KEPT)(checks._places),
    (kdf, "derive"): derive,
    (masks, "apply"): apply,
}
"""By module and name; where it is no stand-in it is the same, remembered: what two members of a
world, or all, would each work out is worked out once."""
_REAL = {where: getattr(*where) for where in _FAST}


def use_curve(*, real: bool) -> None:
    """Until the next call every world of this process makes keys and masks so."""
    for (module, name), made in (_REAL if real else _FAST).items():
        setattr(module, name, made)


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


@lru_cache(STAMPS_KEPT)
def _stamp(secret: bytes, message: bytes) -> bytes:
    return hashlib.blake2b(message, key=secret, digest_size=64).digest()


class FastIdentity(Identity):
    """Signs with a keyed hash."""

    _secrets: ClassVar[dict[bytes, bytes]] = {}

    def __init__(self, number: int, chance: random.Random) -> None:
        super().__init__(number, chance)
        self._secret = hashlib.sha256(b"node" + number.to_bytes(4, "big")).digest()
        self.node_key = hashlib.sha256(b"public" + self._secret).digest()
        self._secrets[self.node_key] = self._secret

    def sign(self, message: bytes) -> bytes:
        return _stamp(self._secret, message)

    @classmethod
    def verify(cls, key: bytes, message: bytes, signature: bytes) -> bool:
        secret = cls._secrets.get(key)
        return secret is not None and _stamp(secret, message) == signature


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
