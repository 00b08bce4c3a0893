"""Attack 3: match the keyed weights with the public ones, take the key, read the rows.

Needs: the keyed matrices of one block and the public ones; no known plaintext.  A key permutes
the inner units of the feed-forward and turns the residual; norms and inner products of a
unit's own weight vectors survive both.  Matching units by these gives the permutation, matched
units give the residual key by Procrustes, and a few rounds of matching full vectors under the
estimate mend what the invariants got wrong.

Sources: weight matching as in Git Re-Basin (arXiv 2209.04836); invariants of this group, ours.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ee.attacks.base import Base, Block
from ee.attacks.keying import KeyedBody, Observed
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
    ours, theirs = _vectors(public), _vectors(keyed)
    units = _nearest(_invariants(keyed), _invariants(public))
    residual = procrustes(ours[units].flatten(0, 1), theirs.flatten(0, 1))
    for _ in range(ROUNDS):
        turned = (ours @ residual).flatten(1)
        units = _nearest(theirs.flatten(1), turned)
        residual = procrustes(ours[units].flatten(0, 1), theirs.flatten(0, 1))
    return Matched(units, residual)


def weight_matching(
    base: Base, seen: Observed, truth: Tensor, text: Text, victim: KeyedBody
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
        found.value, found.chance, found.detail | {"key_error": float(error)}
    )


def procrustes(ours: Tensor, theirs: Tensor) -> Tensor:
    """The orthogonal Q that makes `ours` Q nearest to `theirs`; rows are pairs."""
    u, _, v = torch.linalg.svd(ours.double().T @ theirs.double())
    return u @ v


def _vectors(block: Block) -> Tensor:
    """(inner, 2 or 3, width): each unit's vectors, all turned by the residual key."""
    return torch.stack([*block.ups, block.down.T], dim=1).double()


def _invariants(block: Block) -> Tensor:
    """(inner, features): products of a unit's vectors with each other, and its bias."""
    vectors = _vectors(block)
    gram = vectors @ vectors.transpose(1, 2)
    upper = torch.triu_indices(gram.shape[1], gram.shape[1])
    parts = [gram[:, upper[0], upper[1]]]
    if block.up_bias is not None:
        parts.append(block.up_bias.double()[:, None])
    return torch.cat(parts, dim=1)


def _nearest(theirs: Tensor, ours: Tensor) -> Tensor:
    """For each of theirs, the index of the nearest of ours; columns to one scale."""
    spread = ours.std(dim=0, keepdim=True) + 1e-12
    return torch.cdist(theirs / spread, ours / spread).argmin(dim=1)
