"""Whether a state does, as far as this member's own held-out records tell."""

import math
from collections.abc import Mapping
from typing import Any

RECORDS_AT_LEAST = 10
"""Fewer held-out records say nothing that a member should stop a round for."""


LOSS_AT_LEAST = 0.1
"""Nats a record.  A model nearly sure of every record has a loss that doubles when one of them
moves a little, so what it may rise by is measured from here."""


def acceptable(
    old: Mapping[str, Any], new: Mapping[str, Any], tolerance: float
) -> bool:
    """Whether the new state may replace the old one, as far as this member can tell."""
    if new["held_out"] < RECORDS_AT_LEAST:
        return True
    if not math.isfinite(new["loss"]):
        return False
    before = max(old["loss"], LOSS_AT_LEAST)
    return bool(new["loss"] <= before * (1 + tolerance))
