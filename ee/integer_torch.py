"""The fast twin of `ee.integer` on torch: the same bits, sooner (docs/verify.md §3.3).

It computes the op-spec with the products of small integers given to whatever int8 kernel
this machine has, and everything else in float64 as the numpy reference does.  The reference
defines the result; the twin is tested against it, asks itself known answers before it is
used, and is used for serving, never by an auditor.

A kernel is believed only after it has multiplied the whole range of its operands exactly at
the sizes of the trunk at hand.  The known trap: 8-bit weights saturate the 16-bit pair sums
of CPUs without VNNI in silence.  Weights of 7 bits cannot (255 * 63 * 2 < 2^15), and the
test would see it if they did.
"""

import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ee.integer import (
    IntegerTrunk,
    Layer,
    Matrix,
    RowArray,
    Trace,
    known,
    model_root,
    pack_rows,
    spec,
)
from ee.integer.arith import FLOAT32_EXACT
from ee.integer.errors import IntegerModelError, SelfTestError

Product = Callable[[Tensor], Tensor]
"""int8 rows (rows, inputs) to their exact products with one weight matrix, in float64."""

SCORES_AT_ONCE = 1 << 22
_SHORT, _LIMB = 127, 64
_EXPONENT_BIAS, _MANTISSA_BITS = 1023, 52


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
        right = np.append(spec.sigmoid_table(), float(1 << spec.SIGMOID_BITS))
        left = float(1 << spec.SIGMOID_BITS) - right[:0:-1]
        self._sigmoid = self._table(np.concatenate([left, right]))

    def forward(self, rows: RowArray, *, start: int = 0) -> Trace:
        """Every boundary from `rows`, which stand before layer `start`, to the output."""
        self.trunk.require_layer(start)
        boundaries = [self.trunk.header.check_rows(rows)]
        for index in range(start, len(self._layers)):
            boundaries.append(self.replay_layer(index, boundaries[-1]))
        return Trace(tuple(boundaries))

    def replay_layer(self, index: int, rows: RowArray) -> RowArray:
        """Rows after layer `index`, given the rows before it."""
        _require_full_precision()
        self.trunk.require_layer(index)
        batch, tokens, width = self.trunk.header.check_rows(rows).shape
        flat = torch.tensor(rows.reshape(-1, width), device=self._device)
        with torch.inference_mode():
            after = self._layer(self._layers[index], flat, batch)
        found: NDArray[np.int32] = after.cpu().numpy()
        return found.reshape(batch, tokens, width)

    @property
    def kernel(self) -> str:
        """Which product the first matrix uses; for a report."""
        return self._layers[0].q.kernel

    def _table(self, values: NDArray[np.float64]) -> Tensor:
        return torch.tensor(values, device=self._device)

    def _layer(self, layer: "_Layer", flat: Tensor, batch: int) -> Tensor:
        config = self.trunk.config
        q, s = _norm(flat, config.norm_bias)
        short = q.to(torch.int8)
        mixed = self._attended(layer, short, s, batch)
        q, s = _rows(mixed, spec.ROW_BITS)
        change = layer.o(q.to(torch.int8), s, spec.RESIDUAL_LIMIT)
        flat = _add(flat, change)
        q, s = _norm(flat, config.norm_bias)
        short = q.to(torch.int8)
        gate = layer.gate(short, s, spec.MID_LIMIT)
        up = layer.up(short, s, spec.MID_LIMIT)
        q, s = _rows(self._gated(gate, up), spec.WIDE_BITS)
        return _add(flat, layer.down(_limbs(q), s, spec.RESIDUAL_LIMIT))

    def _attended(
        self, layer: "_Layer", short: Tensor, s: Tensor, batch: int
    ) -> Tensor:
        """Steps 1 to 5; (batch * tokens, heads * dim)."""
        config = self.trunk.config
        tokens = len(short) // batch
        cos, sin = self._cos[:tokens, None, :], self._sin[:tokens, None, :]
        q, k, v = (
            # (batch, tokens, heads, dim)
            matrix(short, s, spec.MID_LIMIT).view(batch, tokens, -1, config.head_dim)
            for matrix in (layer.q, layer.k, layer.v)
        )
        group = config.heads // config.kv_heads
        left = _heads_first(_rope(q, cos, sin), 1)
        right = _heads_first(_rope(k, cos, sin), group)
        values = _heads_first(v, group)
        mixed = torch.empty_like(left[0])
        # As in the reference: heads do not see each other, so this bounds memory only.
        step = max(1, SCORES_AT_ONCE // (tokens * tokens))
        for start in range(0, len(mixed), step):
            part = slice(start, start + step)
            mixed[part] = self._attention(
                *((x[part], e[part]) for x, e in (left, right, values))
            )
        # (batch * heads, tokens, dim) to (batch * tokens, heads * dim)
        by_token = mixed.view(batch, config.heads, tokens, -1).transpose(1, 2)
        return by_token.reshape(batch * tokens, -1)

    def _attention(
        self,
        left: tuple[Tensor, Tensor],
        right: tuple[Tensor, Tensor],
        values: tuple[Tensor, Tensor],
    ) -> Tensor:
        config = self.trunk.config
        (q, sq), (k, sk), (v, sv) = left, right, values
        # 127^2 * dim < 2^24 for every head of at most 1024.
        scores = torch.bmm(q.float(), k.float().transpose(1, 2)).double()
        scores *= (_power(sq - spec.SCORE_SHIFT) * config.score_multiplier)[..., None]
        scores *= _power(sk)[:, None, :]
        scores.add_(0.5).floor_().clamp_(-spec.SCORE_LIMIT, spec.SCORE_LIMIT)
        tokens = scores.shape[-1]
        if config.causal:
            ahead = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).triu(
                1
            )
            scores.masked_fill_(ahead, -4.0 * spec.SCORE_LIMIT)
            top = torch.cummax(sv, dim=-1).values
        else:
            top = sv.amax(dim=-1, keepdim=True).expand_as(sv)
        below = scores.amax(dim=-1, keepdim=True) - scores
        steps = below.clamp_(max=spec.TABLE_SIZE).to(torch.int64)
        weights = _looked_up(self._exp, steps)
        total = weights.sum(dim=-1, keepdim=True)
        weights *= _power(-top)[..., None]
        weights *= _power(sv)[:, None, :]
        weights.add_(0.5).floor_()
        numerator = torch.bmm(weights, v) * _power(top)[..., None]
        mixed = (2.0 * numerator + total).div_(2.0 * total).floor_()
        return mixed.clamp_(-spec.MID_LIMIT, spec.MID_LIMIT)

    def _gated(self, gate: Tensor, up: Tensor) -> Tensor:
        index = gate.abs().add_(32.0).mul_(1.0 / 64).floor_()
        index.clamp_(max=spec.TABLE_SIZE).copysign_(gate).add_(spec.TABLE_SIZE)
        activated = _looked_up(self._sigmoid, index.to(torch.int64))
        activated.mul_(gate).mul_(2.0**-spec.SIGMOID_BITS).add_(0.5).floor_()
        return activated.mul_(up)


