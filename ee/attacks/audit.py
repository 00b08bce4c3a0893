"""Attack 10: what of the plain computation can be read off the host's, without any attack.

Every quantity a host can compute from its rows and matrices is compared with the same quantity
of the plain model.  The first list is what the algebra says an exact key leaves as it was; the
second is what a key must change.  The value is the part of the second list that came out
equal: zero, or a claim of docs/threat-model.md is wrong.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ee.attacks.base import Block
from ee.attacks.keying import Observed
from ee.attacks.score import Finding

SAME = 1e-3
"""Relative distance below which two quantities count as equal."""

INVARIANT = frozenset(
    {
        "row norms",
        "row products",
        "attention logits, over heads in order",
        "unit activations, in order",
        "singular values",
        "unit norms and products up to sign, in order",
    }
)
"""What every exact key leaves: norms, products, attention, spectra, units as a set."""
PERMUTED = frozenset({"row entries, in order", "up entries, in order"})
"""What a permutation of the residual leaves beside."""
DATA = frozenset(
    {
        "row norms",
        "row products",
        "attention logits, over heads in order",
        "unit activations, in order",
        "rows",
        "row entries, in order",
        "q vectors",
        "v vectors",
        "unit activations",
    }
)
"""What depends on the text; all that one host of S-mode must not have."""


def leak_audit(plain: Observed, seen: Observed, listed: frozenset[str]) -> Finding:
    """`listed` may come out equal; anything else that does is counted."""
    ours, theirs = _quantities(plain), _quantities(seen)
    same = {name for name in ours if _equal(ours[name], theirs[name])}
    hidden = set(ours) - listed
    return Finding(
        len(same & hidden) / len(hidden),
        0.0,
        len(hidden),
        {"listed_reproduced": len(same & listed) / max(1, len(listed))},
    )


def share_audit(plain: Observed, seen: Observed) -> Finding:
    """The same for S-mode, where no quantity of the text may come out equal."""
    ours, theirs = _quantities(plain), _quantities(seen)
    same = {name for name in DATA if _equal(ours[name], theirs[name])}
    return Finding(len(same) / len(DATA), 0.0, len(DATA))


def _equal(ours: Tensor, theirs: Tensor) -> bool:
    return bool((ours - theirs).norm() <= SAME * ours.norm())


def _quantities(held: Observed) -> Mapping[str, Tensor]:
    block = held.block
    x = held.rows if held.normed else block.enter(held.rows)
    up = x @ block.ups[0].T
    q, v = x @ block.q.T, x @ block.v.T
    vectors = torch.stack([*block.ups, block.down.T], dim=1)
    products = (vectors @ vectors.transpose(1, 2)).abs().flatten(1)
    spectra = [torch.linalg.svdvals(m) for m in block.matrices().values()]
    return {
        "row norms": held.rows.norm(dim=-1),
        "row products": held.rows @ held.rows.transpose(1, 2),
        "attention logits, over heads in order": _logits(block, x).sort(1).values,
        "unit activations, in order": _biased(block, up).sort(-1).values,
        "singular values": torch.cat(spectra),
        "unit norms and products up to sign, in order": products.sort(0).values,
        "rows": held.rows,
        "row entries, in order": held.rows.sort(-1).values,
        "q vectors": q,
        "v vectors": v,
        "unit activations": _biased(block, up),
        "up entries, in order": block.ups[0].flatten().sort().values,
        "q entries, in order": block.q.flatten().sort().values,
        "v entries, in order": block.v.flatten().sort().values,
        "o entries, in order": block.o.flatten().sort().values,
        **block.matrices(),
    }


def _biased(block: Block, up: Tensor) -> Tensor:
    return up if block.up_bias is None else up + block.up_bias


def _logits(block: Block, x: Tensor) -> Tensor:
    """(sequences, heads, tokens, tokens) before RoPE and mask: products of q and k."""
    q, k = x @ block.q.T, x @ block.k.T
    if block.q_bias is not None and block.k_bias is not None:
        q, k = q + block.q_bias, k + block.k_bias
    q = q.unflatten(-1, (block.heads, -1)).transpose(1, 2)
    k = k.unflatten(-1, (block.kv_heads, -1)).transpose(1, 2)
    k = k.repeat_interleave(block.heads // block.kv_heads, dim=1)
    return q @ k.transpose(2, 3)
