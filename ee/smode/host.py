"""What a host of S-mode does: multiply a share by a public matrix, and nothing else.

Both hosts run this program.  The one with a seed expands its share from it; the other is
sent its shares.  Neither can tell a first layer from a gradient but by its name, and neither
is given the other's half.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ee.errors import EncryptionError
from ee.smode.arithmetic import Arithmetic, Array
from ee.smode.pads import PadReuseError, PadStream

ROWS_AT_MOST = 1 << 16


@dataclass(frozen=True)
class Request:
    """One product asked of one host."""

    layer: str
    backward: bool
    """Multiply by the weight's transpose: a gradient on its way down."""
    pad: int
    """Number of the pad; rises with every request of a session."""
    rows: int
    share: Array | None
    """(rows, n); None: expand pad number `pad` from the seed."""

    @property
    def payload_bytes(self) -> int:
        """Bytes of numbers in it, without the frame they travel in."""
        return 0 if self.share is None else int(self.share.nbytes)


@dataclass(frozen=True)
class Reply:
    """The product, (rows, m)."""

    product: Array

    @property
    def payload_bytes(self) -> int:
        return int(self.product.nbytes)


class HostShare:
    """One host's program for one session."""

    def __init__(
        self,
        arithmetic: Arithmetic,
        weights: Mapping[str, Array],
        seed: bytes | None = None,
    ) -> None:
        """`weights`: (outputs, inputs) of each layer, public; `seed` for the second host."""
        self._arithmetic = arithmetic
        # As they multiply from the right: (inputs, outputs) forward.
        self._weights = {
            name: arithmetic.public_weight(weight).T for name, weight in weights.items()
        }
        self._stream = None if seed is None else PadStream(seed)
        self._last = -1

    def answer(self, request: Request) -> Reply:
        """`EncryptionError` for a layer or shape that is not ours, or a repeated pad."""
        weight = self._weights.get(request.layer)
        if weight is None:
            raise EncryptionError(f"no layer {request.layer!r} is shared here")
        if request.backward:
            weight = weight.T
        if not 1 <= request.rows <= ROWS_AT_MOST:
            raise EncryptionError(f"{request.rows} rows, limit is {ROWS_AT_MOST}")
        # A key holder that numbers twice is broken or was rolled back; answering would
        # hand whoever holds both shares the difference of two plaintexts.
        if request.pad <= self._last:
            raise PadReuseError(
                f"pad {request.pad} after {self._last}: numbers only rise"
            )
        operand = self._operand(request, weight.shape[0])
        self._last = request.pad
        return Reply(self._arithmetic.multiply(operand, weight))

    def _operand(self, request: Request, width: int) -> Array:
        shape = (request.rows, width)
        if request.share is None:
            if self._stream is None:
                raise EncryptionError(
                    f"{request.layer}: no share, and this host has no seed"
                )
            return self._arithmetic.pad(self._stream, request.pad, shape)
        if self._stream is not None:
            # One host with a share and its pad would be no secret at all.
            raise EncryptionError(f"{request.layer}: a share sent to the seeded host")
        if request.share.shape != shape:
            raise EncryptionError(
                f"{request.layer}: share is {request.share.shape}, needs {shape}"
            )
        return request.share
