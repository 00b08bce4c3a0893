"""Secret numbers from a seed: one independent stream per name.

SHAKE-256 over (label, seed, name) is the generator, so whoever lacks the 32 bytes of the
seed cannot tell a key from chance, and every part of a key can be drawn alone, in any
order, on any machine: keying a model of a hundred layers never holds more than one layer's
key.  Gaussians come from Box-Muller, orthogonal matrices from the QR of a Gaussian.
"""

import hashlib

import numpy as np
import torch
from torch import Tensor

from ee.errors import EncryptionError

SEED_BYTES = 32
_LABEL = b"rexis-ee-draw-1"
_MANTISSA = 1 << 53


def check_seed(seed: bytes) -> None:
    """`EncryptionError` unless there are exactly 32 bytes."""
    if len(seed) != SEED_BYTES:
        raise EncryptionError(f"key seed has {len(seed)} bytes, needs {SEED_BYTES}")


class Draw:
    """The stream of one name under one seed; what is drawn depends on the order of calls."""

    def __init__(self, seed: bytes, name: str) -> None:
        check_seed(seed)
        self._prefix = _LABEL + seed + name.encode() + b"\0"
        self._calls = 0

    def _words(self, count: int) -> np.ndarray:
        """`count` uniform 64-bit words; every call reads a fresh output of SHAKE-256."""
        self._calls += 1
        name = self._prefix + self._calls.to_bytes(8, "big")
        return np.frombuffer(hashlib.shake_256(name).digest(8 * count), "<u8")

    def uniform(self, *shape: int) -> Tensor:
        """In [0, 1), 53 bits each."""
        words = self._words(int(np.prod(shape, dtype=np.int64)))
        numbers = (words >> np.uint64(11)).astype(np.float64) / _MANTISSA
        return torch.from_numpy(numbers).reshape(shape)

    def gaussian(self, *shape: int) -> Tensor:
        """Standard normal, by Box-Muller; 1 - u keeps the logarithm finite."""
        count = int(np.prod(shape, dtype=np.int64))
        u, v = self.uniform(2, (count + 1) // 2)
        radius, angle = torch.sqrt(-2 * torch.log(1 - u)), 2 * torch.pi * v
        both = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)])
        return both[:count].reshape(shape)

    def permutation(self, count: int) -> Tensor:
        """Uniform; two equal words among 64 bits would tie, which does not happen."""
        order = np.argsort(self._words(count), kind="stable")
        return torch.from_numpy(order)

    def signs(self, *shape: int) -> Tensor:
        """+1 or -1, float64."""
        return torch.where(self.uniform(*shape) < 0.5, -1.0, 1.0).double()

    def orthogonal(self, size: int, count: int = 1) -> Tensor:
        """(count, size, size), Haar: the signs of R's diagonal are put right."""
        q, r = torch.linalg.qr(self.gaussian(count, size, size))
        return q * torch.sign(torch.diagonal(r, dim1=-2, dim2=-1)).unsqueeze(-2)

    def stretch(self, *shape: int, reach: float) -> Tensor:
        """Positive scales between 1 / reach and reach, uniform in the logarithm."""
        spread = 2 * self.uniform(*shape) - 1
        return torch.exp(spread * float(np.log(reach)))
