"""Whether a host multiplied by the matrix it should have: a random projection tells.

For a secret V the key holder keeps W V', which it makes once.  A reply y to an operand x is
right only if  y V' = x (W V'), which costs a few numbers a row instead of a matrix.  In the ring
a wrong row passes one column with probability at most 1/2 (an error of 2^63 is even half the
time), so it passes all with 2^-COLUMNS; in floating point anything larger than rounding shows.

V must be unknown to both hosts, so it has a seed of its own: the pads' is the second host's.
Source: R. Freivalds, Probabilistic machines can use less running time (1977).
"""

from collections.abc import Mapping

import numpy as np

from ee.errors import EncryptionError
from ee.smode.arithmetic import Arithmetic, Array
from ee.smode.pads import PadStream

COLUMNS = 24
"""A wrong row goes unseen once in 2^24; two percent of the work of a product of width 1,024."""
ROUNDINGS = 8
"""Floating point: how many units of rounding a right answer may be off; over all layers of
MiniLM, forward and backward, the worst was 0.8 in float32 and 1.4 in float64."""


class WrongProductError(EncryptionError):
    """A host's answer is not the product it was asked for."""


class Probes:
    """One session's secret projections, forward and backward, of every layer."""

    def __init__(
        self, arithmetic: Arithmetic, weights: Mapping[str, Array], seed: bytes
    ) -> None:
        stream = PadStream(seed)
        self._exact = arithmetic.word.kind == "u"
        self._made: dict[tuple[str, bool], tuple[Array, Array]] = {}
        for number, name in enumerate(sorted(weights)):
            forward = arithmetic.public_weight(weights[name]).T
            for backward in (False, True):
                weight = forward.T if backward else forward  # (n, m)
                shape = (COLUMNS, weight.shape[1])
                secret = arithmetic.pad(stream, 2 * number + backward, shape)
                projected = arithmetic.multiply(secret, weight.T)  # (COLUMNS, n)
                self._made[name, backward] = secret, projected

    def check(
        self, layer: str, operand: Array, product: Array, *, backward: bool
    ) -> None:
        """`WrongProductError` unless `product` is `operand` times the layer's matrix."""
        secret, projected = self._made[layer, backward]
        if self._exact:
            wrong = product @ secret.T != operand @ projected.T
        else:
            wide = np.float64
            left = product.astype(wide) @ secret.T.astype(wide)
            right = operand.astype(wide) @ projected.T.astype(wide)
            size = np.linalg.norm(operand.astype(wide), axis=1, keepdims=True)
            reach = np.linalg.norm(projected.astype(wide), axis=1)
            allowed = ROUNDINGS * float(np.finfo(product.dtype).eps) * size * reach
            # Written so that a NaN, which compares false to all, is wrong.
            wrong = ~(np.abs(left - right) <= allowed)
        rows = int(wrong.any(axis=1).sum())
        if rows:
            raise WrongProductError(
                f"{layer}: {rows} of {len(product)} rows of a host's answer are wrong"
            )
