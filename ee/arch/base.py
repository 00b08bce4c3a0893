"""What an architecture must say of itself to be keyed, and the register of those that do.

A new architecture is one module beside this one that ends in `register(...)` and is named
in `ee.arch.known`.  It gives a layer plan for a configuration, the configuration of a trunk,
and how the stock class is cut into stem, trunk and head.  Whatever its configuration can
switch on and the module does not know is refused by name.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ee.arch.plan import Plan
from ee.errors import EncryptionError, UnsupportedLayerError, UnsupportedModelError

ELEMENTWISE = frozenset(
    {"gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "quick_gelu"}
    | {"relu", "silu", "swish", "tanh"}
)
"""Activations that act on each unit alone, which is what a permutation of units needs."""


def names(text: str) -> frozenset[str]:
    """Words to a set."""
    return frozenset(text.split())


# Settings of every stock configuration that change nothing a trunk computes.
_INERT = names(
    """
    _attn_implementation_autoset _name_or_path architectures attn_implementation bos_token_id
    chunk_size_feed_forward classifier_dropout dtype eos_token_id finetuning_task
    gradient_checkpointing id2label initializer_range is_encoder_decoder label2id model_type
    num_labels output_attentions output_hidden_states pad_token_id problem_type return_dict
    sep_token_id task_specific_params tie_word_embeddings tokenizer_class torch_dtype
    transformers_version use_cache vocab_size
    """
)


class Architecture(ABC):
    """One model type of the stock library."""

    model_type: ClassVar[str]
    layers: ClassVar[str]
    """The module that lists the blocks, as `encoder.layer`."""
    final_norm: ClassVar[str | None]
    """The norm behind the last block; None for post-norm models."""
    prefix: ClassVar[str]
    """What the names of the base model's tensors begin with inside a model with a head."""
    sizes: ClassVar[frozenset[str]]
    """Settings the plan or the trunk's configuration is made from."""
    inert: ClassVar[frozenset[str]] = frozenset()
    """Settings of this type that only the ends depend on."""
    dropouts: ClassVar[frozenset[str]] = frozenset()
    """Rates at which training would drop what a trunk computes; all are 0 in a trunk."""
    only: ClassVar[Mapping[str, Collection[Any]]] = {}
    """Settings with the values that are supported."""
    buffers: ClassVar[tuple[str, ...]] = ()
    """Endings of tensors in old checkpoints that the stock class drops."""
    depth: ClassVar[str] = "num_hidden_layers"

    @abstractmethod
    def plan(self, config: PreTrainedConfig) -> Plan:
        """The layer plan of a trunk that has all blocks of `config`."""

    @abstractmethod
    def trunk_settings(self, config: PreTrainedConfig) -> dict[str, Any]:
        """Settings of the trunk's configuration, apart from depth and dropouts."""

    def dropped(self, config: PreTrainedConfig) -> dict[str, float]:
        """The rates that `config` asks for and that its trunk is trained without.

        They change no answer, since nothing is dropped outside of training.  In training a
        mask on the stream is drawn in the basis of the machine that draws it, which is the
        plain one's in law under permutations alone; masks on attention or inner units are
        its in law under every key, and no two machines draw the same one.  A step that
        cannot be compared with its plain twin cannot be tested, resumed or shared among
        processes, so a trunk has no dropout, and whoever cuts a model is told by name.
        """
        rates = {name: getattr(config, name, None) or 0.0 for name in self.dropouts}
        return {name: rate for name, rate in sorted(rates.items()) if rate}

    def behind(self, config: PreTrainedConfig, stem_layers: int) -> dict[str, Any]:
        """Settings that list something per block, for the blocks behind the stem."""
        del config, stem_layers
        return {}

    def folded_settings(self) -> dict[str, Any]:
        """What changes in the whole model's configuration once norms are folded."""
        return {}

    @abstractmethod
    def build(self, config: PreTrainedConfig) -> nn.Module:
        """The stock base class, as `AutoModel` would make it."""

    def rename(self, name: str) -> str:
        """The stock module's name of a tensor from an older checkpoint."""
        early = name.replace("LayerNorm.gamma", "LayerNorm.weight")
        return early.replace("LayerNorm.beta", "LayerNorm.bias")

    def source(self, name: str, stem_layers: int) -> str:
        """Where in the whole base model a tensor of the trunk comes from."""
        number = self.block(name)
        if number is None:
            return name
        old, new = f"{self.layers}.{number}.", f"{self.layers}.{number + stem_layers}."
        return new + name.removeprefix(old)

    def block(self, name: str) -> int | None:
        """The number of the block a tensor belongs to; None outside the blocks."""
        head, _, rest = name.partition(f"{self.layers}.")
        number = rest.split(".", 1)[0]
        return int(number) if not head and number.isdigit() else None

    def base_name(self, name: str) -> str:
        """The base model's name of a checkpoint's tensor, whatever head it was saved with."""
        return self.rename(name.removeprefix(self.prefix))

    def run(self, trunk: nn.Module, rows: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, tokens, width) rows through the stock trunk to rows behind its last norm."""
        return trunk(inputs_embeds=rows, attention_mask=mask).last_hidden_state

    def truncate(self, stem: nn.Module) -> None:
        """Make a stock base model of the first blocks end where the trunk begins."""
        if self.final_norm is None:
            raise EncryptionError(f"{self.model_type} must say where its stem ends")
        replace_module(stem, self.final_norm, nn.Identity())

    def check(self, config: PreTrainedConfig) -> None:
        """Refuse, by name, what this module does not know how to key."""
        if config.model_type != self.model_type:
            raise UnsupportedModelError(
                f"a {config.model_type} model was given to {self.model_type}"
            )
        for name, allowed in self.only.items():
            value = getattr(config, name, None)
            if value not in allowed:
                raise UnsupportedLayerError(
                    f"{self.model_type} with {name} = {value!r} is not supported,"
                    f" needs {' or '.join(map(repr, allowed))}"
                )
        known = self.sizes | self.inert | self.dropouts | self.only.keys()
        known |= _INERT | {self.depth}
        for name in config.to_diff_dict():
            if name not in known:
                raise UnsupportedLayerError(
                    f"{self.model_type} with {name} = {getattr(config, name, None)!r}:"
                    " this setting is not known, so no key is"
                )

    def trunk_config(
        self, config: PreTrainedConfig, stem_layers: int
    ) -> PreTrainedConfig:
        """The stock configuration of what remains behind the first `stem_layers` blocks.

        It holds sizes and constants; no label, token or name of the model travels with it.
        """
        self.check(config)
        depth = getattr(config, self.depth)
        if not 0 <= stem_layers < depth:
            raise EncryptionError(
                f"{stem_layers} blocks for the stem, need 0 to {depth - 1}"
            )
        settings = self.trunk_settings(config) | dict.fromkeys(self.dropouts, 0.0)
        settings |= {self.depth: depth - stem_layers}
        settings |= self.behind(config, stem_layers)
        trunk = type(config)(**settings)
        trunk.architectures = [type(self.skeleton(trunk)).__name__]
        return trunk

    def skeleton(self, config: PreTrainedConfig) -> nn.Module:
        """The stock module without storage, to compare structures with."""
        with torch.device("meta"):
            return self.build(config)


_REGISTER: dict[str, Architecture] = {}


def register(architecture: Architecture) -> None:
    """Make a model type known; the last word in an architecture's module."""
    _REGISTER[architecture.model_type] = architecture


def registered() -> Mapping[str, Architecture]:
    """Model type to architecture."""
    return dict(_REGISTER)


def replace_module(root: nn.Module, path: str, new: nn.Module) -> None:
    """Put `new` where `path` leads."""
    parent, _, leaf = path.rpartition(".")
    setattr(root.get_submodule(parent), leaf, new)
