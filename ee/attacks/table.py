"""Attack 4: match a keyed embedding table with the public one, without any anchor.

Needs: the whole table E' = P E Q, rows permuted and turned, and the public E.  Both clouds of
points have the same principal axes up to sign; the skewness along an axis gives the sign, and
alternating nearest neighbours with Procrustes (ICP) mends the rest.  Rexis gives no table
away; the row of the suite shows what it would cost if it did.

Source: point-set registration by PCA and ICP; applied to keyed tables in ee.md §3, A4.
"""

import torch
from torch import Tensor

from ee.attacks.score import Finding
from ee.attacks.weights import procrustes

ROUNDS = 12


def table_matching(public: Tensor, given: Tensor, order: Tensor) -> Finding:
    """Rows of `given` identified among `public`; row i of it is `public[order[i]]`."""
    ours, theirs = public.double(), given.double()
    centre, middle = ours.mean(0), theirs.mean(0)
    ours, theirs = ours - centre, theirs - middle
    residual = _axes(ours) @ _axes(theirs).T
    guess = torch.zeros(len(theirs), dtype=torch.long)
    for _ in range(ROUNDS):
        guess = torch.cdist(theirs, ours @ residual).argmin(dim=1)
        residual = procrustes(ours[guess], theirs)
    hits = (guess == order).double().mean()
    return Finding(float(hits), 1.0 / len(public), len(order))


def _axes(points: Tensor) -> Tensor:
    """(width, width) principal axes as columns, each with positive skewness."""
    _, axes = torch.linalg.eigh(points.T @ points)
    along = points @ axes
    return axes * torch.sign((along**3).sum(0))
