"""The registered architectures, and the one that fits a configuration.

Importing this module imports the stock model classes; `ee.arch.plan` alone does not.
"""

from transformers import PreTrainedConfig

from ee.arch import bert, biogpt, esm, gpt2, llama, qwen2, vit
from ee.arch.base import Architecture, register, registered
from ee.errors import UnsupportedModelError

MODULES = (bert, biogpt, esm, gpt2, llama, qwen2, vit)
"""One file each; adding a module here is all a new architecture needs."""


def architecture_of(config: PreTrainedConfig) -> Architecture:
    """The architecture of a stock configuration, or a refusal that lists what there is."""
    found = registered().get(config.model_type)
    if found is None:
        raise UnsupportedModelError(
            f"no keys are known for {config.model_type} models;"
            f" known: {', '.join(sorted(registered()))}"
        )
    return found


__all__ = ["MODULES", "architecture_of", "register", "registered"]
