"""The victim's side of the suite: a body keyed as a session keys it, and what a host then has.

Llama bodies take the dense orthogonal key of `ee.keys`.  A post-norm BERT admits only a
permutation of the residual (its gains sit on the stream), with orthogonal maps per head and
a permutation of the inner units and of the heads; that key is made here.
"""

import copy
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ee.attacks.base import Base, Block, block_of
from ee.keys import TrunkKey, key_trunk
from ee.spec import Column, ModelSpec


@dataclass(frozen=True)
class Observed:
    """All that one host holds: rows it was sent, and the matrices it multiplies them by."""

    rows: Tensor
    """(sequences, tokens, width)."""
    block: Block
    """The first block the host runs: keyed in E-mode, public in S-mode."""
    depth: int
    """How many blocks the rows have been through at the key holder."""
    normed: bool = False
    """The rows are what q, k and v multiply, not the residual (S-mode)."""


@dataclass(frozen=True)
class KeyedBody:
    """A keyed body and the residual key that its rows are under."""

    model: Any
    residual: Tensor
    """(width, width), orthogonal: keyed rows are x @ residual."""

    def enter(self, rows: Tensor) -> Tensor:
        """Plain rows to keyed rows."""
        return (rows.double() @ self.residual).to(rows.dtype)

    def observed(self, base: Base, ids: Tensor, depth: int) -> Observed:
        """What the host holds once the rows of `ids` after `depth` blocks have come."""
        rows = self.enter(base.rows(ids, depth))
        return Observed(rows, block_of(self.model, depth), depth)


def unkeyed(base: Base) -> KeyedBody:
    """The same, without a key: what every positive control runs on."""
    return KeyedBody(base.model, torch.eye(base.width, dtype=torch.float64))


def keyed(base: Base, seed: bytes) -> KeyedBody:
    """A copy of the body under a fresh key from `seed`."""
    model = copy.deepcopy(base.model)
    if base.kind == "llama":
        return _key_llama(model, seed)
    return _key_bert(model, seed)


def random_residual(base: Base, generator: torch.Generator) -> Tensor:
    """A residual key of the kind this body takes; for an attacker who trains on many."""
    if base.kind == "llama":
        draw = torch.randn(base.width, base.width, generator=generator)
        q, r = torch.linalg.qr(draw)
        return q * torch.sign(torch.diagonal(r))
    order = torch.randperm(base.width, generator=generator)
    return torch.eye(base.width)[:, order]


def _key_llama(model: Any, seed: bytes) -> KeyedBody:
    config = model.config
    spec = ModelSpec(
        columns=(Column("token"),),
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        inner=config.intermediate_size,
        seed=0,
    )
    key = TrunkKey.generate(seed, spec)
    named = {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.startswith("layers.") and "norm" not in name
    }
    plain = {name: parameter.detach().numpy() for name, parameter in named.items()}
    for name, weight in key_trunk(plain, key).items():
        named[name].data.copy_(torch.from_numpy(weight))
    return KeyedBody(model, torch.from_numpy(key.residual))


@torch.no_grad()
def _key_bert(model: Any, seed: bytes) -> KeyedBody:
    config = model.config
    words = np.frombuffer(hashlib.sha256(b"rexis-attack-key" + seed).digest(), "<u4")
    draw = torch.Generator().manual_seed(int(words[0]) << 32 | int(words[1]))
    width, heads = config.hidden_size, config.num_attention_heads
    order = torch.randperm(width, generator=draw)
    for layer in model.encoder.layer:
        own, mixes = layer.attention.self, _head_map(width, heads, draw)
        scores = _head_map(width, heads, draw, mixes[1])
        values = mixes[0]
        for linear, left in ((own.query, scores[0]), (own.key, scores[0])):
            linear.weight.copy_(left @ linear.weight[:, order])
            linear.bias.copy_(left @ linear.bias)
        own.value.weight.copy_(values @ own.value.weight[:, order])
        own.value.bias.copy_(values @ own.value.bias)
        out = layer.attention.output
        out.dense.weight.copy_((out.dense.weight @ values.T)[order])
        inner = torch.randperm(config.intermediate_size, generator=draw)
        up, down = layer.intermediate.dense, layer.output
        up.weight.copy_(up.weight[inner][:, order])
        up.bias.copy_(up.bias[inner])
        down.dense.weight.copy_(down.dense.weight[:, inner][order])
        for part in (out, down):
            part.dense.bias.copy_(part.dense.bias[order])
            part.LayerNorm.weight.copy_(part.LayerNorm.weight[order])
            part.LayerNorm.bias.copy_(part.LayerNorm.bias[order])
    residual = torch.eye(width, dtype=torch.float64)[:, order]
    return KeyedBody(model, residual)


def _head_map(
    width: int, heads: int, draw: torch.Generator, places: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(width, width): heads permuted, each under its own orthogonal map; and the places."""
    size = width // heads
    places = torch.randperm(heads, generator=draw) if places is None else places
    whole = torch.zeros(width, width)
    for new, old in enumerate(places.tolist()):
        q, r = torch.linalg.qr(torch.randn(size, size, generator=draw))
        whole[new * size : (new + 1) * size, old * size : (old + 1) * size] = (
            q * torch.sign(torch.diagonal(r))
        )
    return whole, places
