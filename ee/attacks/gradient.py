"""Attack 8: a gradient's row space holds the inputs of the batch (DAGER).

Needs: the gradient of one q matrix, and input vectors of all tokens in the gradient's basis.
The gradient is a sum over tokens of outer products with the input, so while the batch has
fewer tokens than the model has dimensions, exactly its own tokens lie in the row space.
A party that holds a keyed gradient has to take the key off first (attack 3).

Source: DAGER (arXiv 2405.15586), first stage.
"""

import copy
from typing import Any

import torch
from torch import Tensor

from ee.attacks.base import Base
from ee.attacks.score import Finding
from ee.attacks.vocabulary import Text

RANK_TOLERANCE = 1e-9
"""Of the largest singular value; the gradients are computed in float64."""
TIE = 1e-9
"""Rows of norm 1 that lie this little outside of the span lie in it."""


def query_gradient(model: Any, rows: Tensor, pull: Tensor) -> Tensor:
    """Gradient of the first q matrix for the loss sum(pull * output), in float64.

    `rows` enter block 0 of `model`, `pull` has the shape of its last residual.
    """
    wide = copy.deepcopy(model).double()
    if wide.config.model_type == "llama":
        weight = wide.layers[0].self_attn.q_proj.weight.requires_grad_(True)
        wide.norm = torch.nn.Identity()
        out = wide(inputs_embeds=rows.double(), use_cache=False).last_hidden_state
    else:
        weight = wide.encoder.layer[0].attention.self.query.weight.requires_grad_(True)
        out = rows.double()
        for layer in wide.encoder.layer:
            result = layer(out)
            out = result[0] if isinstance(result, tuple) else result
    (out * pull.double()).sum().backward()
    gradient: Tensor = weight.grad
    return gradient


def gradient_span(
    base: Base, gradient: Tensor, truth: Tensor, text: Text, residual: Tensor
) -> Finding:
    """Tokens of the batch among the candidates; `residual`: the key, as far as known.

    Measures the fraction of the batch's distinct tokens among as many best candidates.
    """
    _, sizes, right = torch.linalg.svd(gradient.double(), full_matrices=False)
    span = right[sizes > RANK_TOLERANCE * sizes[0]]
    block = base.block(0)
    places = range(1, len(text.template)) if not base.causal else (1,)
    # In no order of frequency: a span of everything leaves ties, and those must not favour
    # the common words that are in every batch.
    mixed = torch.randperm(
        len(text.candidates), generator=torch.Generator().manual_seed(0)
    )
    candidates = text.candidates[mixed]
    distance = torch.full((len(candidates),), torch.inf, dtype=torch.double)
    for place in places:
        rows = block.enter(base.rows_at(candidates, place)).double() @ residual
        rows = rows / rows.norm(dim=1, keepdim=True)
        outside = (rows - rows @ span.T @ span).norm(dim=1)
        # Within rounding all are equally inside, and stay in their mixed order.
        outside[outside < TIE] = 0.0
        distance = torch.minimum(distance, outside)
    present = text.unknown(truth).unique()
    best = candidates[distance.argsort(stable=True)[: len(present)]]
    hits = torch.isin(present, best).float().mean()
    return Finding(
        float(hits),
        len(present) / len(candidates),
        len(present),
        {"tokens": float(truth.numel()), "rank": float(len(span))},
    )
