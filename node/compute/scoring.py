"""How good a state is on this member's own held-out records, and whether that will do."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ee.session import predict
from ee.spec import ModelSpec, Vector
from node.compute import table
from node.compute.table import Records

RECORDS_AT_LEAST = 10
"""Fewer held-out records say nothing that a member should stop a round for."""


def held_out(spec: ModelSpec, weights: Vector, records: Records) -> dict[str, Any]:
    """{held_out, auc, loss}; auc is None where one answer is missing."""
    values, labels = records.testing()
    if not len(labels):
        return {"held_out": 0, "auc": None, "loss": None}
    scores = predict(spec, weights, values)
    signed = np.where(labels > 0.5, -scores, scores)
    return {
        "held_out": len(labels),
        "auc": table.auc(scores, labels),
        "loss": float(np.logaddexp(0.0, signed).mean()),
    }


def acceptable(
    old: Mapping[str, Any], new: Mapping[str, Any], tolerance: float
) -> bool:
    """Whether the new state may replace the old one, as far as this member can tell."""
    if new["held_out"] < RECORDS_AT_LEAST:
        return True
    if not math.isfinite(new["loss"]):
        return False
    return bool(new["loss"] <= old["loss"] * (1 + tolerance))
