"""What the daemon may ask of its child.  Each method is a function of files and arguments.

Nothing here is remembered between calls: a child that dies loses no state.  Records arrive
as CSV bytes and live as long as one call.
"""

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from node.compute import evaluation, rounds, state, table, training

Progress = Callable[[dict[str, Any]], None]
Method = Callable[[Mapping[str, Any], Progress], dict[str, Any]]


def ping(_params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """For status: the child answers."""
    return {"ok": True}


METHODS: dict[str, Method] = {
    "ping": ping,
    "model.create": training.create,
    "model.check": training.check,
    "train.local": training.local,
    "train.evaluate": training.evaluate,
    "round.mask": rounds.mask,
    "round.sum": rounds.sum_shards,
    "round.unmask": rounds.unmask,
    "round.apply": rounds.apply,
    "model.release": evaluation.release,
    "infer.encode": evaluation.encode,
    "infer.read": evaluation.read,
    "audit.replay": evaluation.replay,
}

__all__ = ["METHODS", "Path", "np", "secrets", "state", "table"]
