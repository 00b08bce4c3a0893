"""Guess a text so that the rows it would give match the rows that were seen.

Two engines.  `prefix_search` goes from left to right and needs that a row depends on what
stands before it only: causal bodies at any depth, and any body at depth 0, where a row
depends on nothing.  `sweep_search` is for bidirectional bodies: it improves one position at
a time, all others held, and begins with the likest of the texts the attacker has, if any.
Both compare signatures, which are whatever the key cannot change.

Sources: the causal search and sorted rows are "Hidden No More" (arXiv 2505.18332); inner
products as the invariant of an orthogonal key, and the sweep, are ours.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ee.attacks.base import Base

Signature = Callable[[Tensor, Tensor], Tensor]
"""(..., earlier, width) rows before and (..., width) this row to (..., features)."""
Bring = Callable[[Tensor], Tensor]
"""From the attacker's rows to rows comparable with those seen."""

UNKNOWN = -1
"""In a template: a position to be guessed.  All other entries are known tokens."""


def coordinates(before: Tensor, row: Tensor) -> Tensor:
    """The row itself: the signature of no key, or of a key already recovered."""
    del before
    return row


def sorted_row(before: Tensor, row: Tensor) -> Tensor:
    """Entries in order of size: what a permutation of the residual cannot change."""
    del before
    return row.sort(dim=-1).values


def products(before: Tensor, row: Tensor) -> Tensor:
    """Inner products with earlier rows and itself: what no orthogonal key can change."""
    own = row.square().sum(-1, keepdim=True)
    if before.shape[-2] == 0:
        return own
    return torch.cat([(before @ row.unsqueeze(-1)).squeeze(-1), own], dim=-1)


def unchanged(rows: Tensor) -> Tensor:
    return rows


def prefix_search(
    base: Base,
    seen: Tensor,
    depth: int,
    template: Tensor,
    candidates: Tensor,
    signature: Signature,
    bring: Bring = unchanged,
) -> Tensor:
    """(sequences, tokens) guesses for (sequences, tokens, width) rows."""
    guesses = template.repeat(len(seen), 1)
    for number in range(len(seen)):
        guess, rows = guesses[number], seen[number]
        history = rows.new_zeros(0, base.width)
        for place in range(len(template)):
            known = int(template[place]) != UNKNOWN
            tried = template[place : place + 1] if known else candidates
            own = bring(_last_rows(base, guess[:place], tried, depth))
            best = 0
            if not known:
                ours = signature(history, own)
                theirs = signature(rows[:place], rows[place])
                best = int((ours - theirs).abs().sum(-1).argmin())
                guess[place] = tried[best]
            history = torch.cat([history, own[best : best + 1]])
    return guesses


def _last_rows(base: Base, prefix: Tensor, tried: Tensor, depth: int) -> Tensor:
    """(tried, width) rows of each token behind the prefix."""
    if depth == 0:
        return base.rows_at(tried, len(prefix))
    texts = torch.cat([prefix.expand(len(tried), -1), tried[:, None]], dim=1)
    return base.rows(texts, depth)[:, -1]


def sweep_search(
    base: Base,
    seen: Tensor,
    depth: int,
    template: Tensor,
    candidates: Tensor,
    signature: Signature,
    *,
    filler: int,
    public: Tensor | None = None,
    sweeps: int = 2,
    bring: Bring = unchanged,
) -> Tensor:
    """As `prefix_search`, for bodies that read both ways.

    `filler` stands for the unknown where there is no `public` text to begin with.
    """
    guesses = template.repeat(len(seen), 1)
    guesses[guesses == UNKNOWN] = filler
    places = [p for p in range(len(template)) if int(template[p]) == UNKNOWN]
    theirs = _whole(signature, seen)
    if public is not None:
        guesses = public[_nearest(base, theirs, depth, public, signature, bring)]
    for number in range(len(seen)):
        for place in places * sweeps:
            tried = torch.cat([guesses[number, place : place + 1], candidates])
            texts = guesses[number].repeat(len(tried), 1)
            texts[:, place] = tried
            ours = _whole(signature, bring(base.rows(texts, depth)))
            best = int((ours - theirs[number]).abs().sum(-1).argmin())
            guesses[number, place] = tried[best]
    return guesses


def _nearest(
    base: Base,
    theirs: Tensor,
    depth: int,
    public: Tensor,
    signature: Signature,
    bring: Bring,
) -> Tensor:
    """(sequences,) which public text has the signature nearest to each of `theirs`."""
    ours = [
        _whole(signature, bring(base.rows(part, depth))) for part in public.split(256)
    ]
    return torch.cdist(theirs, torch.cat(ours), p=1).argmin(dim=1)


def _whole(signature: Signature, rows: Tensor) -> Tensor:
    """(..., tokens, width) to the signatures of all its rows, one after another."""
    parts = [
        signature(rows[..., :place, :], rows[..., place, :])
        for place in range(rows.shape[-2])
    ]
    return torch.cat(parts, dim=-1)
