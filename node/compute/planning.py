"""What the trusted child does with a model file before anything trains; without torch."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ee.hyper import TrainHyper
from ee.spec import ModelSpec, initial_state, size
from node.compute import state, table

Progress = Callable[[dict[str, Any]], None]


def create(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{spec, folder} -> {root, size}: write the first state of a model."""
    spec = ModelSpec.from_dict(params["spec"])
    root = state.write(Path(params["folder"]), initial_state(spec))
    return {"root": root, "size": size(spec)}


def check(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{spec, task, train, records?} -> {samples}: would this data train this model."""
    spec, question = ModelSpec.from_dict(params["spec"]), table.task(params["task"])
    TrainHyper.from_dict(params["train"])
    records = table.records(spec, question, params["records"])
    return {"samples": int((~records.held_out).sum())}
