"""The fast twin of `ee.integer` on torch: the same bits, sooner (docs/verify.md §3.3).

It computes the op-spec with the products of small integers given to whatever int8 kernel
this machine has, and everything else in float64 as the numpy reference does.  The reference
defines the result; the twin is tested against it, asks itself known answers before it is
used, and is used for serving, never by an auditor.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ee.integer import (
    Gain,
    IntegerTrunk,
    Layer,
    Matrix,
    RowArray,
    Trace,
    known,
    spec,
)
from ee.integer.errors import IntegerModelError, SelfTestError
from ee.integer_kernels import LIMB, SHORT, exact_product

SCORES_AT_ONCE = {"cpu": 1 << 16, "cuda": 1 << 26}
ROWS_AT_ONCE = {"cpu": 32, "cuda": 1 << 20}
"""Blocks of heads, and of rows: on a CPU the steps between two products then find in a cache
what the last one left; a GPU wants few and large ones."""
_EXPONENT_BIAS, _MANTISSA_BITS = 1023, 52
_LIMB_BITS = 7
_NUDGE = 1.0 / 256
"""Half of half the step between two values of g/64."""


class TorchTrunk:
    """An integer trunk on a torch device; same `forward` as `IntegerTrunk`."""

    def __init__(self, trunk: IntegerTrunk, device: str = "cpu") -> None:
        """Raises `SelfTestError` if no kernel of the device is exact at these sizes."""
        self.trunk = trunk
        self._device = torch.device(device)
        self._cos, self._sin = (
            torch.from_numpy(table.astype(np.float64)).to(self._device)
            for table in (trunk.header.cos, trunk.header.sin)
        )
        self._layers = [_Layer(layer, self._device) for layer in trunk.layers]
        self._exp = self._table(np.append(spec.exp_table(), 0.0))
        self._activation = self._table(trunk.header.activations)
        # Exact, and spares a step of each number that is looked up.
        self._activation *= 2.0**-spec.SIGMOID_BITS

    def forward(self, rows: RowArray, *, start: int = 0) -> Trace:
        """Every boundary from `rows`, which stand before layer `start`, to the output."""
        self.trunk.require_layer(start)
        boundaries = [self.trunk.header.check_rows(rows)]
        for index in range(start, len(self._layers)):
            boundaries.append(self.replay_layer(index, boundaries[-1]))
        return Trace(tuple(boundaries))

    def extend(self, rows: RowArray, cache: "TorchCache") -> Trace:
        """Boundaries of the next rows of sequences under way; only of a causal trunk."""
        if not self.trunk.config.causal:
            raise IntegerModelError(
                "an encoder sees its whole sequence, it keeps no cache"
            )
        pasts = cache.of(self, len(rows))
        boundaries = [self.trunk.header.check_rows(rows, past=cache.tokens)]
        for index, past in enumerate(pasts):
            boundaries.append(self._replayed(index, boundaries[-1], past))
        return Trace(tuple(boundaries))

    def replay_layer(self, index: int, rows: RowArray) -> RowArray:
        """Rows after layer `index`, given the rows before it."""
        self.trunk.require_layer(index)
        return self._replayed(index, self.trunk.header.check_rows(rows), _Past())

    def _replayed(self, index: int, rows: RowArray, past: "_Past") -> RowArray:
        _require_full_precision()
        batch, tokens, width = rows.shape
        flat = torch.tensor(rows.reshape(-1, width), device=self._device)
        with torch.inference_mode():
            after = self._layer(self._layers[index], flat, batch, past)
        found: NDArray[np.int32] = after.cpu().numpy()
        return found.reshape(batch, tokens, width)

    @property
    def kernel(self) -> str:
        """Which product the first matrix uses; for a report."""
        return self._layers[0].q.kernel

    def _table(self, values: NDArray[np.float64]) -> Tensor:
        return torch.tensor(values, device=self._device)

    def _layer(
        self, layer: "_Layer", flat: Tensor, batch: int, past: "_Past"
    ) -> Tensor:
        short, s, base = self._normed(layer, flat, 0)
        mixed = self._attended(layer, short, s, batch, past)
        q, s = _rows(mixed, spec.ROW_BITS)
        change = layer.o(q.to(torch.int8), s, spec.RESIDUAL_LIMIT)
        flat = _add(base, change)
        short, s, base = self._normed(layer, flat, 1)
        hidden = self._activated(layer.gate(short, s, spec.MID_LIMIT))
        if layer.up is not None:
            hidden.mul_(layer.up(short, s, spec.MID_LIMIT))
        q, s = _rows(hidden, spec.WIDE_BITS)
        return _add(base, layer.down(_limbs(q), s, spec.RESIDUAL_LIMIT))

    def _normed(
        self, layer: "_Layer", flat: Tensor, which: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """8-bit rows with exponents, and the base that what they make is added to."""
        config = self.trunk.config
        values = _norm(flat, config.norm_bias, centred=config.style.centred)
        if config.style.post:
            scale, bias = layer.gains[which]
            values.mul_(scale).add_(0.5).floor_().add_(bias)
            values.clamp_(-spec.RESIDUAL_LIMIT, spec.RESIDUAL_LIMIT)
            flat = values.to(torch.int32)
        q, s = _rows(values, spec.ROW_BITS)
        return q.to(torch.int8), s, flat

    def _attended(
        self, layer: "_Layer", short: Tensor, s: Tensor, batch: int, past: "_Past"
    ) -> Tensor:
        """Steps 1 to 5; (batch * tokens, heads * dim)."""
        config = self.trunk.config
        tokens = len(short) // batch
        q, k, v = (
            # (batch, tokens, heads, dim)
            matrix(short, s, spec.MID_LIMIT).view(batch, tokens, -1, config.head_dim)
            for matrix in (layer.q, layer.k, layer.v)
        )
        if config.style.rotary:
            now = slice(past.tokens, past.tokens + tokens)
            cos, sin = self._cos[now, None, :], self._sin[now, None, :]
            q, k = _rope(q, cos, sin), _rope(k, cos, sin)
        group = config.heads // config.kv_heads
        left = _heads_first(q, 1)
        right, values = past.extend(_heads_first(k, group), _heads_first(v, group))
        mixed = torch.empty_like(left[0])
        # As in the reference: heads do not see each other, so this bounds memory only.
        whole = right[0].shape[1]
        step = SCORES_AT_ONCE[self._device.type] // (tokens * whole)
        ahead = None
        if config.causal:
            ahead = torch.ones(tokens, whole, dtype=torch.bool, device=short.device)
            ahead = ahead.triu(whole - tokens + 1)
        for part in _parts(len(mixed), step):
            seen = ((x[part], e[part]) for x, e in (left, right, values))
            mixed[part] = self._attention(ahead, *seen)
        # (batch * heads, tokens, dim) to (batch * tokens, heads * dim)
        by_token = mixed.view(batch, config.heads, tokens, -1).transpose(1, 2)
        return by_token.reshape(batch * tokens, -1)

    def _attention(
        self,
        ahead: Tensor | None,
        left: tuple[Tensor, Tensor],
        right: tuple[Tensor, Tensor],
        values: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Steps 4 and 5; `ahead` says what a causal token does not see."""
        (q, sq), (k, sk), (v, sv) = left, right, values
        # 127^2 * dim < 2^24 for every head of at most 1024; powers of two are exact anywhere.
        lifted = (q * _power(sq - spec.SCORE_SHIFT)[..., None]).float()
        turned = (k * _power(sk)[..., None]).float().transpose(1, 2)
        scores = torch.bmm(lifted, turned).double()
        scores.mul_(self.trunk.config.score_multiplier).add_(0.5).floor_()
        scores.clamp_(-spec.SCORE_LIMIT, spec.SCORE_LIMIT)
        tokens = scores.shape[1]
        if ahead is not None:
            scores.masked_fill_(ahead, -4.0 * spec.SCORE_LIMIT)
            top = torch.cummax(sv, dim=-1).values[:, -tokens:]
        else:
            top = sv.amax(dim=-1, keepdim=True).expand(-1, tokens)
        below = torch.sub(scores.amax(dim=-1, keepdim=True), scores, out=scores)
        steps = below.clamp_(max=spec.TABLE_SIZE).to(torch.int32)
        weights = _looked_up(self._exp, steps)
        total = weights.sum(dim=-1, keepdim=True)
        weights *= _power(-top)[..., None]
        weights *= _power(sv)[:, None, :]
        weights.add_(0.5).floor_()
        numerator = torch.bmm(weights, v) * _power(top)[..., None]
        mixed = (2.0 * numerator + total).div_(2.0 * total).floor_()
        return mixed.clamp_(-spec.MID_LIMIT, spec.MID_LIMIT)

    def _activated(self, gate: Tensor) -> Tensor:
        out, nudge = torch.empty_like(gate), torch.full_like(gate[:1, :1], _NUDGE)
        for part in _parts(len(gate), ROWS_AT_ONCE[self._device.type]):
            given = gate[part]
            # As in the reference: half a step below 0 moves the ties there and nothing else.
            index = torch.copysign(nudge, given).add_(given, alpha=1.0 / 64)
            index.add_(spec.TABLE_SIZE + 0.5 - _NUDGE).clamp_(0, 2 * spec.TABLE_SIZE)
            found = _looked_up(self._activation, index.to(torch.int32))
            found.mul_(given).add_(0.5)
            torch.floor(found, out=out[part])
        return out


