"""What the key holder of S-mode does for one product: split, send, join, account.

`Carry` is the whole interface to the world: it takes the request for each host and brings
both replies.  In a test it calls two `HostShare`s; a node puts a transport behind it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ee.errors import EncryptionError
from ee.smode.arithmetic import Arithmetic, Array
from ee.smode.host import Reply, Request
from ee.smode.pads import PadLedger
from ee.smode.probe import Probes

Carry = Callable[[Request, Request], tuple[Reply, Reply]]
"""Requests to the first and the second host; their replies, in that order."""


@dataclass
class Account:
    """What a session has sent and what it may have told."""

    rounds: int = 0
    values_up: int = 0
    values_down: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    leak_bits: float = 0.0
    """Bound on what the first host has learned of all values together."""
    expected_error: float = 0.0
    """Largest expected relative error of a product so far."""


@dataclass(frozen=True)
class LayerSize:
    """What the key holder must know of a layer whose weight it need not hold."""

    inputs: int
    outputs: int
    scale: float


class KeyHolder:
    """One session of padded products."""

    def __init__(
        self,
        arithmetic: Arithmetic,
        ledger: PadLedger,
        carry: Carry,
        sizes: dict[str, LayerSize],
        probes: Probes | None = None,
    ) -> None:
        """`probes` check every answer; without them a host may spoil a result unseen."""
        self._arithmetic = arithmetic
        self._ledger = ledger
        self._carry = carry
        self._sizes = sizes
        self._probes = probes
        self.account = Account()

    def product(
        self, layer: str, x: Array, *, backward: bool = False
    ) -> NDArray[np.float64]:
        """(rows, n) plain rows to (rows, m) plain products with the public weight."""
        size = self._sizes.get(layer)
        if size is None:
            raise EncryptionError(f"no layer {layer!r} is shared")
        width = size.outputs if backward else size.inputs
        if x.ndim != 2 or x.shape[1] != width:
            raise EncryptionError(
                f"{layer}: rows are {x.shape}, the layer takes {width}"
            )
        number = self._ledger.issue()
        split = self._arithmetic.split(x, self._ledger.stream, number)
        rows = x.shape[0]
        first = Request(layer, backward, number, rows, split.share)
        second = Request(layer, backward, number, rows, None)
        replies = self._carry(first, second)
        expected = (rows, size.inputs if backward else size.outputs)
        for reply in replies:
            if reply.product.shape != expected:
                raise EncryptionError(
                    f"{layer}: a host answered {reply.product.shape}, needs {expected}"
                )
        if self._probes is not None:
            pad = self._arithmetic.pad(self._ledger.stream, number, (rows, width))
            for operand, reply in zip((split.share, pad), replies, strict=True):
                self._probes.check(layer, operand, reply.product, backward=backward)
        self._count(first, replies, x)
        joined = self._arithmetic.join(replies[0].product, replies[1].product)
        return joined * split.scale * size.scale

    def _count(self, sent: Request, replies: tuple[Reply, Reply], x: Array) -> None:
        account, word = self.account, self._arithmetic.word_bytes
        account.rounds += 1
        account.bytes_up += sent.payload_bytes
        account.values_up += sent.payload_bytes // word
        down = sum(reply.payload_bytes for reply in replies)
        account.bytes_down += down
        account.values_down += down // word
        account.leak_bits += x.size * self._arithmetic.leak_bits
        account.expected_error = max(
            account.expected_error, self._arithmetic.expected_error(x)
        )
