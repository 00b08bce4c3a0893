"""Traffic of S-mode, derived: values a token and block sends each way (docs/attacks.md §3).

Forward, the inputs of the four groups go up to one host, d + q + d + ff; their outputs come
down from both, 2 (q + k + v + d + up [+ gate] + d), where all queries are q wide, which is d
unless the configuration has a head size of its own.  Backward the two change places.  The
second host's operand is expanded from a seed and costs nothing.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class BlockShape:
    """Sizes of one transformer block."""

    width: int
    inner: int
    kv_width: int
    gated: bool
    q_width: int | None = None
    """None: the width."""

    @property
    def _queries(self) -> int:
        return self.width if self.q_width is None else self.q_width

    @property
    def read(self) -> int:
        """Values the first product gives: queries, keys and values."""
        return self._queries + 2 * self.kv_width

    @property
    def inputs(self) -> int:
        """Values that enter linear maps, a token: qkv, o, up, down."""
        return 2 * self.width + self._queries + self.inner

    @property
    def outputs(self) -> int:
        """Values that leave them."""
        ups = 2 if self.gated else 1
        return self.read + 2 * self.width + ups * self.inner


def forward_values(shape: BlockShape, blocks: int) -> int:
    """A token, up and down together; 25 d plain, 33 d gated, where ff = 4 d, kv = d."""
    return blocks * (shape.inputs + 2 * shape.outputs)


def backward_values(shape: BlockShape, blocks: int) -> int:
    """A token; the first block's q, k, v send no gradient further down."""
    first = shape.read + 2 * shape.width
    return blocks * (shape.outputs + 2 * shape.inputs) - first
