"""What the trusted child does with a model file before anything trains.

A table model needs no torch for this.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ee.hyper import TrainHyper
from node.compute import state
from node.compute.kinds import model_of

Progress = Callable[[dict[str, Any]], None]


def create(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{spec, folder, models} -> {root, size}: write the first state of a model."""
    model = model_of(params)
    root = state.write(Path(params["folder"]), model.initial())
    return {"root": root, "size": model.size}


def measure(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{spec, models} -> {size}: entries of a state; fails where the base is not the spec's."""
    return {"size": model_of(params).size}


def check(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{spec, task, train, records, models} -> {samples}: would this data train this model."""
    model = model_of(params, params["task"])
    TrainHyper.from_dict(params["train"])
    return {"samples": model.samples(params["records"])}
