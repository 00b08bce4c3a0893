"""How fast masks are made, against the cipher alone on the same core.

Two figures in many short turns, so that a noisy neighbour hits both alike: AES-256-CTR over the best buffer size,
and masks put on a vector, keystream and addition.  Memory is what the process grows by, against
the vector.
"""

import os
import time
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from node.bench.memory import Growth
from protocol.aggregate import masks

ENTRIES = 10_000_000
MEMBERS = 4
TURNS = 101
CIPHER_BYTES = 1 << 26
CIPHER_BUFFER = 1 << 16
"""The cipher alone is at its best from 32 KiB up, as long as both buffers stay in the cache."""


def measure(entries: int = ENTRIES, members: int = MEMBERS) -> dict[str, Any]:
    """GB/s of masks and of the cipher, their ratio, and memory in vectors."""
    words = np.zeros(entries, "<u2")
    keys = [os.urandom(32) for _ in range(members)]
    growth = Growth()
    pairs = [(_cipher(), _masks(words, keys)) for _ in range(TURNS)]
    grown = growth.bytes()
    aes = max(one for one, _ in pairs)
    best = max(two for _, two in pairs)
    ratio = sorted(two / one for one, two in pairs)[TURNS // 2]
    return {
        "entries": entries,
        "members": members,
        "aes_gbps": round(aes, 2),
        "mask_gbps": round(best, 2),
        "mask_vs_aes": round(ratio, 3),
        "grown_vectors": round(grown / words.nbytes, 2),
    }


def _cipher() -> float:
    size = CIPHER_BUFFER
    plain, out = bytearray(size), bytearray(size + 16)
    encryptor = Cipher(
        algorithms.AES256(os.urandom(32)), modes.CTR(bytes(16))
    ).encryptor()
    began = time.process_time()
    for _ in range(CIPHER_BYTES // size):
        encryptor.update_into(plain, out)
    return CIPHER_BYTES / (time.process_time() - began) / 1e9


def _masks(words: "np.ndarray[Any, np.dtype[np.uint16]]", keys: list[bytes]) -> float:
    began = time.process_time()
    masks.apply(words, 0, keys[: len(keys) // 2], keys[len(keys) // 2 :])
    return len(keys) * words.nbytes / (time.process_time() - began) / 1e9