class _Layer:
    """The seven matrices of a layer, each as one function."""

    def __init__(self, layer: Layer, device: torch.device) -> None:
        self.q, self.k, self.v, self.o, self.gate, self.up = (
            _Linear(matrix, device, _SHORT) for matrix in layer.matrices()[:6]
        )
        self.down = _Linear(layer.down, device, _LIMB)


class _Linear:
    """The spec's linear, clamped; wide rows come as two stacked limbs."""

    def __init__(self, matrix: Matrix, device: torch.device, limit: int) -> None:
        weight = torch.from_numpy(matrix.weight.copy())
        self._product, self.kernel = exact_product(weight, device, limit)
        self._scale = torch.tensor(matrix.scale, device=device)

    def __call__(self, rows: Tensor, s: Tensor, limit: float) -> Tensor:
        sums = self._product(rows)
        if len(rows) == 2 * len(s):
            high, low = sums[: len(s)], sums[len(s) :]
            sums = high.mul_(spec.LIMB).add_(low)
        sums *= self._scale
        sums *= _power(s)[:, None]
        return sums.add_(0.5).floor_().clamp_(-limit, limit)


def exact_product(
    weight: Tensor, device: torch.device, limit: int
) -> tuple[Product, str]:
    """The fastest kernel that is exact for this (outputs, inputs) int8 matrix, and its name.

    Raises `SelfTestError` if not even plain products are.
    """
    cpu = {"onednn": _onednn, "float32": _float32}
    gpu = {"int_mm": _int_mm, "float64": _float64}
    for name, make in (cpu if device.type == "cpu" else gpu).items():
        try:
            product = make(weight, device, limit)
        except (RuntimeError, AttributeError):
            continue  # this build or this machine has no such kernel
        if product is not None and _is_exact(product, weight, device, limit):
            return product, name
    raise SelfTestError(
        f"no product of {tuple(weight.shape)} small integers is exact on {device};"
        " it must not serve"
    )


def _blocks(inputs: int, limit: int) -> Sequence[slice]:
    """Cuts of the inner dimension whose sums stay below 2^24."""
    size = FLOAT32_EXACT // (limit * spec.WEIGHT_LIMIT)
    return [slice(at, at + size) for at in range(0, inputs, size)]


def _onednn(weight: Tensor, _device: torch.device, limit: int) -> Product:
    """U8 x s8 products of oneDNN: int32 sums, given out as float32.

    Rows are lifted by 128 to be unsigned, and the library takes the lift off again.
    """
    ops = torch.ops.onednn
    outputs = len(weight)
    one, zero = torch.ones(outputs), torch.zeros(outputs, dtype=torch.int32)
    cuts = _blocks(weight.shape[1], limit)
    packed = [ops.qlinear_prepack(weight[:, cut].contiguous(), None) for cut in cuts]

    def product(rows: Tensor) -> Tensor:
        lifted = (rows.view(torch.uint8) ^ 128).contiguous()
        parts = (
            ops.qlinear_pointwise(
                lifted[:, cut].contiguous(), 1.0, 128, part, one, zero, None,
                1.0, 0, torch.float32, "none", [], "",
            ).double()
            for cut, part in zip(cuts, packed, strict=True)
        )  # fmt: skip
        total = next(parts)
        for part in parts:
            total += part
        return total

    return product


