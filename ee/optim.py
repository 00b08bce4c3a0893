"""Optimisers that commute with a key: Muon for matrices, BlockAdam for everything else.

Muon's update is the orthogonal factor of the momentum, approximated by a polynomial in
M M'.  For orthogonal L and R the polynomial of L M R is L (that of M) R, so a keyed trunk
takes keyed steps: key, step, unkey equals step.  AdamW divides entry by entry and does not
commute with a dense rotation; `tests/tensor/ee` shows both.

BlockAdam is AdamW whose second moment is the mean over each orbit of the key: the set of
coordinates a key can mix (`ee.orbits`).  Such a mean is what a rotation leaves alone.  Where
keys only permute, every orbit is one coordinate and BlockAdam is AdamW.

Decoupled decay, clipping by the global norm, accumulation and schedules are linear or read
norms only, and commute as well.  Source of the coefficients: Keller Jordan, Muon (2024).

Parameters may be spread over processes (`ee.sharded`): an orthogonal factor and an orbit's
mean need the whole tensor, so it is gathered for one step and each process keeps its part.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ee.arch.plan import Plan
from ee.arch.sites import Strength
from ee.errors import EncryptionError
from ee.orbits import Orbits, orbits_of

NS_STEPS = 5
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonal_factor(momentum: Tensor, steps: int = NS_STEPS) -> Tensor:
    """Newton-Schulz in the dtype of `momentum`; (outputs, inputs) in, same out.

    Autocast is off here: bfloat16 products would round keyed and plain momenta apart.
    """
    with torch.autocast(momentum.device.type, enabled=False):
        x = momentum / (momentum.norm() + 1e-12)
        tall = x.shape[0] > x.shape[1]
        if tall:
            x = x.T
        for _ in range(steps):
            gram = x @ x.T
            x = _A * x + (_B * gram + _C * gram @ gram) @ x
        return x.T if tall else x


def whole(tensor: Tensor) -> Tensor:
    """The tensor all processes together hold; every one of them must ask.  Else itself."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def shared_like(tensor: Tensor, spread: Tensor) -> Tensor:
    """What this process keeps of a whole tensor, laid out as `spread` is."""
    if not hasattr(spread, "full_tensor"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, places = spread.device_mesh, spread.placements
    return distribute_tensor(tensor, mesh, places, src_data_rank=None)


def _muon(
    weight: Tensor,
    momentum: Tensor,
    gradient: Tensor,
    *,
    lr: float,
    beta: float,
    decay: float,
    outputs_first: bool = True,
) -> None:
    momentum.mul_(beta).add_(gradient)
    factor = orthogonal_factor(whole(gradient + beta * momentum))
    update = shared_like(factor, weight)
    outputs, inputs = weight.shape if outputs_first else reversed(weight.shape)
    reach = max(1.0, outputs / inputs) ** 0.5
    weight.mul_(1 - lr * decay).add_(update, alpha=-lr * reach)


class Muon:
    """Momentum, orthogonalised; decoupled weight decay.  What a table trunk's worker runs."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._parameters = list(parameters)
        self._momenta = [torch.zeros_like(p) for p in self._parameters]

    @torch.no_grad()
    def step(self, lr: float, hyper: Mapping[str, Any]) -> None:
        """`hyper`: momentum, decay, clip (0: none; by the global gradient norm)."""
        beta, decay = float(hyper.get("momentum", 0.9)), float(hyper.get("decay", 0.0))
        gradients = [
            torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters
        ]
        clip = float(hyper.get("clip", 0.0))
        if clip > 0:
            # The Frobenius norm is invariant under the key, so clipping commutes too.
            norm = torch.stack([g.norm() for g in gradients]).norm()
            scale = min(1.0, clip / (float(norm) + 1e-12))
            gradients = [g * scale for g in gradients]
        for weight, momentum, gradient in zip(
            self._parameters, self._momenta, gradients, strict=True
        ):
            _muon(weight, momentum, gradient, lr=lr, beta=beta, decay=decay)
            weight.grad = None


class BlockAdam(torch.optim.Optimizer):
    """AdamW with one second moment per orbit; an ordinary torch optimiser otherwise."""

    def __init__(
        self,
        parameters: Iterable[tuple[nn.Parameter, Orbits]],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        pairs = list(parameters)
        self._orbits = dict(pairs)
        settings = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
        }
        super().__init__([parameter for parameter, _ in pairs], settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step on the gradients there are."""
        loss = None if closure is None else _reclose(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    orbits = self._orbits[parameter]
                    _block_adam(parameter, self.state[parameter], orbits, group)
        return loss


class Equivariant(torch.optim.Optimizer):
    """Muon on every matrix of a plan and BlockAdam on the rest, as one torch optimiser.

    Two parameter groups, `muon` then `block`; a schedule of torch scales both.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        plan: Plan,
        *,
        strength: Strength = Strength.ORTHOGONAL,
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        block_lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        block_decay: float = 0.0,
    ) -> None:
        """Parameters that do not require a gradient are left out.

        A parameter the plan does not know is refused: its step would not follow the key.
        """
        learning = [(name, p) for name, p in named if p.requires_grad]
        transposed = {linear.weight for linear in plan.linears if linear.transposed}
        self._orbits: dict[Tensor, Orbits] = {}
        self._outputs_first: dict[Tensor, bool] = {}
        for name, parameter in learning:
            if parameter.ndim == 2:
                plan.axes(name)
                self._outputs_first[parameter] = name not in transposed
            else:
                self._orbits[parameter] = orbits_of(plan, name, strength)
        groups = [
            {
                "kind": "muon",
                "params": list(self._outputs_first),
                "lr": lr,
                "momentum": momentum,
                "weight_decay": weight_decay,
            },
            {
                "kind": "block",
                "params": list(self._orbits),
                "lr": block_lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": block_decay,
            },
        ]
        if strength is Strength.GENERAL:
            raise EncryptionError(
                "no optimiser commutes with a general key; train under an orthogonal one"
            )
        super().__init__([group for group in groups if group["params"]], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step on the gradients there are."""
        loss = None if closure is None else _reclose(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if group["kind"] == "block":
                    _block_adam(parameter, state, self._orbits[parameter], group)
                    continue
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                _muon(
                    parameter,
                    state["momentum"],
                    parameter.grad,
                    lr=group["lr"],
                    beta=group["momentum"],
                    decay=group["weight_decay"],
                    outputs_first=self._outputs_first[parameter],
                )
        return loss


def _reclose(closure: Callable[[], float]) -> float:
    with torch.enable_grad():
        return closure()


def _block_adam(
    weight: Tensor, state: dict[str, Any], orbits: Orbits, group: Mapping[str, Any]
) -> None:
    gradient = weight.grad
    if gradient is None:
        return
    lr, (beta1, beta2) = group["lr"], group["betas"]
    power = orbits.mean(whole(gradient).square())
    if not state:
        state["count"] = torch.zeros(())
        state["first"] = torch.zeros_like(weight)
        state["second"] = torch.zeros_like(power)
    state["count"] += 1
    count = int(state["count"])
    state["first"].lerp_(gradient, 1 - beta1)
    state["second"].lerp_(power, 1 - beta2)
    scale = orbits.spread(state["second"] / (1 - beta2**count)).sqrt()
    if scale.shape == weight.shape:
        scale = shared_like(scale, weight)
    step = state["first"] / (1 - beta1**count) / (scale + group["eps"])
    weight.mul_(1 - lr * group["weight_decay"]).add_(step, alpha=-lr)
