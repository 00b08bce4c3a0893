"""Masks that vanish in the sum, and the one that each member takes off itself.

Every pair of members adds the same keystream with opposite signs; every member adds a
keystream of its own besides.  A shard of one member is uniform in the ring to everyone who
lacks one of its keys (computational: AES-256-CTR under HKDF-SHA256 of an X25519 secret).
The context is in every key, so no two attempts share a mask.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import (
    Cipher,
    CipherContext,
    algorithms,
    modes,
)
from numpy.typing import NDArray

from protocol import kdf
from protocol.aggregate.ring import Elements
from protocol.errors import LocalProtocolError
from protocol.types import KEY_BYTES, Digest
from protocol.wire import require_length

Words = Elements | NDArray[np.uint64]

SEED_BYTES = 32
BLOCK_BYTES = 16
"""An AES block; a range of a mask starts at a multiple of it."""
CHUNK_BYTES = 3 << 16
"""Keystream made at a time.  Two buffers of it and the part of the vector under work fill what a
core of 512 KiB second-level cache has and a little more; 64 KiB pays a twentieth for its calls, half
a mebibyte a thirtieth for memory (docs/benchmarks.md)."""

_LINE = 64

_PAIR, _SELF = b"rexis-pair-mask-1", b"rexis-self-mask-1"
_COINS = b"rexis-coins-1"


def pair_key(secret: bytes, context: Digest, one: bytes, other: bytes) -> bytes:
    """The mask key of two members; the order of the two does not matter."""
    require_length("pair secret", secret, KEY_BYTES)
    low, high = sorted((one, other))
    return kdf.derive(secret, context, _PAIR + low + high)


def self_key(seed: bytes, context: Digest, member: bytes) -> bytes:
    """The mask key a member keeps until the survivors are certified."""
    require_length("self seed", seed, SEED_BYTES)
    return kdf.derive(seed, context, _SELF + member)


def apply(
    words: Words, start: int, plus: Iterable[bytes], minus: Iterable[bytes]
) -> None:
    """Add the masks of keys `plus` to `words` and take those of `minus` off, in place.

    `words` are elements `start` and following of the vector; their type says the ring.  A
    key's keystream is read in the vector's byte order, so any slice that starts on a cipher
    block gets the same mask as it would within the whole.
    """
    most = min(CHUNK_BYTES, words.nbytes)
    Masks(words.dtype, start, plus, minus, chunk_bytes=most).apply(words)


class Masks:
    """The same for a vector that is worked on piece by piece, in order."""

    def __init__(
        self,
        kind: np.dtype[Any],
        start: int,
        plus: Iterable[bytes],
        minus: Iterable[bytes],
        *,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        """`chunk_bytes`: keystream made at a time; less where all of the vector is shorter."""
        if start < 0 or start * kind.itemsize % BLOCK_BYTES:
            raise LocalProtocolError(
                f"a mask starts at byte {start * kind.itemsize}, need a multiple of"
                f" {BLOCK_BYTES}"
            )
        counter = (start * kind.itemsize // BLOCK_BYTES).to_bytes(16, "big")
        work: list[tuple[CipherContext, np.ufunc]]
        work = [(_encryptor(key, counter), np.add) for key in plus]
        work += [(_encryptor(key, counter), np.subtract) for key in minus]
        self._work = work
        self._chunk_bytes = chunk_bytes
        self._zeros = _aligned(chunk_bytes)
        self._stream = _aligned(chunk_bytes + BLOCK_BYTES)

    def apply(self, words: Words) -> None:
        """Mask the next elements, in place."""
        if not words.flags.c_contiguous:
            raise LocalProtocolError("only a contiguous stretch can be masked")
        into, plain = self._stream.data, self._zeros.data
        mask = self._stream[: self._chunk_bytes].view(words.dtype)
        for at, stop in _chunks(words, words.dtype.itemsize, self._chunk_bytes):
            part = words[at:stop]
            if part.nbytes != mask.nbytes:
                plain = self._zeros.data[: part.nbytes]
                mask = self._stream[: part.nbytes].view(words.dtype)
            for encryptor, join in self._work:
                encryptor.update_into(plain, into)
                join(part, mask, out=part)


def keystream(key: bytes, block: int, count: int) -> bytes:
    """`count` bytes of a key's keystream from cipher block `block` on."""
    return _encryptor(key, block.to_bytes(16, "big")).update(bytes(count))


class Coins:
    """Numbers uniform in [0, 1) with 32 bits each, from a seed; the same again from the same."""

    def __init__(self, seed: bytes) -> None:
        require_length("seed of coins", seed, SEED_BYTES)
        self._cipher = _encryptor(hashlib.sha256(_COINS + seed).digest(), bytes(16))

    def random(self, *, out: NDArray[np.float64]) -> None:
        """The next `out.size` of them."""
        drawn = np.frombuffer(self._cipher.update(bytes(4 * out.size)), "<u4")
        np.multiply(drawn, 2.0**-32, out=out)


def _chunks(words: Words, size: int, chunk_bytes: int) -> Iterable[tuple[int, int]]:
    """Stretches of the vector; after a short first one, each begins on a cache line."""
    skip = -words.ctypes.data % _LINE // BLOCK_BYTES * BLOCK_BYTES
    first = min(skip // size, words.size)
    if first:
        yield 0, first
    each = max(1, chunk_bytes // size)
    for at in range(first, words.size, each):
        yield at, min(at + each, words.size)


def _encryptor(key: bytes, counter: bytes) -> CipherContext:
    return Cipher(algorithms.AES256(key), modes.CTR(counter)).encryptor()


def _aligned(size: int) -> NDArray[np.uint8]:
    """Zeros that begin on a cache line: numpy adds unaligned words at a third of the rate."""
    raw = np.zeros(size + _LINE, np.uint8)
    skip = -raw.ctypes.data % _LINE
    return raw[skip : skip + size]
