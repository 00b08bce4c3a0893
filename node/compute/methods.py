"""What the daemon may ask of its child.  Each method is a function of files and arguments.

Nothing here is remembered between calls: a child that dies loses no state.  Records arrive
as CSV bytes and live as long as one call.  Modules are imported by the call that needs them,
so that a verifier's child never loads torch.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

Progress = Callable[[dict[str, Any]], None]
Method = Callable[[Mapping[str, Any], Progress], dict[str, Any]]

_METHODS = {
    "model.create": "planning:create",
    "model.size": "planning:measure",
    "train.check": "planning:check",
    "train.local": "training:local",
    "round.scales": "rounds:scales",
    "round.keep": "thin:keep",
    "round.mask": "rounds:mask",
    "round.sum": "rounds:add_up",
    "round.apply": "stepping:apply",
    "round.tag": "rounds:tag",
    "round.check": "rounds:check",
    "round.draw": "sketching:draw",
    "round.weigh": "sketching:answer",
    "run.score": "finished:score",
    "run.export": "finished:export",
    "model.release": "evaluation:release",
    "infer.encode": "evaluation:encode",
    "infer.read": "evaluation:read",
    "model.confirm": "evaluation:confirm",
    "model.slice": "evaluation:cut",
    "model.check_slice": "evaluation:check_slice",
    "audit.ready": "evaluation:ready",
    "audit.replay": "evaluation:replay",
    "audit.trace": "keyed:trace",
    "audit.key": "keyed:make",
    "audit.keyed": "keyed:check",
    "dispute.trace": "disputes:trace",
    "dispute.place": "disputes:place",
    "dispute.move": "disputes:move",
}


def find(name: str) -> Method | None:
    """The method called `name`."""
    place = _METHODS.get(name)
    if place is None:
        return None
    module, function = place.split(":")
    found: Method = getattr(importlib.import_module(f"node.compute.{module}"), function)
    return found
