"""One-time pads, numbered, and the ledger that lets no number be used twice.

Pad number i of a session is AES-256-CTR keystream under the session's seed, started at the
counter block (i, 0): two numbers never share a block, since a pad is far shorter than 2^64
blocks.  The key holder and the second host expand the same seed; the first host sees only
what the pad hides.

What the grade of S-mode rests on follows from this.  The second host's view is the seed
and the shapes, which do not depend on the data at all: information-theoretic.  The first
host's view is data plus keystream: information-theoretic for a pad that is truly random,
and computational (AES-256) for one that is expanded from a seed, as here.
"""

import hashlib

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from ee.errors import EncryptionError

SEED_BYTES = 32
PADS_AT_MOST = 1 << 40
"""Numbers of one session; a training run of 10^6 steps of 100 layers needs under 2^30."""


class PadReuseError(EncryptionError):
    """A pad was asked for twice: two shares under one pad differ by their plaintexts."""


class PadStream:
    """Pads by number, from one seed."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise EncryptionError(f"pad seed has {len(seed)} bytes, needs {SEED_BYTES}")
        self._seed = seed

    def __repr__(self) -> str:
        return "PadStream(32 secret bytes)"

    def words(self, number: int, count: int) -> NDArray[np.uint64]:
        """`count` words, uniform on 64 bits."""
        if not 0 <= number < PADS_AT_MOST:
            raise EncryptionError(f"pad number is {number}, limit is {PADS_AT_MOST}")
        block = number.to_bytes(8, "big") + bytes(8)
        cipher = Cipher(algorithms.AES256(self._seed), modes.CTR(block)).encryptor()
        return np.frombuffer(cipher.update(bytes(8 * count)), "<u8").astype(np.uint64)

    def normals(self, number: int, count: int) -> NDArray[np.float64]:
        """`count` independent standard normals, by Box and Muller.

        The uniforms have 53 bits, so no draw is beyond 8.6 standard deviations.  Two machines
        may round the logarithm differently in the last bit; that moves the result by as much
        as rounding does, and never a ring pad.
        """
        half = -(-count // 2)
        words = self.words(number, 2 * half) >> np.uint64(11)
        uniform = (words.astype(np.float64) + 0.5) * 2.0**-53
        radius = np.sqrt(-2.0 * np.log(uniform[:half]))
        angle = 2.0 * np.pi * uniform[half:]
        both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return both[:count]


class PadLedger:
    """Hands out each pad number of a session once, and each seed once."""

    def __init__(self, seed: bytes, spent: set[bytes]) -> None:
        """`spent` holds the marks of all seeds ever used here; this one is added.

        The caller keeps `spent` on disk: a session that resumed under its old seed would
        start again at pad 0.
        """
        self.stream = PadStream(seed)
        mark = seed_mark(seed)
        if mark in spent:
            raise PadReuseError(f"pad seed {mark.hex()[:16]} has been used before")
        spent.add(mark)
        self._next = 0

    @property
    def issued(self) -> int:
        """How many numbers are gone."""
        return self._next

    def issue(self) -> int:
        """The next number; there is no way to ask for an old one."""
        number, self._next = self._next, self._next + 1
        if number >= PADS_AT_MOST:
            raise EncryptionError(f"all {PADS_AT_MOST} pads of this session are used")
        return number


def seed_mark(seed: bytes) -> bytes:
    """Names a seed without telling it."""
    return hashlib.sha256(b"rexis-pad-seed-mark" + seed).digest()
