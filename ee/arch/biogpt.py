"""BioGPT: a pre-norm decoder with learned positions and scaled embeddings."""

from typing import Any, ClassVar

from torch import nn
from transformers import BioGptModel, PreTrainedConfig

from ee.arch.base import ELEMENTWISE, Architecture, names, register
from ee.arch.builder import Builder
from ee.arch.plan import Plan
from ee.arch.sites import Attention, Hidden, Norm

_POSITION_OFFSET = 2
"""Rows the stock position table has beyond `max_position_embeddings`."""


class BioGpt(Architecture):
    """As in GPT-2, positions are added by the stem and the trunk's table is blank."""

    model_type = "biogpt"
    layers = "layers"
    final_norm = "layer_norm"
    prefix = "biogpt."
    sizes = names(
        """
        hidden_size num_attention_heads intermediate_size hidden_act
        max_position_embeddings
        """
    )
    inert = names("scale_embedding layer_norm_eps")
    dropouts = names(
        """
        hidden_dropout_prob attention_probs_dropout_prob activation_dropout layerdrop
        """
    )
    only: ClassVar[dict[str, Any]] = {"hidden_act": ELEMENTWISE}

    def build(self, config: PreTrainedConfig) -> nn.Module:
        return BioGptModel(config)

    def trunk_settings(self, config: PreTrainedConfig) -> dict[str, Any]:
        return {name: getattr(config, name) for name in self.sizes} | {
            "vocab_size": 1,
            "pad_token_id": None,
            "bos_token_id": None,
            "eos_token_id": None,
        }

    def plan(self, config: PreTrainedConfig) -> Plan:
        width, heads = config.hidden_size, config.num_attention_heads
        attention = Attention(heads, heads, width // heads, rotary=False)
        hidden = Hidden(config.intermediate_size, gated=False)
        build = Builder(self.model_type, width, Norm.LAYER)
        for number in range(config.num_hidden_layers):
            at, attn = f"layers.{number}", f"layers.{number}.self_attn"
            one = build.norm(f"{at}.self_attn_layer_norm")
            two = build.norm(f"{at}.final_layer_norm")
            into, out = [f"{attn}.{part}_proj" for part in "qkv"], f"{attn}.out_proj"
            build.attention(attn, attention, into, out, norm=one)
            build.feed_forward(f"{at}.fc", hidden, [f"{at}.fc1"], f"{at}.fc2", norm=two)
        build.norm("layer_norm")
        positions = config.max_position_embeddings + _POSITION_OFFSET
        return build.plan(
            {
                "embed_tokens.weight": (1, width),
                "embed_positions.weight": (positions, width),
            }
        )


register(BioGpt())
