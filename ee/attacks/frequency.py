"""Attack 6: equal rows are letters of a cipher, and letters of a language have frequencies.

Needs: many keyed rows, and public text of the same kind.  No weights, no key.  Where a stem
has no blocks, one token gives one row (one per position, where positions are added), so rows
that are equal are one symbol of a substitution cipher.  `matching` ranks symbols and tokens by
frequency; `deciphering` then lets neighbours correct each other, by bigrams.

Sources: frequency matching and substitution deciphering as the evaluation of covariant
obfuscation does them (arXiv 2603.01499); hard assignment by bigrams is classical.
"""

import math

import torch
from torch import Tensor

from ee.attacks.score import Finding, recovery

SAME = 1e-3
"""Rows nearer than this part of their norm are one symbol; keyed rows round at 1e-6."""
ROUNDS = 15


def substitution(
    seen: Tensor, truth: Tensor, prior: Tensor, *, positional: bool
) -> Finding:
    """(sequences, tokens, width) rows; (…, tokens) ids of truth and of public text.

    `positional`: positions are added to rows, so each position has an alphabet of its own.
    """
    prior, truth = prior.contiguous(), truth.contiguous()
    kinds = prior.unique()
    count, length = truth.shape
    symbols = _symbols(seen, positional=positional)
    alphabet = int(symbols.max()) + 1
    place = torch.arange(length).expand(count, length)
    group = torch.zeros(alphabet, dtype=torch.long)
    if positional:
        group[symbols.flatten()] = place.flatten()
    usual = _shares(prior, kinds, positional=positional)  # (positions or 1, kinds)
    ours = torch.bincount(symbols.flatten(), minlength=alphabet).double() / count
    apart = (ours.clamp_min(1e-9).log()[:, None] - usual.log()[group]).abs()
    known = torch.searchsorted(kinds, truth.clamp(kinds[0], kinds[-1]))
    ranks = apart.argsort(dim=1)[symbols]  # (sequences, tokens, kinds)
    hit = ranks == known[:, :, None]
    first = _assign(-apart, ours, group)
    second = _decipher(first, apart, symbols, ours, group, prior, kinds)
    found = recovery(kinds[second[symbols]], truth, len(kinds))
    plain = recovery(kinds[first[symbols]], truth, len(kinds))
    tops = {
        f"matching_top{k}": float(hit[:, :, :k].any(-1).float().mean())
        for k in (1, 10, 100)
    }
    detail = found.detail | tops | {"matching": plain.value, "symbols": float(alphabet)}
    return Finding(max(found.value, plain.value), found.chance, found.trials, detail)


def _symbols(seen: Tensor, *, positional: bool) -> Tensor:
    """(sequences, tokens) numbers, equal where rows are equal."""
    if positional:
        parts, start = [], 0
        for place in range(seen.shape[1]):
            own = _symbols(seen[:, place : place + 1], positional=False)
            parts.append(own + start)
            start += int(own.max()) + 1
        return torch.cat(parts, dim=1)
    rows = seen.flatten(0, -2).double()
    # One coordinate sorts; only rows next to each other in it can be equal.  Any direction
    # not chosen by the sender will do, and the first coordinate of a keyed row is one.
    order = rows[:, 0].argsort()
    near = rows[order]
    step = (near[1:] - near[:-1]).norm(dim=1) > SAME * near[1:].norm(dim=1)
    numbers = torch.cat([step.new_zeros(1), step]).long().cumsum(0)
    out = torch.empty_like(numbers)
    out[order] = numbers
    return out.reshape(seen.shape[:-1])


def _shares(prior: Tensor, kinds: Tensor, *, positional: bool) -> Tensor:
    """(positions or 1, kinds): how often each token stands in a text (at a position)."""
    index = torch.searchsorted(kinds, prior)
    columns = index.T.contiguous().unbind(0) if positional else [index.flatten()]
    counts = [torch.bincount(c, minlength=len(kinds)).double() for c in columns]
    return (torch.stack(counts) + 0.1) / len(prior)


def _assign(score: Tensor, weight: Tensor, group: Tensor) -> Tensor:
    """A token for each symbol, heaviest symbols first, each token once in a group.

    Where a group has more symbols than there are tokens, the lightest take what suits them.
    """
    out = score.argmax(dim=1)
    groups = [(group == g).nonzero()[:, 0] for g in range(int(group.max()) + 1)]
    for members in groups:
        heavy = members[weight[members].argsort(descending=True)][: score.shape[1]]
        taken = torch.zeros(score.shape[1], dtype=score.dtype)
        for symbol in heavy.tolist():
            out[symbol] = best = int((score[symbol] + taken).argmax())
            taken[best] = -math.inf
    return out


def _decipher(
    start: Tensor,
    apart: Tensor,
    symbols: Tensor,
    weight: Tensor,
    group: Tensor,
    prior: Tensor,
    kinds: Tensor,
) -> Tensor:
    """Improve `start` by what stands next to what."""
    size, alphabet = len(kinds), len(start)
    index = torch.searchsorted(kinds, prior)
    language = torch.full((size, size), 0.02, dtype=torch.double)
    pairs = (index[:, :-1].flatten(), index[:, 1:].flatten())
    language.index_put_(pairs, torch.ones(len(pairs[0]), dtype=torch.double), True)
    forward = (language / language.sum(1, keepdim=True)).log()
    backward = (language / language.sum(0, keepdim=True)).log()
    left, right = symbols[:, :-1].flatten(), symbols[:, 1:].flatten()
    # Few of the pairs of symbols occur: a sparse count makes a round cheap.
    ones = torch.ones(len(left), dtype=torch.double)
    seen = torch.sparse_coo_tensor(
        torch.stack([left, right]), ones, (alphabet, alphabet), check_invariants=True
    ).coalesce()
    mirrored = seen.t().coalesce()
    guess = start
    for _ in range(ROUNDS):
        # A symbol's token explains its right neighbours and is explained by its left ones.
        score = torch.sparse.mm(seen, backward[:, guess].T)
        score = score + torch.sparse.mm(mirrored, forward[guess])
        better = _assign(score - apart, weight, group)
        if bool((better == guess).all()):
            break
        guess = better
    return guess
