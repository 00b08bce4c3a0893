"""Threshold sharing of byte strings over GF(2^8), one polynomial per byte (docs/protocol.md §5.3).

Any `threshold` shares give the secret back; fewer are independent of it, whatever the reader
can compute.  The field is that of AES (x^8 + x^4 + x^3 + x + 1).  Holder number x, from 1 to
255, gets the polynomials' values at x; the secret stands at 0.

A share proves nothing about itself: whoever deals publishes a digest of each
(`protocol.rounds.prekeys`).  Products are looked up in tables, so timing on a shared cache
could tell bytes of a share to a process on the same machine; a node's machine is its own.
"""

from collections.abc import Mapping
from functools import lru_cache

from protocol.errors import LocalProtocolError

HOLDERS_AT_MOST = 255
"""Non-zero elements of the field."""

_WEIGHTS_KEPT = 64
"""The shares of all members of an attempt come from the same holders, most of them."""

_POLYNOMIAL = 0x11B


def _times(a: int, b: int) -> int:
    product = 0
    while b:
        if b & 1:
            product ^= a
        a <<= 1
        if a & 0x100:
            a ^= _POLYNOMIAL
        b >>= 1
    return product


_ROWS = tuple(bytes(_times(a, b) for b in range(256)) for a in range(256))
"""Row a holds a·b for every b: `bytes.translate` multiplies a whole string by a."""

_INVERSE = bytes([0, *(row.index(1) for row in _ROWS[1:])])


def split(secret: bytes, holders: int, threshold: int, coins: bytes) -> list[bytes]:
    """Shares for holders 1 to `holders`; `coins` are (threshold - 1) · len(secret) random bytes.

    The coins are the polynomials' upper coefficients: used once, never stored.
    """
    if not 1 <= threshold <= holders <= HOLDERS_AT_MOST:
        raise LocalProtocolError(
            f"threshold {threshold} of {holders} holders,"
            f" need 1 <= threshold <= holders <= {HOLDERS_AT_MOST}"
        )
    size = len(secret)
    if len(coins) != (threshold - 1) * size:
        raise LocalProtocolError(
            f"{len(coins)} coins, need {(threshold - 1) * size} for {threshold} of {holders}"
        )
    # Highest power first, the secret last: Horner's rule.
    rows = [coins[i : i + size] for i in range(0, len(coins), size)]
    numbers = [int.from_bytes(row, "big") for row in [*rows, secret]]
    return [_value(numbers, size, x) for x in range(1, holders + 1)]


def join(shares: Mapping[int, bytes]) -> bytes:
    """The secret behind exactly `threshold` shares, by holder number.

    Shares of different secrets, or fewer than the threshold, give bytes that mean nothing:
    the caller compares the outcome with what was committed to.
    """
    if not shares:
        raise LocalProtocolError("no share to join")
    sizes = {len(share) for share in shares.values()}
    if len(sizes) != 1:
        raise LocalProtocolError(f"shares of {sorted(sizes)} bytes cannot be joined")
    if not all(1 <= x <= HOLDERS_AT_MOST for x in shares):
        raise LocalProtocolError(f"holder numbers {sorted(shares)}, need 1 to 255")
    total = 0
    for x, weight in weights(tuple(shares)):
        total ^= int.from_bytes(shares[x].translate(_ROWS[weight]), "big")
    return total.to_bytes(sizes.pop(), "big")


@lru_cache(_WEIGHTS_KEPT)
def weights(holders: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Lagrange's coefficients at 0 for the points `holders`, each with its point."""
    out = []
    for x in holders:
        above, below = 1, 1
        for other in holders:
            if other != x:
                above = _ROWS[above][other]
                below = _ROWS[below][other ^ x]
        out.append((x, _ROWS[above][_INVERSE[below]]))
    return tuple(out)


def _value(numbers: list[int], size: int, x: int) -> bytes:
    row = _ROWS[x]
    total = numbers[0]
    for number in numbers[1:]:
        total = int.from_bytes(total.to_bytes(size, "big").translate(row), "big")
        total ^= number
    return total.to_bytes(size, "big")
