"""Attack 2: a token's attention logit to itself, in every head, names the token.

Needs: keyed rows, the keyed q and k of the host's first block, and the public weights.
Softmax needs true logits, so no exact key changes them: each head gives one number a token,
the same under every key.  Heads may be permuted, hence the numbers are sorted.  RoPE turns q
and k of one position alike and cancels; where q and k have biases, a key may shift all logits
of a row by one amount, so the logit to the first (known) token is subtracted.

With no stem the attacker's table is context-free, the token alone behind the first one, and
exact.  Behind blocks a row depends on its text: there the table is what the tokens of the
attacker's own texts give at that place, each in its context.
Source: third-party notes on logit fingerprints of keyed models (ee.md §3, A3).
"""

import torch
from torch import Tensor

from ee.attacks.base import Base, Block
from ee.attacks.keying import Observed
from ee.attacks.score import Finding, recovery
from ee.attacks.vocabulary import Text


def attention_logits(base: Base, seen: Observed, truth: Tensor, text: Text) -> Finding:
    """Nearest token by the logits a host computes; (sequences, tokens) `truth`."""
    own = base.block(seen.depth)
    features = _features(seen.block, seen.rows, normed=seen.normed)
    guess = text.template.repeat(len(truth), 1)
    for place in range(1, len(text.template)):
        table, named = _table(base, own, seen.depth, place, text)
        spread = table.std(dim=0, keepdim=True) + 1e-12
        distance = torch.cdist(features[:, place] / spread, table / spread)
        guess[:, place] = named[distance.argmin(dim=1)]
    return recovery(text.unknown(guess), text.unknown(truth), len(text.candidates))


def _table(
    base: Base, own: Block, depth: int, place: int, text: Text
) -> tuple[Tensor, Tensor]:
    """(n, heads) features of tokens at a place, and (n,) which token each is."""
    if depth and text.public is not None:
        rows = base.rows(
            text.public[:, : place + 1] if base.causal else text.public, depth
        )
        return _features(own, rows, normed=False)[:, place], text.public[:, place]
    first = text.template[:1]
    if depth:
        start = first.expand(len(text.candidates), 1)
        rows = base.rows(torch.cat([start, text.candidates[:, None]], 1), depth)
    else:
        start = base.rows_at(first, 0).expand(len(text.candidates), -1)
        rows = torch.stack([start, base.rows_at(text.candidates, place)], dim=1)
    return _features(own, rows, normed=False)[:, 1], text.candidates


def _features(block: Block, rows: Tensor, *, normed: bool) -> Tensor:
    """(sequences, tokens, heads), sorted over heads."""
    x = rows if normed else block.enter(rows)
    q, k = x @ block.q.T, x @ block.k.T
    if block.q_bias is not None and block.k_bias is not None:
        q, k = q + block.q_bias, k + block.k_bias
    q = q.unflatten(-1, (block.heads, -1))  # (sequences, tokens, heads, dim)
    k = k.unflatten(-1, (block.kv_heads, -1))
    k = k.repeat_interleave(block.heads // block.kv_heads, dim=2)
    logits = (q * k).sum(-1)
    if block.k_bias is not None:
        logits = logits - (q * k[:, :1]).sum(-1)
    return logits.sort(dim=-1).values
