"""Attack 3: match the keyed weights with the public ones, take the key, read the rows.

Needs: the keyed matrices of one block and the public ones; no known plaintext.  A key permutes
the inner units of the feed-forward and turns the residual, and it may scale the free factor of
a gated unit; norms and angles of a unit's own weight vectors survive.  Matching units by these
gives the permutation, the vectors of matched units give the residual key by Procrustes, and a
few rounds of matching these vectors under the estimate mend what the invariants got wrong.

Sources: weight matching as in Git Re-Basin (arXiv 2209.04836); invariants of this group, ours.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ee.attacks.base import Base, Block
from ee.attacks.keying import Body, Observed
from ee.attacks.score import Finding
from ee.attacks.vocabulary import Text, nearest_rows

ROUNDS = 4


@dataclass(frozen=True)
class Matched:
    """An estimate of a key."""

    units: Tensor
    """(inner,): keyed unit i is public unit units[i]."""
    residual: Tensor
    """(width, width), orthogonal."""


def match_blocks(public: Block, keyed: Block) -> Matched:
    """Unit permutation and residual key that carry `public` nearest to `keyed`."""
    # The vector before the activation: no key scales it or turns its sign.
    ours, theirs = public.ups[0].double(), keyed.ups[0].double()
    units = _nearest(_invariants(keyed), _invariants(public))
    residual = procrustes(ours[units], theirs)
    for _ in range(ROUNDS):
        units = torch.cdist(theirs, ours @ residual).argmin(dim=1)
        residual = procrustes(ours[units], theirs)
    return Matched(units, residual)


def weight_matching(
    base: Base, seen: Observed, truth: Tensor, text: Text, victim: Body
) -> Finding:
    """Recover the key from the weights, then the text; `victim` only scores the key.

    `key_error` is |Q^ - Q| / |Q|; two unrelated orthogonal matrices are about 1.4 apart.
    """
    matched = match_blocks(base.block(seen.depth), seen.block)
    rows = (seen.rows.double() @ matched.residual.T).to(seen.rows.dtype)
    opened = Observed(rows, seen.block, seen.depth, seen.normed)
    found = nearest_rows(base, opened, truth, text)
    error = (matched.residual - victim.residual).norm() / victim.residual.norm()
    return Finding(
        found.value,
        found.chance,
        found.trials,
        found.detail | {"key_error": float(error)},
    )


def procrustes(ours: Tensor, theirs: Tensor) -> Tensor:
    """The orthogonal Q that makes `ours` Q nearest to `theirs`; rows are pairs."""
    u, _, v = torch.linalg.svd(ours.double().T @ theirs.double())
    return u @ v


def _invariants(block: Block) -> Tensor:
    """(inner, features): what no key of any strength changes about a unit, and its bias.

    The free factor of a gated unit may be scaled if its down vector is scaled back: so angles
    up to sign, the norm before the activation, and the product of the other norms.
    """
    vectors = torch.stack([*block.ups, block.down.T], dim=1).double()
    norms = vectors.norm(dim=-1)
    gram = vectors @ vectors.transpose(1, 2)
    angles = gram / (norms[:, :, None] * norms[:, None, :])
    upper = torch.triu_indices(gram.shape[1], gram.shape[1], offset=1)
    parts = [norms[:, :1], norms[:, 1:].prod(1, keepdim=True)]
    parts.append(angles[:, upper[0], upper[1]].abs())
    if block.up_bias is not None:
        parts.append(block.up_bias.double()[:, None])
    return torch.cat(parts, dim=1)


def _nearest(theirs: Tensor, ours: Tensor) -> Tensor:
    """For each of theirs, the index of the nearest of ours; columns to one scale."""
    spread = ours.std(dim=0, keepdim=True) + 1e-12
    return torch.cdist(theirs / spread, ours / spread).argmin(dim=1)
