"""A small causal model, trained here: the trained body the attacks need, from text alone."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaModel

from ee.attacks.base import Base, fold_gains

BATCH = 32


def train_causal(
    ids: Tensor,
    vocabulary: int,
    *,
    seed: int,
    steps: int,
    progress: Callable[[int, float], None] | None = None,
    width: int = 128,
    layers: int = 3,
) -> tuple[Base, float]:
    """A canonical body for (texts, tokens) ids, and its last loss in nats a token.

    Two calls with different seeds and texts give two independent models of one language:
    that is the private base and the attacker's best substitute for it.
    """
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = LlamaModel(config)
        head = torch.nn.Linear(width, vocabulary, bias=False)
    draw = torch.Generator().manual_seed(seed)
    parameters = [*body.parameters(), *head.parameters()]
    adam = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.01)
    fall = torch.optim.lr_scheduler.OneCycleLR(adam, 3e-3, total_steps=max(2, steps))
    last = float("nan")
    for step in range(steps):
        batch = ids[torch.randint(len(ids), (BATCH,), generator=draw)]
        scores = head(body(input_ids=batch[:, :-1], use_cache=False).last_hidden_state)
        loss = cross_entropy(scores.flatten(0, 1), batch[:, 1:].flatten())
        adam.zero_grad()
        loss.backward()
        adam.step()
        fall.step()
        last = float(loss.detach())
        if progress is not None and step % 50 == 0:
            progress(step, last)
    fold_gains(body)
    return Base(body), last
