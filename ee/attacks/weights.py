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

ROUNDS = 6


@dataclass(frozen=True)
class Matched:
    """An estimate of a key."""

    units: Tensor
    """(inner,): keyed unit i is public unit units[i]."""
    residual: Tensor
    """(width, width), orthogonal."""


def match_blocks(public: Block, keyed: Block) -> Matched:
    """Unit permutation and residual key that carry `public` nearest to `keyed`.

    Tried once with lengths, which a rigid key leaves, and once with angles, which survive
    scaled units as well; the better fit is kept, which an attacker sees without help.
    """
    ours, theirs = _vectors(public), _vectors(keyed)
    found = []
    for features in (_lengths, _angles):
        units = _nearest(features(keyed), features(public))
        # The vector before the activation: no key scales it or turns its sign.
        residual = procrustes(ours[units, 0], theirs[:, 0])
        for _ in range(ROUNDS):
            likeness = _likeness(ours @ residual, theirs)
            units = likeness.argmax(dim=1)
            residual = _aligned(ours[units], theirs, residual)
        fit = _likeness(ours @ residual, theirs).max(dim=1).values.sum()
        found.append((float(fit), Matched(units, residual)))
    return max(found, key=lambda pair: pair[0])[1]


def weight_matching(
    base: Base, seen: Observed, truth: Tensor, text: Text, victim: Body
) -> Finding:
    """Recover the key from the weights, then the text; `victim` only scores the key.

    `key_error` is |Q^ - Q| / |Q|; two unrelated orthogonal matrices are about 1.4 apart.
    `units` is the part of the inner units that were matched rightly.
    """
    matched = match_blocks(base.block(seen.depth), seen.block)
    rows = (seen.rows.double() @ matched.residual.T).to(seen.rows.dtype)
    opened = Observed(rows, seen.block, seen.depth, seen.normed)
    found = nearest_rows(base, opened, truth, text)
    detail = found.detail | key_found(matched, victim)
    return Finding(found.value, found.chance, found.trials, detail)


def key_found(matched: Matched, victim: Body) -> dict[str, float]:
    """`key_error` and `units` of an estimate."""
    error = (matched.residual - victim.residual).norm() / victim.residual.norm()
    right = (matched.units == victim.units).double().mean()
    return {"key_error": float(error), "units": float(right)}


def procrustes(ours: Tensor, theirs: Tensor) -> Tensor:
    """The orthogonal Q that makes `ours` Q nearest to `theirs`; rows are pairs."""
    u, _, v = torch.linalg.svd(ours.double().T @ theirs.double())
    return u @ v


def _vectors(block: Block) -> Tensor:
    """(inner, 2 or 3, width): each unit's vectors, of length one."""
    vectors = torch.stack([*block.ups, block.down.T], dim=1).double()
    return vectors / vectors.norm(dim=-1, keepdim=True)


def _likeness(turned: Tensor, theirs: Tensor) -> Tensor:
    """(theirs, ours): cosines added up; beyond the first vector a key may turn the sign."""
    total = theirs[:, 0] @ turned[:, 0].T
    for place in range(1, theirs.shape[1]):
        total = total + (theirs[:, place] @ turned[:, place].T).abs()
    return total


def _aligned(ours: Tensor, theirs: Tensor, residual: Tensor) -> Tensor:
    """Procrustes over all vectors of matched units, each under its likelier sign."""
    signs = torch.sign((theirs * (ours @ residual)).sum(-1, keepdim=True))
    return procrustes((ours * signs).flatten(0, 1), theirs.flatten(0, 1))


def _lengths(block: Block) -> Tensor:
    """(inner, features): what no rigid key changes about a unit, and its bias."""
    vectors = torch.stack([*block.ups, block.down.T], dim=1).double()
    gram = (vectors @ vectors.transpose(1, 2)).abs()
    upper = torch.triu_indices(gram.shape[1], gram.shape[1])
    return _with_bias(block, [gram[:, upper[0], upper[1]]])


def _angles(block: Block) -> Tensor:
    """(inner, features): what no key of any strength changes about a unit, and its bias.

    The free factor of a gated unit may be scaled if its down vector is scaled back: so angles
    up to sign, the norm before the activation, and the product of the other norms.
    """
    norms = torch.stack([*block.ups, block.down.T], dim=1).double().norm(dim=-1)
    vectors = _vectors(block)
    angles = (vectors @ vectors.transpose(1, 2)).abs()
    upper = torch.triu_indices(angles.shape[1], angles.shape[1], offset=1)
    parts = [norms[:, :1], norms[:, 1:].prod(1, keepdim=True)]
    return _with_bias(block, [*parts, angles[:, upper[0], upper[1]]])


def _with_bias(block: Block, parts: list[Tensor]) -> Tensor:
    if block.up_bias is not None:
        parts = [*parts, block.up_bias.double()[:, None]]
    return torch.cat(parts, dim=1)


def _nearest(theirs: Tensor, ours: Tensor) -> Tensor:
    """For each of theirs, the index of the nearest of ours; columns to one scale."""
    spread = ours.std(dim=0, keepdim=True) + 1e-12
    return torch.cdist(theirs / spread, ours / spread).argmin(dim=1)
