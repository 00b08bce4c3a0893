"""What becomes of a run's state at a member: its score on records, a checkpoint for others."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from node.compute import state
from node.compute.kinds import model_of

Progress = Callable[[dict[str, Any]], None]


def score(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{spec, task, folder, models, root, records} -> {records, auc, loss}: of every record."""
    model = model_of(params, params["task"])
    found = state.read(Path(params["folder"]), params["root"], model.size)
    scored = model.tests(params["records"], every=True)(found)
    return {
        "records": scored["held_out"],
        "auc": scored["auc"],
        "loss": scored["loss"],
    }


def export(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{spec, folder, models, root, out} -> {}: write the model to a new folder."""
    model = model_of(params)
    found = state.read(Path(params["folder"]), params["root"], model.size)
    model.write(found, Path(params["out"]))
    return {}
