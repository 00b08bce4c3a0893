"""Tiny stock models, one of each architecture, built from configurations."""

from types import SimpleNamespace

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BioGptConfig,
    BioGptForCausalLM,
    EsmConfig,
    EsmForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

VOCAB = 50
TOKENS = 9


def _llama():
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
        )
    )


def _qwen2():
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCAB,
            hidden_size=48,
            intermediate_size=40,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            use_sliding_window=True,
            sliding_window=4,
            max_window_layers=2,
        )
    )


def _gpt2():
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=3, n_head=4, n_positions=64)
    )


def _biogpt():
    return BioGptForCausalLM(
        BioGptConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=64,
        )
    )


def _esm():
    return EsmForMaskedLM(
        EsmConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=64,
            position_embedding_type="rotary",
            pad_token_id=1,
            mask_token_id=4,
            token_dropout=True,
            emb_layer_norm_before=False,
        )
    )


def _bert():
    return BertForMaskedLM(
        BertConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=64,
        )
    )


def _vit():
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=12,
            patch_size=4,
            qkv_bias=False,
            num_labels=5,
        )
    )


MAKERS = {
    "llama": _llama,
    "qwen2": _qwen2,
    "gpt2": _gpt2,
    "biogpt": _biogpt,
    "esm": _esm,
    "bert": _bert,
    "vit": _vit,
}


def make(name: str, seed: int = 0, dtype: torch.dtype = torch.float32):
    """A model with weights as a trained one has them: no gain is 1, no shift is 0."""
    torch.manual_seed(seed)
    model = MAKERS[name]().to(dtype).eval()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=dtype)
            if parameter.ndim == 1:
                parameter.add_(0.3 * noise)
            else:
                parameter.add_(0.2 * noise)
    return model


def inputs_of(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict:
    """A batch in the form the stock class takes it, padded where it has a mask."""
    generator = torch.Generator().manual_seed(seed)
    if name == "vit":
        pixels = torch.randn(3, 3, 12, 12, generator=generator, dtype=dtype)
        return {"pixel_values": pixels}
    tokens = torch.randint(5, VOCAB, (3, TOKENS), generator=generator)
    mask = torch.ones_like(tokens)
    mask[1, -3:] = 0
    return {"input_ids": tokens, "attention_mask": mask}


CORE = {"llama", "gpt2", "bert"}
"""Rotary and gated, fused and transposed, post-norm: the others mix what these have."""


@pytest.fixture(
    params=[
        pytest.param(name, marks=() if name in CORE else pytest.mark.slow)
        for name in sorted(MAKERS)
    ]
)
def architecture(request) -> str:
    """All of them, the core ones in the fast set."""
    return request.param


@pytest.fixture(scope="session")
def stock():
    """`stock.make(name)` and `stock.inputs(name)`."""
    return SimpleNamespace(make=make, inputs=inputs_of, names=sorted(MAKERS))
