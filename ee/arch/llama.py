"""Llama: RMSNorm, rotary grouped-query attention, SwiGLU."""

from typing import Any, ClassVar

from torch import nn
from transformers import LlamaModel, PreTrainedConfig

from ee.arch.base import ELEMENTWISE, Architecture, names, register
from ee.arch.builder import Builder
from ee.arch.plan import Plan
from ee.arch.sites import Attention, Hidden, Norm
from ee.errors import UnsupportedLayerError


class Llama(Architecture):
    """Covers every checkpoint of `LlamaModel`; RoPE scaling of any kind commutes as well."""

    model_type = "llama"
    layers = "layers"
    final_norm = "norm"
    prefix = "model."
    sizes = names(
        """
        hidden_size intermediate_size num_attention_heads num_key_value_heads head_dim
        hidden_act max_position_embeddings rms_norm_eps rope_parameters attention_bias
        mlp_bias
        """
    )
    inert = frozenset({"pretraining_tp"})
    dropouts = names("attention_dropout")
    only: ClassVar[dict[str, Any]] = {"hidden_act": ELEMENTWISE}
    buffers = (".rotary_emb.inv_freq",)

    def check(self, config: PreTrainedConfig) -> None:
        super().check(config)
        share = (config.rope_parameters or {}).get("partial_rotary_factor", 1.0)
        if share != 1.0:
            raise UnsupportedLayerError(
                f"{self.model_type} with partial_rotary_factor = {share} is not"
                " supported, needs 1.0"
            )

    def build(self, config: PreTrainedConfig) -> nn.Module:
        return LlamaModel(config)

    def trunk_settings(self, config: PreTrainedConfig) -> dict[str, Any]:
        settings = {name: getattr(config, name) for name in self.sizes}
        # One unused row of embeddings: rows come in, tokens never do.
        return settings | {
            "vocab_size": 1,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
        }

    def biases(self, config: PreTrainedConfig) -> tuple[bool, bool, bool]:
        """Of q, k and v; of o; of the feed-forward block."""
        return config.attention_bias, config.attention_bias, config.mlp_bias

    def plan(self, config: PreTrainedConfig) -> Plan:
        width, heads = config.hidden_size, config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or width // heads
        attention = Attention(heads, config.num_key_value_heads, head_dim, rotary=True)
        hidden = Hidden(config.intermediate_size, gated=True)
        bias, out_bias, mlp_bias = self.biases(config)
        build = Builder(self.model_type, width, Norm.RMS)
        for number in range(config.num_hidden_layers):
            at = f"layers.{number}"
            attn, feed = f"{at}.self_attn", f"{at}.mlp"
            build.attention(
                attn,
                attention,
                [f"{attn}.{part}_proj" for part in "qkv"],
                f"{attn}.o_proj",
                norm=build.norm(f"{at}.input_layernorm"),
                bias=bias,
                out_bias=out_bias,
            )
            build.feed_forward(
                feed,
                hidden,
                [f"{feed}.gate_proj", f"{feed}.up_proj"],
                f"{feed}.down_proj",
                norm=build.norm(f"{at}.post_attention_layernorm"),
                bias=mlp_bias,
            )
        build.norm("norm")
        return build.plan({"embed_tokens.weight": (1, width)})


register(Llama())
