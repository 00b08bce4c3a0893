"""What an attacker computes with: a stock model it has a copy of, cut after any block.

`Base` wraps a BERT or a Llama body.  It gives the rows that enter a block, for token ids of
the attacker's choosing, and the matrices of a block under names of ours, so that an attack is
written once for both.  A Llama is expected canonical (norm gains folded, `fold_gains`).
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ee.errors import EncryptionError, UnsupportedModelError


@dataclass(frozen=True)
class Block:
    """The linear maps of one block, (outputs, inputs), and biases where there are any."""

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    ups: tuple[Tensor, ...]
    """Up, or gate and up; rows are the inner units."""
    down: Tensor
    heads: int
    kv_heads: int
    q_bias: Tensor | None = None
    k_bias: Tensor | None = None
    up_bias: Tensor | None = None
    norm_eps: float | None = None
    """Of the gain-free RMS norm before the maps; None: they take the rows as they are."""

    def enter(self, rows: Tensor) -> Tensor:
        """What q, k and v multiply."""
        if self.norm_eps is None:
            return rows
        mean = rows.square().mean(-1, keepdim=True)
        return rows * torch.rsqrt(mean + self.norm_eps)

    def matrices(self) -> dict[str, Tensor]:
        """All of them, by name."""
        named = {"q": self.q, "k": self.k, "v": self.v, "o": self.o, "down": self.down}
        return named | {f"up{i}": up for i, up in enumerate(self.ups)}


class Base:
    """A body in the clear; the attacker's own, or the victim's before it is keyed."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval().requires_grad_(False)
        self.kind = str(model.config.model_type)
        if self.kind not in {"bert", "llama"}:
            raise UnsupportedModelError(f"no attack is written for {self.kind!r}")
        self.width = int(model.config.hidden_size)
        self._stems: dict[int, Any] = {}

    @property
    def causal(self) -> bool:
        """Whether a row depends on the tokens before it only."""
        return self.kind == "llama"

    @property
    def table(self) -> Tensor:
        """(vocabulary, width) embeddings."""
        weight: Tensor = self.model.get_input_embeddings().weight
        return weight

    @torch.no_grad()
    def rows(self, ids: Tensor, blocks: int) -> Tensor:
        """(batch, tokens) ids to (batch, tokens, width) rows after `blocks` blocks."""
        stem = self._stems.get(blocks)
        if stem is None:
            stem = self._stems[blocks] = _cut(self.model, blocks)
        return stem(input_ids=ids).last_hidden_state

    @torch.no_grad()
    def rows_at(self, ids: Tensor, position: int) -> Tensor:
        """(n,) ids to (n, width) rows entering block 0 at `position`; needs no context."""
        if self.causal:
            return self.table[ids]
        where = torch.full((len(ids), 1), position)
        embedded: Tensor = self.model.embeddings(
            input_ids=ids[:, None], position_ids=where
        )
        return embedded[:, 0]

    def block(self, index: int) -> Block:
        """The plain matrices of block `index`."""
        return block_of(self.model, index)


def block_of(model: Any, index: int) -> Block:
    """The matrices of one block of a stock body."""
    config = model.config
    if config.model_type == "llama":
        layer = model.layers[index]
        return Block(
            q=layer.self_attn.q_proj.weight.detach(),
            k=layer.self_attn.k_proj.weight.detach(),
            v=layer.self_attn.v_proj.weight.detach(),
            o=layer.self_attn.o_proj.weight.detach(),
            ups=(
                layer.mlp.gate_proj.weight.detach(),
                layer.mlp.up_proj.weight.detach(),
            ),
            down=layer.mlp.down_proj.weight.detach(),
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            norm_eps=config.rms_norm_eps,
        )
    layer = model.encoder.layer[index]
    own = layer.attention.self
    return Block(
        q=own.query.weight.detach(),
        k=own.key.weight.detach(),
        v=own.value.weight.detach(),
        o=layer.attention.output.dense.weight.detach(),
        ups=(layer.intermediate.dense.weight.detach(),),
        down=layer.output.dense.weight.detach(),
        heads=config.num_attention_heads,
        kv_heads=config.num_attention_heads,
        q_bias=own.query.bias.detach(),
        k_bias=own.key.bias.detach(),
        up_bias=layer.intermediate.dense.bias.detach(),
    )


def _cut(model: Any, blocks: int) -> Any:
    """The first `blocks` blocks of `model`, sharing its parameters."""
    stem = copy.copy(model)
    stem._modules = dict(model._modules)  # noqa: SLF001  the copy must not edit the model
    if model.config.model_type == "llama":
        if blocks > len(model.layers):
            raise EncryptionError(f"{blocks} blocks of {len(model.layers)}")
        stem.layers = nn.ModuleList(model.layers[:blocks])
        stem.config = copy.copy(model.config)
        stem.config.num_hidden_layers = blocks
        stem.norm = nn.Identity()
        return stem
    encoder = copy.copy(model.encoder)
    encoder._modules = dict(model.encoder._modules)  # noqa: SLF001
    if blocks > len(encoder.layer):
        raise EncryptionError(f"{blocks} blocks of {len(encoder.layer)}")
    encoder.layer = nn.ModuleList(model.encoder.layer[:blocks])
    stem.encoder = encoder
    stem.pooler = None
    return stem


@torch.no_grad()
def fold_gains(model: Any) -> None:
    """Move every RMS gain of a Llama body into the maps behind it; the function stays.

    The last norm's gain stays: it is the head's, and the head stays with the key holder.
    """
    for layer in model.layers:
        before, between = layer.input_layernorm, layer.post_attention_layernorm
        for linear in (
            layer.self_attn.q_proj,
            layer.self_attn.k_proj,
            layer.self_attn.v_proj,
        ):
            linear.weight.mul_(before.weight)
        for linear in (layer.mlp.gate_proj, layer.mlp.up_proj):
            linear.weight.mul_(between.weight)
        before.weight.fill_(1.0)
        between.weight.fill_(1.0)
