"""ViT: a pre-norm image encoder; patches, class token and positions belong to the stem."""

import re
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import PreTrainedConfig, ViTModel

from ee.arch.base import ELEMENTWISE, Architecture, names, register
from ee.arch.builder import Builder
from ee.arch.plan import Plan
from ee.arch.sites import Attention, Hidden, Norm

# Checkpoints keep the module names of earlier releases; the stock loader maps them so.
_OLD_NAMES = (
    (r"^encoder\.layer\.", "layers."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attention.\1."),
    (r"\.attention\.query\.", ".attention.q_proj."),
    (r"\.attention\.key\.", ".attention.k_proj."),
    (r"\.attention\.value\.", ".attention.v_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(layers\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
)


class ViT(Architecture):
    """`ViTModel` takes no rows, so they enter at its blocks: `run` calls those and the last
    norm, both stock.  What the stock class has before them is one blank patch.
    """

    model_type = "vit"
    layers = "layers"
    final_norm = "layernorm"
    prefix = "vit."
    sizes = names(
        """
        hidden_size num_attention_heads intermediate_size hidden_act layer_norm_eps
        """
    )
    inert = names(
        """
        image_size patch_size num_channels qkv_bias encoder_stride pooler_output_size
        pooler_act
        """
    )
    dropouts = names("hidden_dropout_prob attention_probs_dropout_prob")
    only: ClassVar[dict[str, Any]] = {"hidden_act": ELEMENTWISE}

    def build(self, config: PreTrainedConfig) -> nn.Module:
        return ViTModel(config)

    def rename(self, name: str) -> str:
        name = super().rename(name)
        for old, new in _OLD_NAMES:
            name = re.sub(old, new, name)
        return name

    def trunk_settings(self, config: PreTrainedConfig) -> dict[str, Any]:
        return {name: getattr(config, name) for name in self.sizes} | {
            "image_size": 1,
            "patch_size": 1,
            "num_channels": 1,
            # The shift of the norm before it goes into this bias.
            "qkv_bias": True,
        }

    def folded_settings(self) -> dict[str, Any]:
        return {"qkv_bias": True}

    def run(self, trunk: nn.Module, rows: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            mask = mask[:, None, None, :].bool()
        for layer in trunk.get_submodule("layers").children():
            rows = layer(rows, mask)
        return trunk.get_submodule("layernorm")(rows)

    def plan(self, config: PreTrainedConfig) -> Plan:
        width, heads = config.hidden_size, config.num_attention_heads
        attention = Attention(heads, heads, width // heads, rotary=False)
        hidden = Hidden(config.intermediate_size, gated=False)
        build = Builder(self.model_type, width, Norm.LAYER)
        for number in range(config.num_hidden_layers):
            at = f"layers.{number}"
            attn, feed = f"{at}.attention", f"{at}.mlp"
            one = build.norm(f"{at}.layernorm_before")
            two = build.norm(f"{at}.layernorm_after")
            into, out = [f"{attn}.{part}_proj" for part in "qkv"], f"{attn}.o_proj"
            build.attention(attn, attention, into, out, norm=one)
            build.feed_forward(feed, hidden, [f"{feed}.fc1"], f"{feed}.fc2", norm=two)
        build.norm("layernorm")
        return build.plan(
            {
                "embeddings.cls_token": (1, 1, width),
                "embeddings.position_embeddings": (1, 2, width),
                "embeddings.patch_embeddings.projection.weight": (width, 1, 1, 1),
                "embeddings.patch_embeddings.projection.bias": (width,),
                "pooler.dense.weight": (width, width),
                "pooler.dense.bias": (width,),
            }
        )


register(ViT())
