"""Masks that vanish in the sum, and the one that each member takes off itself.

Every pair of members adds the same keystream with opposite signs; every member adds a
keystream of its own besides.  A shard of one member is uniform in the ring to everyone who
lacks one of its keys (computational: AES-256-CTR under HKDF-SHA256 of an X25519 secret).
The context is in every key, so no two attempts share a mask.
"""

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.aggregate.ring import WORD_BYTES, Words
from protocol.errors import LocalProtocolError
from protocol.types import KEY_BYTES, Digest
from protocol.wire import require_length

SEED_BYTES = 32
BLOCK_WORDS = 4
"""An AES block; a range of a mask starts at a multiple of it."""
CHUNK_WORDS = 1 << 18

_PAIR, _SELF, _COMMIT = b"rexis-pair-mask-1", b"rexis-self-mask-1", b"rexis-seed-1"


def pair_key(secret: bytes, context: Digest, one: bytes, other: bytes) -> bytes:
    """The mask key of two members; the order of the two does not matter."""
    require_length("pair secret", secret, KEY_BYTES)
    low, high = sorted((one, other))
    return _derive(secret, context, _PAIR + low + high)


def self_key(seed: bytes, context: Digest, member: bytes) -> bytes:
    """The mask key a member keeps until the survivors are certified."""
    require_length("self seed", seed, SEED_BYTES)
    return _derive(seed, context, _SELF + member)


def seed_commitment(seed: bytes, context: Digest) -> Digest:
    """Published with the upload; the seed revealed later must match it."""
    require_length("self seed", seed, SEED_BYTES)
    return Digest(hashlib.sha256(_COMMIT + context + seed).digest())


def keystream(key: bytes, offset: int, count: int) -> Words:
    """Words `offset` to `offset + count` of a mask."""
    if offset % BLOCK_WORDS or offset < 0 or count < 0:
        raise LocalProtocolError(
            f"a mask starts at word {offset}, need a multiple of {BLOCK_WORDS}"
        )
    counter = (offset // BLOCK_WORDS).to_bytes(16, "big")
    encryptor = Cipher(algorithms.AES256(key), modes.CTR(counter)).encryptor()
    return np.frombuffer(encryptor.update(bytes(WORD_BYTES * count)), "<u4")


def mask(
    words: Words,
    me: bytes,
    context: Digest,
    secrets: Mapping[bytes, bytes],
    seed: bytes,
) -> Words:
    """`words` under all pair masks and the self mask; `secrets` by the other's node key."""
    plus = [self_key(seed, context, me)]
    minus: list[bytes] = []
    for other, secret in secrets.items():
        if other == me:
            raise LocalProtocolError("a member shares no mask with itself")
        key = pair_key(secret, context, me, other)
        (plus if me < other else minus).append(key)
    return _applied(words, 0, plus, minus)


def unmask(
    total: Words, offset: int, context: Digest, seeds: Mapping[bytes, bytes]
) -> Words:
    """Take every member's self mask off a shard that starts at word `offset`."""
    keys = [self_key(seed, context, member) for member, seed in seeds.items()]
    return _applied(total, offset, [], keys)


def add(shards: Iterable[Words]) -> Words:
    """The sum of equally long shards in the ring."""
    total: Words | None = None
    for shard in shards:
        if total is None:
            total = shard.copy()
        elif total.shape != shard.shape:
            raise LocalProtocolError(
                f"shards of {total.size} and {shard.size} words cannot be summed"
            )
        else:
            total += shard
    if total is None:
        raise LocalProtocolError("no shard to sum")
    return total


def _applied(words: Words, offset: int, plus: list[bytes], minus: list[bytes]) -> Words:
    out = words.copy()
    for start in range(0, words.size, CHUNK_WORDS):
        part = out[start : start + CHUNK_WORDS]
        for key in plus:
            part += keystream(key, offset + start, part.size)
        for key in minus:
            part -= keystream(key, offset + start, part.size)
    return out


def _derive(secret: bytes, context: Digest, info: bytes) -> bytes:
    return HKDF(SHA256(), length=KEY_BYTES, salt=context, info=info).derive(secret)
