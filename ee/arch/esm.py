"""ESM-2 (rotary) and ESM-1b (learned positions): pre-norm protein encoders."""

from typing import Any, ClassVar

from torch import nn
from transformers import EsmModel, PreTrainedConfig

from ee.arch.base import Architecture, names, register
from ee.arch.builder import Builder
from ee.arch.plan import Plan, Public
from ee.arch.sites import Attention, Hidden, Norm


class Esm(Architecture):
    """The stock class skips its embeddings when rows come in, so whatever happens there
    (token dropout, positions, an early norm) is the stem's.  The contact head reads
    attention maps of all blocks and is not part of a split model.
    """

    model_type = "esm"
    layers = "encoder.layer"
    final_norm = "encoder.emb_layer_norm_after"
    prefix = "esm."
    sizes = names(
        """
        hidden_size num_attention_heads intermediate_size max_position_embeddings
        layer_norm_eps position_embedding_type rope_theta
        """
    )
    inert = names(
        """
        mask_token_id token_dropout emb_layer_norm_before vocab_list
        """
    )
    dropouts = names("hidden_dropout_prob attention_probs_dropout_prob")
    only: ClassVar[dict[str, Any]] = {
        "position_embedding_type": ("rotary", "absolute"),
        "is_decoder": (False, None),
        "add_cross_attention": (False, None),
        "is_folding_model": (False, None),
        "esmfold_config": (None,),
        # A setting of early configurations; the stock class has the exact GELU built in.
        "hidden_act": ("gelu", None),
    }
    buffers = (".position_ids", ".rotary_embeddings.inv_freq")

    def build(self, config: PreTrainedConfig) -> nn.Module:
        return EsmModel(config)

    def trunk_settings(self, config: PreTrainedConfig) -> dict[str, Any]:
        return {name: getattr(config, name) for name in self.sizes} | {
            "vocab_size": 1,
            "pad_token_id": 0,
            "mask_token_id": None,
            "bos_token_id": None,
            "eos_token_id": None,
            "token_dropout": False,
            "emb_layer_norm_before": False,
        }

    def plan(self, config: PreTrainedConfig) -> Plan:
        width, heads = config.hidden_size, config.num_attention_heads
        rotary = config.position_embedding_type == "rotary"
        attention = Attention(heads, heads, width // heads, rotary=rotary)
        hidden = Hidden(config.intermediate_size, gated=False)
        build = Builder(self.model_type, width, Norm.LAYER)
        for number in range(config.num_hidden_layers):
            at = f"encoder.layer.{number}"
            attn, feed = f"{at}.attention", f"{at}.intermediate"
            one, two = build.norm(f"{attn}.LayerNorm"), build.norm(f"{at}.LayerNorm")
            into = [f"{attn}.self.{part}" for part in ("query", "key", "value")]
            out = f"{attn}.output.dense"
            build.attention(attn, attention, into, out, norm=one)
            into, out = [f"{feed}.dense"], f"{at}.output.dense"
            build.feed_forward(feed, hidden, into, out, norm=two)
        build.norm("encoder.emb_layer_norm_after")
        blanks: dict[str, tuple[int, ...]] = {
            "embeddings.word_embeddings.weight": (1, width),
            "pooler.dense.weight": (width, width),
            "pooler.dense.bias": (width,),
            "contact_head.regression.weight": (1, config.num_hidden_layers * heads),
            "contact_head.regression.bias": (1,),
        }
        if not rotary:
            positions = (config.max_position_embeddings, width)
            blanks["embeddings.position_embeddings.weight"] = positions
            return build.plan(blanks)
        size = width // heads
        frequencies = Public(
            "rotary_embeddings.inv_freq",
            tuple(config.rope_theta ** (-at / size) for at in range(0, size, 2)),
            "the rotary frequencies, a function of rope_theta",
        )
        return build.plan(blanks, frequencies)


register(Esm())
