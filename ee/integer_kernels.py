"""Products of small integers by the kernels of this machine, believed once they were exact.

A kernel is believed only after it has multiplied the whole range of its operands exactly at
the sizes of the matrix at hand.  The known trap: 8-bit weights saturate the 16-bit pair sums
of CPUs without VNNI in silence.  Weights of 7 bits cannot (255 * 63 * 2 < 2^15), and the
test would see it if they did.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ee.integer import spec
from ee.integer.arith import FLOAT32_EXACT
from ee.integer.errors import SelfTestError

Product = Callable[[Tensor], Tensor]
"""int8 rows (rows, inputs) to their exact products with one weight matrix, in float64 or, where
the sums are short enough, in float32."""
SHORT, LIMB = 127, 64
"""Largest entry of an 8-bit row, and of a limb of a 14-bit one."""


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
            )
            for cut, part in zip(cuts, packed, strict=True)
        )  # fmt: skip
        return _summed(parts)

    return product


def _float32(weight: Tensor, device: torch.device, limit: int) -> Product:
    """Blocks short enough that float32 cannot round."""
    wide = weight.to(device, torch.float32)
    cuts = _blocks(weight.shape[1], limit)

    def product(rows: Tensor) -> Tensor:
        left = rows.float()
        return _summed(left[:, cut] @ wide[:, cut].t() for cut in cuts)

    return product


def _summed(blocks: Iterator[Tensor]) -> Tensor:
    """One block as it is; more of them in float64, which holds their sum."""
    total = next(blocks)
    for place, block in enumerate(blocks):
        total = total.double() if not place else total
        total += block
    return total


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