Short = tuple[Tensor, Tensor]
"""8-bit rows (batch * heads, tokens, dim) and their exponents (batch * heads, tokens)."""


class _Past:
    """Keys and values of the rows so far, as the reference's `Past`, for every query head."""

    def __init__(self) -> None:
        self._kept: tuple[Short, Short] | None = None

    @property
    def tokens(self) -> int:
        return 0 if self._kept is None else self._kept[0][0].shape[1]

    def extend(self, k: Short, v: Short) -> tuple[Short, Short]:
        """All keys and values, with these at the end."""
        if self._kept is not None:
            k, v = (
                (torch.cat([old[0], new[0]], 1), torch.cat([old[1], new[1]], 1))
                for old, new in zip(self._kept, (k, v), strict=True)
            )
        self._kept = k, v
        return k, v


class TorchCache:
    """Keys and values of a batch of sequences under way, for one `TorchTrunk`."""

    def __init__(self) -> None:
        self._twin: TorchTrunk | None = None
        self._batch = 0
        self._pasts: tuple[_Past, ...] = ()

    @property
    def tokens(self) -> int:
        """How many rows of each sequence are in it."""
        return self._pasts[0].tokens if self._pasts else 0

    def of(self, twin: TorchTrunk, batch: int) -> tuple[_Past, ...]:
        """A past for every layer; the first use decides for which twin and batch."""
        if self._twin is None:
            self._twin, self._batch = twin, batch
            self._pasts = tuple(_Past() for _ in twin.trunk.layers)
        if self._twin is not twin or self._batch != batch:
            raise IntegerModelError(
                f"cache is of {self._batch} sequences of one trunk, not of {batch}"
                f" of {'it' if self._twin is twin else 'another'}"
            )
        return self._pasts


