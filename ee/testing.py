"""The defining property of a keyed function, as a check anyone may call.

A function is equivariant under a key when  leave(keyed(enter(x))) = plain(x).  The error is
measured relative to the plain output, over several inputs, together with the gradient at
the inputs; `assert_equivariant` raises where it exceeds what rounding explains.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ee.errors import EncryptionError, EquivarianceError

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
"""By the dtype of the inputs: a dozen layers of rounding, each of about one part in 1e7
(float32) or 1e16 (float64), with room for attention over long rows."""

Function = Callable[[Tensor], Tensor]


class Door(Protocol):
    """What a key does to rows; `ee.keys.Key` is one."""

    def enter(self, x: Tensor) -> Tensor: ...
    def leave(self, y: Tensor) -> Tensor: ...


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """||found - wanted|| / ||wanted||, in float64."""
    distance = torch.linalg.vector_norm(found.double() - wanted.double())
    scale = torch.linalg.vector_norm(wanted.double())
    return float(distance / scale) if scale > 0 else float(distance)


def equivariance_error(
    plain: Function,
    keyed: Function,
    key: Door,
    inputs: Sequence[Tensor],
    *,
    gradients: bool = True,
) -> float:
    """The largest relative error over `inputs`, of outputs and of gradients at the inputs.

    Gradients are those of one random linear function of the plain output.
    """
    if not inputs:
        raise EncryptionError("no inputs: nothing would be checked")
    worst = 0.0
    for number, x in enumerate(inputs):
        wanted, wanted_slope = _both(plain, x, number, gradients=gradients)
        found, found_slope = _both(
            lambda rows: key.leave(keyed(key.enter(rows))),
            x,
            number,
            gradients=gradients,
        )
        if not bool(torch.isfinite(wanted).all()):
            raise EncryptionError(f"the plain output of input {number} is not finite")
        worst = max(worst, _finite(relative_error(found, wanted)))
        if wanted_slope is not None and found_slope is not None:
            worst = max(worst, _finite(relative_error(found_slope, wanted_slope)))
    return worst


def assert_equivariant(
    plain: Function,
    keyed: Function,
    key: Door,
    inputs: Sequence[Tensor],
    *,
    tolerance: float | None = None,
    gradients: bool = True,
) -> float:
    """Raise `EquivarianceError` unless the error is within `tolerance`; returns the error.

    The default tolerance goes by the dtype of the first input.
    """
    error = equivariance_error(plain, keyed, key, inputs, gradients=gradients)
    allowed = TOLERANCE[inputs[0].dtype] if tolerance is None else tolerance
    if not error <= allowed:
        raise EquivarianceError(
            f"equivariance error is {error:.2e}, limit is {allowed:.0e}",
            error=error,
            tolerance=allowed,
        )
    return error


def _both(
    function: Function, x: Tensor, seed: int, *, gradients: bool
) -> tuple[Tensor, Tensor | None]:
    rows = x.detach().clone().requires_grad_(gradients)
    with torch.set_grad_enabled(gradients):
        y = function(rows)
    if not gradients:
        return y.detach(), None
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y)
    (slope,) = torch.autograd.grad((y * weights).sum(), rows)
    return y.detach(), slope


def _finite(error: float) -> float:
    """NaN compares false with everything, so it must not reach `max`."""
    return float("inf") if math.isnan(error) else error


class _Lift(TorchFunctionMode):
    """Leaves float64 tensors alone where stock code would narrow them to float32."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        narrows = func is torch.Tensor.float or (
            func is torch.Tensor.to
            and (torch.float32 in args[1:] or kwargs.get("dtype") is torch.float32)
        )
        if narrows and args[0].dtype is torch.float64:
            return args[0]
        if kwargs.get("dtype") is torch.float32 and any(
            isinstance(arg, Tensor) and arg.dtype is torch.float64 for arg in args
        ):
            kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


@contextmanager
def float64_throughout() -> Iterator[None]:
    """Run stock classes in float64 without their islands of float32.

    Llama and Qwen2 compute RMSNorm, and ESM-2 its rotations, in float32 whatever the
    model's dtype; plain and keyed rows are then rounded differently, by one part in 1e7.
    That is the stock class's rounding and not the key's.  This lifts it, so that float64
    shows the algebra; nothing but the dtype of those steps changes.  It holds for all code
    inside, so wrap the forward pass and not the making of a model.
    """
    with _Lift():
        yield
