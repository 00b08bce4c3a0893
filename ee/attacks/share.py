"""Attack 9: learn a property of a text from one host's share of it (S-mode).

Needs: shares with labels to train on, far more than a host would get.  A logistic classifier
on the shares, tested on held-out ones.  The same classifier on the rows before padding is the
control.  `told_bits` is the bound: capacity a value times the values of one text.
"""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ee.attacks.score import Finding

STEPS = 200


def classifier(rows: Tensor, labels: Tensor, *, leak_bits: float, seed: int) -> Finding:
    """(texts, tokens, width) rows and 0/1 labels of texts; accuracy on the last third."""
    features = torch.cat([rows.mean(1), rows.flatten(1)], dim=1).float()
    features = (features - features.mean(0)) / (features.std(0) + 1e-9)
    features /= features.shape[1] ** 0.5
    held = 2 * len(rows) // 3
    draw = torch.Generator().manual_seed(seed)
    weight = 0.01 * torch.randn(features.shape[1], generator=draw)
    weight.requires_grad_(True)
    bias = torch.zeros(1, requires_grad=True)
    adam = torch.optim.AdamW([weight, bias], lr=0.05, weight_decay=0.1)
    for _ in range(STEPS):
        scores = features[:held] @ weight + bias
        loss = binary_cross_entropy_with_logits(scores, labels[:held].float())
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        right = ((features[held:] @ weight + bias) > 0) == labels[held:].bool()
    rate = labels[held:].float().mean()
    told = leak_bits * rows[0].numel()
    return Finding(
        float(right.float().mean()),
        float(max(rate, 1 - rate)),
        len(right),
        {"told_bits": told},
    )
