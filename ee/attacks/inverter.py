"""Attack 7: train a network that reads tokens off the rows a host sees.

Needs: the stem (public, or a surrogate) and public text.  The attacker makes rows of text it
knows, hides them as the victim would, under a fresh key or pad for every batch, and trains a
transformer to undo it: two layers, eight heads, AdamW.  Beside the raw row the network is fed
what may survive a key, sorted entries and inner products, so that it need not discover them.

Source: the inversion attack of arXiv 2603.01499 (same network); vec2text (arXiv 2310.06816).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ee.attacks.score import Finding, recovery

Hide = Callable[[Tensor, torch.Generator], Tensor]
"""Plain rows to rows as a host would see them, under fresh randomness."""
HIDDEN = 128
BATCH = 32


class _Inverter(nn.Module):
    def __init__(self, features: int, tokens: int, kinds: int) -> None:
        super().__init__()
        self.enter = nn.Linear(features, HIDDEN)
        self.place = nn.Parameter(torch.zeros(tokens, HIDDEN))
        layer = nn.TransformerEncoderLayer(
            HIDDEN, 8, 2 * HIDDEN, dropout=0.0, batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.leave = nn.Linear(HIDDEN, kinds)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, tokens, features) to (batch, tokens, kinds) scores."""
        return self.leave(self.body(self.enter(features) + self.place))


def trained_inverter(
    plain: Tensor,
    ids: Tensor,
    hide: Hide,
    seen: Tensor,
    truth: Tensor,
    *,
    seed: int,
    steps: int = 400,
) -> Finding:
    """`plain` rows of public text `ids` to train on; `seen` and `truth` of the victim."""
    draw = torch.Generator().manual_seed(seed)
    kinds = ids.unique()
    labels = torch.searchsorted(kinds, ids)
    sample = _features(hide(plain[:256], draw))
    mean = sample.mean((0, 1))
    spread = sample.std((0, 1)) + 1e-6
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = _Inverter(sample.shape[-1], plain.shape[1], len(kinds))
    adam = torch.optim.AdamW(net.parameters(), lr=2e-3)
    fall = torch.optim.lr_scheduler.OneCycleLR(adam, 2e-3, total_steps=steps)
    for _ in range(steps):
        batch = torch.randint(len(plain), (BATCH,), generator=draw)
        features = (_features(hide(plain[batch], draw)) - mean) / spread
        loss = cross_entropy(net(features).flatten(0, 1), labels[batch].flatten())
        adam.zero_grad()
        loss.backward()
        adam.step()
        fall.step()
    with torch.no_grad():
        scores = net.eval()((_features(seen) - mean) / spread)
    guess = kinds[scores.argmax(-1)]
    return recovery(guess[:, 1:], truth[:, 1:], len(kinds))


def _features(rows: Tensor) -> Tensor:
    """Raw entries, entries in order, and products with all rows of the text."""
    products = rows @ rows.transpose(1, 2) / rows.shape[-1]
    return torch.cat([rows, rows.sort(dim=-1).values, products], dim=-1)