class _Layer:
    """The matrices of a layer, each as one function, and its gains as (scale, bias)."""

    def __init__(self, layer: Layer, device: torch.device) -> None:
        self.q, self.k, self.v, self.o, self.gate = (
            _Linear(matrix, device, SHORT) for matrix in layer.matrices()[:5]
        )
        self.up = None if layer.up is None else _Linear(layer.up, device, SHORT)
        self.down = _Linear(layer.down, device, LIMB)
        self.gains = [_gain(gain, device) for gain in layer.gains]


def _gain(gain: Gain, device: torch.device) -> tuple[Tensor, Tensor]:
    scale = np.ldexp(gain.multiplier.astype(np.float64), -gain.shift)
    bias = gain.bias.astype(np.float64)
    return torch.tensor(scale, device=device), torch.tensor(bias, device=device)


class _Linear:
    """The spec's linear, clamped; wide rows come as two stacked limbs."""

    def __init__(self, matrix: Matrix, device: torch.device, limit: int) -> None:
        weight = torch.from_numpy(matrix.weight.copy())
        self._product, self.kernel = exact_product(weight, device, limit)
        self._scale = torch.tensor(matrix.scale, device=device)
        self._half = torch.full_like(self._scale, 0.5)
        self._bias: Tensor | None = None
        if matrix.bias is not None:
            self._bias = torch.tensor(matrix.bias, dtype=torch.float64, device=device)

    def __call__(self, rows: Tensor, s: Tensor, limit: float) -> Tensor:
        sums, power, count = self._product(rows), _power(s)[:, None], len(s)
        out = torch.empty(
            (count, sums.shape[1]), dtype=torch.float64, device=sums.device
        )
        for part in _parts(count, ROWS_AT_ONCE[sums.device.type]):
            made = out[part].copy_(sums[part])
            if len(sums) == 2 * count:
                low = sums[part.start + count : part.stop + count]
                made.mul_(spec.LIMB).add_(low)
            # The product is exact, so it is the sum alone that rounds, fused or not.
            torch.addcmul(self._half, made.mul_(power[part]), self._scale, out=made)
            made.floor_()
            if self._bias is not None:
                made.add_(self._bias)
            made.clamp_(-limit, limit)
        return out


def _parts(count: int, step: int) -> Iterator[slice]:
    """Cuts of `count` rows into blocks of `step`, of one at least."""
    step = max(1, step)
    return (slice(at, min(at + step, count)) for at in range(0, count, step))


