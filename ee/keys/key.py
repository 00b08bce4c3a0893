"""The key of a trunk: a seed, a layer plan, and what they do to weights and rows.

A key is derived site by site from its seed, so it is as small as the seed at rest and never
larger than one layer in use.  It belongs to one (institution, host, session); `ee.ledger`
refuses it a second one.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache

from torch import Tensor

from ee.arch.plan import STREAM, Axis, Plan, Side
from ee.arch.sites import Options
from ee.draw import Draw, check_seed
from ee.errors import KeyMismatchError
from ee.groups import Dense, Transform, direct_sum
from ee.ledger import Opens, fingerprint

SITES_AT_ONCE = 4
"""Drawn sites that are kept: a layer has two, and its tensors come one after another."""
WHOLE_BYTES = 64 << 20
"""A tensor that takes more than this in float64 is not widened as a whole."""
DENSE_BYTES = 32 << 20
"""A slice under a full matrix: large enough for the product to run at full speed."""
FAST_BYTES = 1 << 20
"""A slice under any other transform: small enough to stay in a cache between the steps,
which makes it three times as fast."""


class Key:
    """Opens one keyed trunk; made for one session, then destroyed."""

    def __init__(self, seed: bytes, plan: Plan, options: Options | None = None) -> None:
        check_seed(seed)
        self.plan = plan
        self.options = Options() if options is None else options
        self._seed = seed
        self._drawn = lru_cache(SITES_AT_ONCE)(self._draw)
        self._stream = self._draw(STREAM.site)[STREAM.part]
        self._stream_back = self._stream.inverse()

    def __repr__(self) -> str:
        return f"Key({self.fingerprint().hex()[:16]}, {self.plan.architecture})"

    def opens(self) -> Opens:
        """What a key file says of this key."""
        strength, turn = self.options.strength, self.options.turn
        return Opens(
            self.plan.architecture, self.plan.digest(), str(strength), str(turn)
        )

    def fingerprint(self) -> bytes:
        """Names the key, its plan and its options without telling anything about it."""
        return fingerprint(self._seed, self.opens())

    def enter(self, x: Tensor) -> Tensor:
        """Plain rows (..., width) to keyed rows, in their dtype.

        The map of the stream is orthogonal at every strength, so gradients at rows go the
        same way.
        """
        return self._stream.act(x)

    def leave(self, y: Tensor) -> Tensor:
        """Keyed rows to plain rows."""
        return self._stream_back.act(y)

    def transform(self, side: Side) -> Transform:
        """What the key does to one feature space."""
        if side == STREAM:
            return self._stream
        return self._drawn(side.site)[side.part]

    def _draw(self, site: str) -> Mapping[str, Transform]:
        return self.plan.sites[site].draw(Draw(self._seed, site), self.options)

    def _acting(self, axis: Axis, *, inverse: bool) -> Transform:
        whole = direct_sum([self.transform(side) for side in axis.sides])
        acting = whole.dual() if axis.dual else whole
        return acting.inverse() if inverse else acting

    def key(self, name: str, tensor: Tensor) -> Tensor:
        """One tensor of the canonical trunk, keyed; it may be changed in place."""
        return self._apply(name, tensor, inverse=False)

    def unkey(self, name: str, tensor: Tensor) -> Tensor:
        """The inverse of `key`; under an orthogonal key it also brings gradients home."""
        return self._apply(name, tensor, inverse=True)

    def _apply(self, name: str, tensor: Tensor, *, inverse: bool) -> Tensor:
        axes = self.plan.axes(name)
        acting = [self._acting(axis, inverse=inverse) for axis in axes]
        sizes = tuple(transform.size for transform in acting)
        if tuple(tensor.shape) != sizes:
            raise KeyMismatchError(
                f"{name} is {tuple(tensor.shape)}, the key is for {sizes}"
            )
        if 8 * tensor.numel() <= WHOLE_BYTES:
            return _acted(tensor.double(), acting).to(tensor.dtype)
        return _acted(tensor, acting)


def _acted(tensor: Tensor, acting: list[Transform]) -> Tensor:
    """In place, one axis after the other, in float64 a slice at a time.

    Each axis rounds to the tensor's own dtype once; a large float32 matrix is thus rounded
    twice, each time by one part in ten million.
    """
    if len(acting) == 1:
        return tensor.copy_(acting[0].act(tensor.double(), 0))
    for axis, transform in enumerate(acting):
        held = DENSE_BYTES if isinstance(transform, Dense) else FAST_BYTES
        columns = max(1, held // (8 * transform.size))
        for piece in tensor.split(columns, dim=1 - axis):
            piece.copy_(transform.act(piece.double(), axis))
    return tensor


def state_keyed(state: Mapping[str, Tensor], key: Key) -> dict[str, Tensor]:
    """A whole canonical trunk, keyed; `state` is left as it is."""
    return {name: _one(name, tensor, key, key.key) for name, tensor in state.items()}


def state_unkeyed(state: Mapping[str, Tensor], key: Key) -> dict[str, Tensor]:
    """The inverse of `state_keyed`."""
    return {name: _one(name, tensor, key, key.unkey) for name, tensor in state.items()}


def _one(name: str, tensor: Tensor, key: Key, act: Callable[..., Tensor]) -> Tensor:
    if key.plan.carries(name, tensor):
        return tensor.detach().clone()
    return act(name, tensor.detach().clone())
