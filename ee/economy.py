"""What a host may save on when it trains a trunk.

Either is the host's own choice: it changes how its steps are computed, and neither what a
key holder sends nor what a step means.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Economy:
    """Nothing, unless said otherwise."""

    bf16: bool = False
    """Products in bfloat16 (autocast); weights, gradients and moments stay as they are."""
    gradient_checkpointing: bool = False
    """Keep the rows between blocks only; what is inside is computed again on the way back."""


NO_ECONOMY = Economy()
