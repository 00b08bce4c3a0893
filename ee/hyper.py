"""How a member trains between two sums; without torch, for whoever only checks a plan."""

from typing import Any

import msgspec

from ee.errors import EncryptionError


class TrainHyper(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a member trains between two sums."""

    steps: int = 20
    batch: int = 32
    trunk_rate: float = 0.01
    ends_rate: float = 0.003
    decay: float = 0.05
    momentum: float = 0.9
    clip: float = 1.0
    cool: float = 0.8
    """The rates fall linearly to (1 - cool) of their first value over the run."""

    @classmethod
    def from_dict(cls, data: Any) -> "TrainHyper":
        try:
            return msgspec.convert(data, cls)
        except msgspec.ValidationError as error:
            raise EncryptionError(f"training settings: {error}") from error
