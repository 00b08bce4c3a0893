"""Where the stock classes of transformers keep what a block needs.

An architecture is its names and four facts; whatever its configuration can switch on beyond
those and changes what is computed is refused by name.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ee.integer.errors import IntegerModelError

_SETTINGS = {
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "inner": "intermediate_size",
    "epsilon": "layer_norm_eps",
    "activation": "hidden_act",
}


@dataclass(frozen=True)
class Family:
    """One `model_type`."""

    prefix: str
    """Before every name of a checkpoint that was saved with a head."""
    at: str
    """Of block N, before the names of its modules."""
    modules: Mapping[str, tuple[str, ...]]
    """Module to the matrices of ours that are in it."""
    norms: tuple[str, str]
    outside: str
    """Pattern of names that belong to the stem or the head."""
    centred: bool = True
    causal: bool = False
    gated: bool = False
    post: bool = False
    rotary: bool | None = False
    """None: the configuration says so."""
    transposed: bool = False
    first_norm: str = ""
    """Post-norm: the norm that the first block begins with."""
    settings: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """What the stock class has built in, whatever a configuration says."""
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def setting(self, config: Mapping[str, Any], name: str) -> Any:
        """One of our settings by the architecture's own name."""
        if name in self.fixed:
            return self.fixed[name]
        key = self.settings.get(name, _SETTINGS[name])
        if key not in config:
            raise IntegerModelError(f"the configuration lacks {key}")
        return config[key]

    def check(self, config: Mapping[str, Any]) -> None:
        """Refuse what op-spec 2 does not compute."""
        for name, allowed in self.only.items():
            value = config.get(name, allowed[0])
            if value not in allowed:
                raise IntegerModelError(
                    f"{name} is {value!r}, need {' or '.join(map(repr, allowed))}"
                )

    def is_rotary(self, config: Mapping[str, Any]) -> bool:
        """Whether positions are rotations of queries and keys."""
        if self.rotary is None:
            return config.get("position_embedding_type") == "rotary"
        return self.rotary

    def bare(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """`state` by the base model's names."""
        return {name.removeprefix(self.prefix): one for name, one in state.items()}

    def block(self, index: int, module: str) -> str:
        """A module's full name."""
        return f"{self.at.format(index)}.{module}"

    def norms_of(self, index: int) -> tuple[str, str]:
        """The norm a block begins with, and the one before its activation."""
        first, second = self.norms
        if not self.post:
            return self.block(index, first), self.block(index, second)
        # A post-norm block begins with the norm that the class has at the end of the last.
        begins = self.block(index - 1, first) if index else self.first_norm
        return begins, self.block(index, second)


def _attention(at: str, names: tuple[str, str, str], out: str) -> dict[str, Any]:
    pairs = zip(names, "qkv", strict=True)
    return {f"{at}{name}": (ours,) for name, ours in pairs} | {out: ("o",)}


_BERT_LAYER = _attention(
    "attention.self.", ("query", "key", "value"), "attention.output.dense"
) | {"intermediate.dense": ("gate",), "output.dense": ("down",)}
_NO_CROSS = {"is_decoder": (False, None), "add_cross_attention": (False, None)}

_LLAMA = Family(
    prefix="model.",
    at="layers.{}",
    modules=_attention("self_attn.", ("q_proj", "k_proj", "v_proj"), "self_attn.o_proj")
    | {
        "mlp.gate_proj": ("gate",),
        "mlp.up_proj": ("up",),
        "mlp.down_proj": ("down",),
    },
    norms=("input_layernorm", "post_attention_layernorm"),
    outside=r"embed_tokens\.|norm\.|rotary_emb\.|lm_head\.|score\.",
    centred=False,
    causal=True,
    gated=True,
    rotary=True,
    settings={"epsilon": "rms_norm_eps"},
)

FAMILIES: Mapping[str, Family] = {
    "bert": Family(
        prefix="bert.",
        at="encoder.layer.{}",
        modules=_BERT_LAYER,
        norms=("output.LayerNorm", "attention.output.LayerNorm"),
        outside=r"embeddings\.|pooler\.|cls\.|classifier\.",
        post=True,
        first_norm="embeddings.LayerNorm",
        only=_NO_CROSS | {"position_embedding_type": ("absolute", None)},
    ),
    "gpt2": Family(
        prefix="transformer.",
        at="h.{}",
        modules={
            "attn.c_attn": ("q", "k", "v"),
            "attn.c_proj": ("o",),
            "mlp.c_fc": ("gate",),
            "mlp.c_proj": ("down",),
        },
        norms=("ln_1", "ln_2"),
        outside=r"wte\.|wpe\.|ln_f\.|lm_head\.|score\.",
        causal=True,
        transposed=True,
        settings={
            "layers": "n_layer",
            "width": "n_embd",
            "heads": "n_head",
            "inner": "n_inner",
            "epsilon": "layer_norm_epsilon",
            "activation": "activation_function",
        },
        only={
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
    ),
    "biogpt": Family(
        prefix="biogpt.",
        at="layers.{}",
        modules=_attention(
            "self_attn.", ("q_proj", "k_proj", "v_proj"), "self_attn.out_proj"
        )
        | {"fc1": ("gate",), "fc2": ("down",)},
        norms=("self_attn_layer_norm", "final_layer_norm"),
        outside=r"embed_tokens\.|embed_positions\.|layer_norm\.|output_projection\.|score\.",
        causal=True,
        fixed={"epsilon": 1e-5},
    ),
    "esm": Family(
        prefix="esm.",
        at="encoder.layer.{}",
        modules=_BERT_LAYER,
        norms=("attention.LayerNorm", "LayerNorm"),
        outside=r"embeddings\.|rotary_embeddings\.|pooler\.|contact_head\.|lm_head\."
        r"|classifier\.|encoder\.emb_layer_norm_after\.",
        rotary=None,
        fixed={"activation": "gelu"},
        only=_NO_CROSS | {"position_embedding_type": ("rotary", "absolute")},
    ),
    "vit": Family(
        prefix="vit.",
        at="layers.{}",
        modules=_attention(
            "attention.", ("q_proj", "k_proj", "v_proj"), "attention.o_proj"
        )
        | {"mlp.fc1": ("gate",), "mlp.fc2": ("down",)},
        norms=("layernorm_before", "layernorm_after"),
        outside=r"embeddings\.|pooler\.|layernorm\.|classifier\.",
    ),
    "llama": _LLAMA,
    "qwen2": dataclasses.replace(_LLAMA, only={"use_sliding_window": (False,)}),
}
