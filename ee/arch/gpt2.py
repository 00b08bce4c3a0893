"""GPT-2: LayerNorm, learned positions, one matrix for queries, keys and values."""

from typing import Any, ClassVar

from torch import nn
from transformers import GPT2Model, PreTrainedConfig

from ee.arch.base import ELEMENTWISE, Architecture, names, register
from ee.arch.builder import Builder
from ee.arch.plan import Plan
from ee.arch.sites import Attention, Hidden, Norm


class GPT2(Architecture):
    """The position table stays with the stem: the stock class adds it to any rows that come
    in, so the trunk's is blank.
    """

    model_type = "gpt2"
    layers = "h"
    final_norm = "ln_f"
    prefix = "transformer."
    sizes = names(
        """
        n_embd hidden_size n_head num_attention_heads n_inner activation_function
        n_positions max_position_embeddings layer_norm_epsilon scale_attn_weights
        reorder_and_upcast_attn
        """
    )
    inert = names(
        """
        n_ctx summary_type summary_use_proj summary_activation summary_proj_to_labels
        summary_first_dropout n_layer
        """
    )
    dropouts = names("embd_pdrop resid_pdrop attn_pdrop")
    only: ClassVar[dict[str, Any]] = {
        "activation_function": ELEMENTWISE,
        # The scale would follow a block's place, which changes when a stem is cut off.
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    }
    buffers = (".attn.bias", ".attn.masked_bias")
    depth = "n_layer"

    def build(self, config: PreTrainedConfig) -> nn.Module:
        return GPT2Model(config)

    def trunk_settings(self, config: PreTrainedConfig) -> dict[str, Any]:
        same = names(
            "n_embd n_head n_inner activation_function n_positions layer_norm_epsilon"
            " scale_attn_weights reorder_and_upcast_attn"
        )
        return {name: getattr(config, name) for name in same} | {
            "vocab_size": 1,
            "bos_token_id": None,
            "eos_token_id": None,
        }

    def plan(self, config: PreTrainedConfig) -> Plan:
        width, heads = config.n_embd, config.n_head
        attention = Attention(heads, heads, width // heads, rotary=False)
        hidden = Hidden(config.n_inner or 4 * width, gated=False)
        build = Builder(self.model_type, width, Norm.LAYER, transposed=True)
        for number in range(config.n_layer):
            attn, feed = f"h.{number}.attn", f"h.{number}.mlp"
            one, two = build.norm(f"h.{number}.ln_1"), build.norm(f"h.{number}.ln_2")
            into, out = [f"{attn}.c_attn"], f"{attn}.c_proj"
            build.attention(attn, attention, into, out, norm=one)
            into, out = [f"{feed}.c_fc"], f"{feed}.c_proj"
            build.feed_forward(feed, hidden, into, out, norm=two)
        build.norm("ln_f")
        return build.plan(
            {"wte.weight": (1, width), "wpe.weight": (config.n_positions, width)}
        )


register(GPT2())
