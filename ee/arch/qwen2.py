"""Qwen2: Llama with biases on queries, keys and values, and sliding windows."""

from typing import Any

from torch import nn
from transformers import PreTrainedConfig, Qwen2Model

from ee.arch.base import names, register
from ee.arch.llama import Llama


class Qwen2(Llama):
    """Covers every checkpoint of `Qwen2Model`; a window is a mask and commutes."""

    model_type = "qwen2"
    sizes = names(
        """
        hidden_size intermediate_size num_attention_heads num_key_value_heads hidden_act
        max_position_embeddings rms_norm_eps rope_parameters use_sliding_window
        sliding_window max_window_layers layer_types
        """
    )
    inert = frozenset()

    def build(self, config: PreTrainedConfig) -> nn.Module:
        return Qwen2Model(config)

    def biases(self, config: PreTrainedConfig) -> tuple[bool, bool, bool]:
        del config  # fixed in the stock class
        return True, False, False

    def behind(self, config: PreTrainedConfig, stem_layers: int) -> dict[str, Any]:
        return {"layer_types": config.layer_types[stem_layers:]}


register(Qwen2())
