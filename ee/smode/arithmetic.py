"""Two ways to hide rows from a host that multiplies them by a public matrix.

Both split x into shares with share 1 + share 2 = x and let each host compute share W; the
sum of the two products is x W.

`Ring`: fixed point in Z_2^64, share 2 uniform.  A uniform pad in a group hides every value
of the group equally well, so share 1 is independent of x: zero bits.  Each row is scaled by
a power of two of its own before rounding, and the scale never leaves the key holder.

`Gaussian`: floating point, share 2 = -u with u standard normal.  The row is first divided
by sigma = 2^k times its largest entry, so |x / sigma| <= 2^-k, and the channel
x / sigma - u carries at most (1/2) log2(1 + 2^-2k) bits a value (the capacity of a Gaussian
channel at that power; rounding afterwards cannot add to it).  The price is that the product
is computed at sigma's size and rounded there.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ee.errors import EncryptionError
from ee.smode.pads import PadStream

Array = NDArray[Any]
WEIGHT_BITS = 23
"""Magnitude of a ring weight; 16-bit limbs times this over 2^14 inputs is exact in float64."""
INPUTS_AT_MOST = 1 << 14


@dataclass(frozen=True)
class Split:
    """What becomes of one batch of rows: a share to send, a scale to keep."""

    share: Array
    scale: NDArray[np.float64]
    """(rows, 1); the joined product is multiplied by it."""


class Arithmetic(Protocol):
    """What both hosts and the key holder agree on."""

    @property
    def name(self) -> str: ...
    @property
    def word(self) -> np.dtype[Any]:
        """Of shares and products."""
        ...

    @property
    def word_bytes(self) -> int: ...
    @property
    def leak_bits(self) -> float:
        """At most so many bits about each value sent, to the host that has its share."""
        ...

    def public_weight(self, weight: Array) -> Array:
        """(outputs, inputs) floats to what a host multiplies by."""
        ...

    def weight_scale(self, weight: Array) -> float:
        """Factor between `public_weight` and the true one; public like the weight."""
        ...

    def split(self, x: Array, stream: PadStream, number: int) -> Split: ...
    def pad(self, stream: PadStream, number: int, shape: tuple[int, int]) -> Array: ...
    def multiply(self, share: Array, weight: Array) -> Array:
        """(rows, n) by (n, m); what a host does."""
        ...

    def join(self, first: Array, second: Array) -> NDArray[np.float64]: ...

    def expected_error(self, x: Array) -> float:
        """Error of a product relative to the product, root mean square, up to about 3."""
        ...


class Ring:
    """Z_2^64; exact up to the rounding of the inputs, leaks nothing."""

    name = "ring64"
    word = np.dtype(np.uint64)
    word_bytes = 8
    leak_bits = 0.0

    def public_weight(self, weight: Array) -> Array:
        """Signed integers of at most `WEIGHT_BITS`, in float64 for the limb products."""
        if max(weight.shape) > INPUTS_AT_MOST:
            raise EncryptionError(
                f"weight is {weight.shape}, the ring takes up to {INPUTS_AT_MOST} inputs"
            )
        scaled = np.asarray(weight, np.float64) / self.weight_scale(weight)
        return np.rint(scaled)

    def weight_scale(self, weight: Array) -> float:
        return _power_over(float(np.abs(weight).max())) * 2.0**-WEIGHT_BITS

    def split(self, x: Array, stream: PadStream, number: int) -> Split:
        # |x W| stays below 2^62, so the signed result survives the wrap.
        bits = 62 - WEIGHT_BITS - math.ceil(math.log2(x.shape[1]))
        scale = _row_powers(x) * 2.0**-bits
        fixed = np.rint(np.asarray(x, np.float64) / scale).astype(np.int64)
        pad = self.pad(stream, number, (x.shape[0], x.shape[1]))
        return Split(fixed.view(np.uint64) - pad, scale)

    def pad(self, stream: PadStream, number: int, shape: tuple[int, int]) -> Array:
        return stream.words(number, shape[0] * shape[1]).reshape(shape)

    def multiply(self, share: Array, weight: Array) -> Array:
        # Four 16-bit limbs: |limb W| < 2^16 2^23 2^14 = 2^53, exact in float64, where the
        # machine's matrix product is; integers of 64 bits have none.
        total = np.zeros((share.shape[0], weight.shape[1]), np.uint64)
        for place in range(0, 64, 16):
            limb = (share >> np.uint64(place)) & np.uint64(0xFFFF)
            product = (limb.astype(np.float64) @ weight).astype(np.int64)
            total += product.view(np.uint64) << np.uint64(place)
        return total

    def join(self, first: Array, second: Array) -> NDArray[np.float64]:
        return (first + second).view(np.int64).astype(np.float64)

    def expected_error(self, x: Array) -> float:
        bits = 62 - WEIGHT_BITS - math.ceil(math.log2(x.shape[1]))
        return _peak(x) * 2.0**-bits + 2.0**-WEIGHT_BITS * 4


class Gaussian:
    """Floating point under a Gaussian pad 2^`ratio` times as large as the row."""

    def __init__(self, ratio: int, dtype: str = "float32") -> None:
        digits = {"float32": 24, "float64": 53}.get(dtype)
        if digits is None or not 1 <= ratio <= digits - 8:
            raise EncryptionError(
                f"a {dtype} pad of ratio 2^{ratio}: float32 takes 2^1 to 2^16,"
                " float64 2^1 to 2^45"
            )
        self._ratio, self._digits = ratio, digits
        self.word = np.dtype(dtype)
        self.name = f"gauss{8 * self.word.itemsize}/2^{ratio}"
        self.word_bytes = self.word.itemsize
        self.leak_bits = 0.5 * math.log1p(2.0 ** (-2 * ratio)) / math.log(2.0)

    def public_weight(self, weight: Array) -> Array:
        return np.asarray(weight, self.word)

    def weight_scale(self, weight: Array) -> float:
        del weight
        return 1.0

    def split(self, x: Array, stream: PadStream, number: int) -> Split:
        scale = _row_powers(x) * 2.0**self._ratio
        pad = self.pad(stream, number, (x.shape[0], x.shape[1]))
        small = np.asarray(x, np.float64) / scale
        return Split((small - pad).astype(self.word), scale)

    def pad(self, stream: PadStream, number: int, shape: tuple[int, int]) -> Array:
        draws = stream.normals(number, shape[0] * shape[1])
        return draws.astype(self.word).reshape(shape)

    def multiply(self, share: Array, weight: Array) -> Array:
        return np.asarray(share @ weight)

    def join(self, first: Array, second: Array) -> NDArray[np.float64]:
        return first.astype(np.float64) + second.astype(np.float64)

    def expected_error(self, x: Array) -> float:
        return 2.0 ** (self._ratio - self._digits) * _peak(x)


def arithmetic_named(name: str) -> Arithmetic:
    """The inverse of `.name`: `ring64`, `gauss32/2^10`."""
    if name == Ring.name:
        return Ring()
    kind, _, ratio = name.partition("/2^")
    dtype = {"gauss32": "float32", "gauss64": "float64"}.get(kind)
    if dtype is None or not (ratio.isascii() and ratio.isdigit() and len(ratio) <= 2):
        raise EncryptionError(
            f"no arithmetic is called {name!r}: ring64, gauss32/2^K, gauss64/2^K"
        )
    return Gaussian(int(ratio), dtype)


def _row_powers(x: Array) -> NDArray[np.float64]:
    """(rows, 1): the least power of two not below the row's largest entry; 1 for zeros."""
    peak = np.abs(np.asarray(x, np.float64)).max(axis=1, keepdims=True)
    if not bool(np.all(np.isfinite(peak))):
        raise EncryptionError("a row to be padded holds a number that is not finite")
    return np.asarray(np.exp2(np.ceil(np.log2(np.where(peak > 0, peak, 1.0)))))


def _power_over(value: float) -> float:
    return 2.0 ** math.ceil(math.log2(value)) if value > 0 else 1.0


def _peak(x: Array) -> float:
    """Largest entry over root mean square: what a row of outliers costs in digits."""
    wide = np.asarray(x, np.float64)
    spread = float(np.sqrt(np.mean(np.square(wide))))
    return float(np.abs(wide).max()) / spread if spread > 0 else 1.0
