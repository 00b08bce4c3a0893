"""Attack 5: known plaintext.  n pairs of a plain and a keyed row open the rest.

Needs: n rows whose text the attacker knows (headings, templates, padding), keyed, and the stem
that makes plain rows of texts (public, or a surrogate).  Two estimators, the better of which
counts: products with the anchors, which no orthogonal key changes and of which a few are
enough; and a linear map fitted to the anchors, which also bridges two models that differ.

Source: Procrustes and known-sample attacks on distance-preserving perturbation (arXiv
0911.2942); `half` is the figure of ee.md §6.4, the anchors at which half of the rest falls.
"""

import torch
from torch import Tensor

from ee.attacks.score import Finding

COUNTS = (2, 4, 8, 16, 32, 64, 128, 256, 512)
HEADLINE = 32
"""Anchors of the value reported: the fixed phrases of one clinical letter."""
NEVER = float("inf")


def known_plaintext(plain: Tensor, seen: Tensor, generator: torch.Generator) -> Finding:
    """(n, width) rows of n texts as the attacker computes them, and as the host saw them."""
    order = torch.randperm(len(plain), generator=generator)
    curve: dict[int, float] = {}
    for count in COUNTS:
        if 2 * count > len(plain):
            break
        anchors, rest = order[:count], order[count:]
        curve[count] = max(
            _by_products(plain, seen, anchors, rest),
            _by_map(plain, seen, anchors, rest),
        )
    half = next((n for n, rate in curve.items() if rate >= 0.5), NEVER)
    detail = {f"n{count}": rate for count, rate in curve.items()}
    headline = max(n for n in curve if n <= HEADLINE)
    return Finding(
        curve[headline],
        1.0 / len(plain),
        len(plain) - headline,
        detail | {"half": float(half)},
    )


def _by_products(plain: Tensor, seen: Tensor, anchors: Tensor, rest: Tensor) -> float:
    ours = torch.cat([plain @ plain[anchors].T, plain.square().sum(-1, True)], 1)
    theirs = torch.cat([seen @ seen[anchors].T, seen.square().sum(-1, True)], 1)
    spread = ours.std(dim=0, keepdim=True) + 1e-12
    return _hits(ours / spread, theirs[rest] / spread, rest)


def _by_map(plain: Tensor, seen: Tensor, anchors: Tensor, rest: Tensor) -> float:
    """Least squares through the anchors, with a little ridge; affine."""
    x, y = plain[anchors].double(), seen[anchors].double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    # In the space of anchors, so that few anchors need no width x width inverse.
    gram = x @ x.T
    gram += 1e-3 * gram.diagonal().mean() * torch.eye(len(x), dtype=gram.dtype)
    fitted = (plain.double() - x_mean) @ x.T @ torch.linalg.solve(gram, y) + y_mean
    return _hits(fitted, seen[rest].double(), rest)


def _hits(ours: Tensor, theirs: Tensor, truth: Tensor) -> float:
    return float((torch.cdist(theirs, ours).argmin(dim=1) == truth).double().mean())