def self_test(device: str = "cpu") -> None:
    """Raise `SelfTestError` unless the twin gives the reference's known answers."""
    plain = [known.drawn_trunk(causal=causal) for causal in (True, False)]
    stock = [known.drawn_stock(style, causal=causal) for style, causal in known.STOCK]
    for number, trunks, wanted in (
        (1, plain, known.KNOWN_ANSWER),
        (2, stock, known.KNOWN_STOCK),
    ):
        found = known.answer_of(
            number, trunks, lambda trunk, rows: TorchTrunk(trunk, device).forward(rows)
        )
        if found != wanted:
            raise SelfTestError(
                f"torch on {device} computes {found[:16]} where the op-spec gives"
                f" {wanted[:16]}; it must not serve"
            )


def _require_full_precision() -> None:
    """Somebody else in the process may have traded float32 products for speed."""
    if torch.get_float32_matmul_precision() != "highest":
        raise IntegerModelError(
            "float32 matmul precision is"
            f" {torch.get_float32_matmul_precision()!r}, exact products need 'highest'"
        )


def _power(exponent: Tensor) -> Tensor:
    """2^e in float64, put together from its bits: `pow` of a device may round."""
    return ((exponent + _EXPONENT_BIAS) << _MANTISSA_BITS).view(torch.float64)


def _rows(values: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """`ops.rows`: short rows and int64 exponents."""
    largest = torch.maximum(values.amax(dim=-1), -values.amin(dim=-1))
    shift = (torch.frexp(largest).exponent.to(torch.int64) - bits).clamp_(min=0)
    short = (values * _power(-shift)[..., None]).add_(0.5).floor_()
    return (short.clamp_(-127, 127) if bits == spec.ROW_BITS else short), shift


def _norm(residual: Tensor, bias: int, *, centred: bool) -> Tensor:
    wide, width = residual.to(torch.int64), residual.shape[-1]
    if centred:
        doubled = 2 * wide.sum(dim=-1, keepdim=True) + width
        wide -= torch.div(doubled, 2 * width, rounding_mode="floor")
    total = (wide * wide).sum(dim=-1) + bias
    high = torch.frexp((total >> 31).double()).exponent
    low = torch.frexp((total & 0x7FFFFFFF).double()).exponent
    bits = torch.where(high > 0, high + 31, low).to(torch.int64)
    lift = (62 - bits) & ~1
    lifted = total << lift
    root = lifted.double().sqrt().to(torch.int64)
    root -= (root * root > lifted).to(torch.int64)
    root += ((root + 1) * (root + 1) <= lifted).to(torch.int64)
    top = math.isqrt(width << 40) << 31
    gain = torch.div(torch.full_like(root, top), root, rounding_mode="floor")
    scaled = wide.double() * gain.double()[:, None]
    scaled *= _power(lift // 2 - 35)[:, None]
    return scaled.add_(0.5).floor_()


def _rope(values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = values.chunk(2, dim=-1)
    turned = torch.empty_like(values)
    left, right = turned.chunk(2, dim=-1)
    torch.mul(first, cos, out=left).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=right).addcmul_(first, sin)
    turned.mul_(2.0**-spec.ROPE_BITS).add_(0.5).floor_()
    return turned.clamp_(-spec.MID_LIMIT, spec.MID_LIMIT)


def _heads_first(values: Tensor, repeat: int) -> tuple[Tensor, Tensor]:
    """8-bit rows per token and head, as (batch * heads, tokens, dim)."""
    q, s = _rows(values, spec.ROW_BITS)
    q, s = q.transpose(1, 2), s.transpose(1, 2)
    if repeat > 1:
        q, s = q.repeat_interleave(repeat, dim=1), s.repeat_interleave(repeat, dim=1)
    return q.reshape(-1, *q.shape[2:]), s.reshape(-1, s.shape[2])


def _limbs(wide: Tensor) -> Tensor:
    """Two stacked int8 limbs of 14-bit rows: wide = 128 * high + low."""
    rows, whole = len(wide), wide.to(torch.int16)
    stacked = torch.empty(
        (2 * rows, wide.shape[1]), dtype=torch.int8, device=wide.device
    )
    high = (whole + spec.LIMB // 2) >> _LIMB_BITS
    stacked[:rows] = high
    stacked[rows:] = whole.sub_(high, alpha=spec.LIMB)
    return stacked


def _looked_up(table: Tensor, index: Tensor) -> Tensor:
    return table.index_select(0, index.reshape(-1)).view(index.shape)


def _add(residual: Tensor, change: Tensor) -> Tensor:
    change += residual
    return change.clamp_(-spec.RESIDUAL_LIMIT, spec.RESIDUAL_LIMIT).to(torch.int32)