def _float32(weight: Tensor, device: torch.device, limit: int) -> Product:
    """Blocks short enough that float32 cannot round."""
    wide = weight.to(device, torch.float32)
    cuts = _blocks(weight.shape[1], limit)

    def product(rows: Tensor) -> Tensor:
        left = rows.float()
        total = (left[:, cuts[0]] @ wide[:, cuts[0]].t()).double()
        for cut in cuts[1:]:
            total += left[:, cut] @ wide[:, cut].t()
        return total

    return product


def _float64(weight: Tensor, device: torch.device, _limit: int) -> Product:
    wide = weight.to(device, torch.float64)
    return lambda rows: rows.double() @ wide.t()


def _int_mm(weight: Tensor, device: torch.device, _limit: int) -> Product | None:
    """Int8 products of cuBLAS, which wants more than 16 rows and sizes that divide by 8."""
    outputs, inputs = weight.shape
    if outputs % 8 or inputs % 8:
        return None
    turned = weight.to(device).t()

    def product(rows: Tensor) -> Tensor:
        short = max(0, 17 - len(rows))
        padded = torch.nn.functional.pad(rows, (0, 0, 0, short))
        return torch._int_mm(padded, turned)[: len(rows)].double()  # noqa: SLF001 - the only name of the int8 kernel

    return product


def _is_exact(
    product: Product, weight: Tensor, device: torch.device, limit: int
) -> bool:
    """Whole-range rows through the kernel, against int64 sums; few rows and many."""
    inputs = weight.shape[1]
    stream = hashlib.shake_256(b"rexis kernel test").digest(40 * inputs)
    drawn = np.frombuffer(stream, np.uint8).reshape(40, inputs).astype(np.int64)
    rows = drawn % (2 * limit + 1) - limit
    rows[0], rows[1] = limit, -limit
    # The largest sums there are: every sign as the weights of one channel have it.
    rows[2] = limit * np.sign(weight[0].numpy())
    # float64 holds every sum; numpy's int64 product takes a hundred times as long.
    wanted = rows.astype(np.float64) @ weight.numpy().astype(np.float64).T
    short = torch.from_numpy(rows.astype(np.int8)).to(device)
    return all(
        np.array_equal(product(short[:count]).cpu().numpy(), wanted[:count])
        for count in (40, 3, 1)
    )


def self_test(device: str = "cpu") -> None:
    """Raise `SelfTestError` unless the twin gives the reference's known answers."""
    total = hashlib.sha256(spec.op_spec_digest())
    for causal in (True, False):
        trunk = known.drawn_trunk(causal=causal)
        total.update(model_root(trunk))
        rows = known.drawn_rows(trunk.config)
        for boundary in TorchTrunk(trunk, device).forward(rows).boundaries:
            total.update(pack_rows(boundary))
    if total.hexdigest() != known.KNOWN_ANSWER:
        raise SelfTestError(
            f"torch on {device} computes {total.hexdigest()[:16]} where the op-spec gives"
            f" {known.KNOWN_ANSWER[:16]}; it must not serve"
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


def _norm(residual: Tensor, bias: int) -> tuple[Tensor, Tensor]:
    wide = residual.to(torch.int64)
    total = (wide * wide).sum(dim=-1) + bias
    high = torch.frexp((total >> 31).double()).exponent
    low = torch.frexp((total & 0x7FFFFFFF).double()).exponent
    bits = torch.where(high > 0, high + 31, low).to(torch.int64)
    lift = (62 - bits) & ~1
    lifted = total << lift
    root = lifted.double().sqrt().to(torch.int64)
    root -= (root * root > lifted).to(torch.int64)
    root += ((root + 1) * (root + 1) <= lifted).to(torch.int64)
    top = math.isqrt(residual.shape[-1] << 40) << 31
    gain = torch.div(torch.full_like(root, top), root, rounding_mode="floor")
    scaled = residual.double() * gain.double()[:, None]
    scaled *= _power(lift // 2 - 35)[:, None]
    return _rows(scaled.add_(0.5).floor_(), spec.ROW_BITS)


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
    rows = len(wide)
    stacked = torch.empty(
        (2 * rows, wide.shape[1]), dtype=torch.int8, device=wide.device
    )
    high = (wide + spec.LIMB // 2).mul_(1.0 / spec.LIMB).floor_()
    stacked[:rows] = high
    stacked[rows:] = wide.sub_(high, alpha=spec.LIMB)
    return stacked


def _looked_up(table: Tensor, index: Tensor) -> Tensor:
    return table.index_select(0, index.reshape(-1)).view(index.shape)


def _add(residual: Tensor, change: Tensor) -> Tensor:
    change += residual
    return change.clamp_(-spec.RESIDUAL_LIMIT, spec.RESIDUAL_LIMIT).to(torch.int32)
