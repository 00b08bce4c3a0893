"""BERT and MiniLM: post-norm encoders, keyed by permutations on the stream.

The gain of a post-norm layer sits on the stream itself, so the stream's group shrinks from
all rotations to permutations; attention and feed-forward blocks keep theirs.  What that
leaks beyond a pre-norm model: every value of a row (as a set), every gain and shift (as
sets), and with them single outlier features, which are easily told apart.  The way out, a
dense d x d matrix in place of each skip, is no stock architecture, costs a sixth more work
and shows the gains as its eigenvalues; it is not offered.
"""

from typing import Any, ClassVar

from torch import nn
from transformers import BertModel, PreTrainedConfig

from ee.arch.base import ELEMENTWISE, Architecture, names, register, replace_module
from ee.arch.builder import Builder
from ee.arch.plan import Plan
from ee.arch.sites import Attention, Hidden, Norm

_FIRST_NORM = "embeddings.LayerNorm"


class Bert(Architecture):
    """The stock class normalises rows that come in, so a stem ends before a norm, and the
    trunk begins with that norm: the embeddings' own, or the last one of the stem's blocks.
    """

    model_type = "bert"
    layers = "encoder.layer"
    final_norm = None
    prefix = "bert."
    sizes = names(
        """
        hidden_size num_attention_heads intermediate_size hidden_act
        max_position_embeddings layer_norm_eps
        """
    )
    inert = names(
        """
        type_vocab_size output_past directionality pooler_fc_size
        pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type
        """
    )
    dropouts = names("hidden_dropout_prob attention_probs_dropout_prob")
    only: ClassVar[dict[str, Any]] = {
        "hidden_act": ELEMENTWISE,
        "position_embedding_type": ("absolute", None),
        "is_decoder": (False,),
        "add_cross_attention": (False,),
    }
    buffers = (".position_ids", ".token_type_ids")

    def build(self, config: PreTrainedConfig) -> nn.Module:
        return BertModel(config)

    def trunk_settings(self, config: PreTrainedConfig) -> dict[str, Any]:
        return {name: getattr(config, name) for name in self.sizes} | {
            "vocab_size": 1,
            "type_vocab_size": 1,
            "pad_token_id": 0,
        }

    def source(self, name: str, stem_layers: int) -> str:
        if stem_layers and name.startswith(_FIRST_NORM):
            last = f"{self.layers}.{stem_layers - 1}.output.LayerNorm"
            return name.replace(_FIRST_NORM, last)
        return super().source(name, stem_layers)

    def truncate(self, stem: nn.Module) -> None:
        depth = len(list(stem.get_submodule(self.layers).children()))
        last = f"{self.layers}.{depth - 1}.output.LayerNorm" if depth else _FIRST_NORM
        replace_module(stem, last, nn.Identity())

    def plan(self, config: PreTrainedConfig) -> Plan:
        width, heads = config.hidden_size, config.num_attention_heads
        attention = Attention(heads, heads, width // heads, rotary=False)
        hidden = Hidden(config.intermediate_size, gated=False)
        build = Builder(self.model_type, width, Norm.GAINED)
        build.norm(_FIRST_NORM)
        for number in range(config.num_hidden_layers):
            at = f"encoder.layer.{number}"
            attn, feed = f"{at}.attention", f"{at}.intermediate"
            into = [f"{attn}.self.{part}" for part in ("query", "key", "value")]
            out = f"{attn}.output.dense"
            build.attention(attn, attention, into, out, norm=None)
            into, out = [f"{feed}.dense"], f"{at}.output.dense"
            build.feed_forward(feed, hidden, into, out, norm=None)
            build.norm(f"{attn}.output.LayerNorm")
            build.norm(f"{at}.output.LayerNorm")
        positions = config.max_position_embeddings
        return build.plan(
            {
                "embeddings.word_embeddings.weight": (1, width),
                "embeddings.position_embeddings.weight": (positions, width),
                "embeddings.token_type_embeddings.weight": (1, width),
                "pooler.dense.weight": (width, width),
                "pooler.dense.bias": (width,),
            }
        )


register(Bert())
