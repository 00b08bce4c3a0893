"""How a member trains between two sums; without torch, for whoever only checks a plan."""

from typing import Any

import msgspec

from ee.errors import EncryptionError

STEPS_AT_MOST = 10_000
"""An hour of a small model on a laptop; a round is not meant to be longer."""
BATCH_AT_MOST = 4096
"""All activations of a batch are in memory at once, here and at the worker."""
RATE_AT_MOST = 10.0
CLIP_AT_MOST = 1e6
_RANGES: dict[str, tuple[float, float]] = {
    "steps": (1, STEPS_AT_MOST),
    "batch": (1, BATCH_AT_MOST),
    "trunk_rate": (0, RATE_AT_MOST),
    "ends_rate": (0, RATE_AT_MOST),
    # A step takes rate * decay off every weight: with both at their limits and no more than
    # that, a model is lost at once, and its loss says so.
    "decay": (0, 10),
    # With 1 a gradient would never fade.
    "momentum": (0, 0.999),
    "clip": (0, CLIP_AT_MOST),
    "cool": (0, 1),
}


class TrainHyper(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a member trains between two sums."""

    steps: int = 20
    batch: int = 32
    trunk_rate: float = 0.01
    ends_rate: float = 0.003
    decay: float = 0.05
    momentum: float = 0.9
    clip: float = 1.0
    """Longest gradient of the trunk; 0 does not shorten any."""
    cool: float = 0.8
    """The rates fall linearly to (1 - cool) of their first value over the run."""

    @classmethod
    def from_dict(cls, data: Any) -> "TrainHyper":
        """Checked; `EncryptionError` names the value and the limit.

        A plan is another member's word, and whoever joins does as many steps as it says.
        """
        try:
            found = msgspec.convert(data, cls)
        except msgspec.ValidationError as error:
            raise EncryptionError(f"training settings: {error}") from error
        for name, (least, most) in _RANGES.items():
            value = getattr(found, name)
            # A comparison with NaN is false, so it is refused with the rest.
            if not least <= value <= most:
                raise EncryptionError(
                    f"training settings: {name} is {value}, need {least:g} to {most:g}"
                )
        return found
