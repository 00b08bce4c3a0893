"""Inner optimisers: Muon for what is keyed, AdamW for what never leaves its owner.

Muon's update is the orthogonal factor of the momentum, approximated by a polynomial in
M M'.  For orthogonal L and R the polynomial of L M R is L (that of M) R, so a keyed trunk
takes keyed steps: key, step, unkey equals step.  AdamW divides entry by entry and does not
commute with a dense rotation; `tests/unit/ee` shows both.

Source of the coefficients: Keller Jordan, Muon (2024).
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

NS_STEPS = 5
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonal_factor(momentum: torch.Tensor, steps: int = NS_STEPS) -> torch.Tensor:
    """Newton-Schulz in the dtype of `momentum`; (outputs, inputs) in, same out."""
    x = momentum / (momentum.norm() + 1e-12)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x.T if tall else x


class Muon:
    """Momentum, orthogonalised; decoupled weight decay."""

    def __init__(self, parameters: Iterable[torch.Tensor]) -> None:
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
            momentum.mul_(beta).add_(gradient)
            update = orthogonal_factor(gradient + beta * momentum)
            reach = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
            weight.mul_(1 - lr * decay).add_(update, alpha=-lr * reach)
            weight.grad = None
