"""Dispute methods of the trusted child: what to answer, what to say next; no torch."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from node.compute.evaluation import model_at, tested
from node.errors import ComputeError
from node.verifier import bundle
from node.verifier.dispute import Prosecutor, require_provable, traced, trunk_of
from node.verifier.replay import Model
from protocol.dispute import Asked, Claim, Game, Proof
from protocol.wire import decode, encode

Progress = Callable[[dict[str, Any]], None]


def trace(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{model (path), claim, salt, rows, asked} -> the host's side of a claim.

    {roots} of all parts where `asked` is empty; else {leaf}, or {nodes, path}.
    """
    tested()
    claim = decode(params["claim"], Claim)
    about = params["salt"], params["rows"]
    found = traced(model_at(params["model"]), claim, *about)
    if not params["asked"]:
        return {"roots": list(found.roots)}
    asked = decode(params["asked"], Asked)
    place = (asked.part, asked.level, asked.index)
    if asked.level == 0:
        return {"leaf": encode(found.leaf(asked.part, asked.index))}
    return {"nodes": list(found.below(*place)), "path": list(found.path(*place))}


def place(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{evidence (path)} -> {place: [layer, case, token], trunk} of the number that differs."""
    tested()
    evidence = _evidence(params)
    fault = bundle.check(evidence).fault
    if fault is None or fault.entry is None:
        raise ComputeError("the evidence names no number that differs")
    model = Model.read(evidence.model)
    require_provable(model.header.config)
    return {
        "place": [fault.layer, fault.entry.case, fault.entry.token],
        "trunk": encode(trunk_of(model)),
    }


def move(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{evidence (path), game} -> {asked}, {proof} or {salt}: what a challenger does next."""
    tested()
    game, evidence = decode(params["game"], Game), _evidence(params)
    prosecutor = Prosecutor(
        Model.read(evidence.model),
        game.claim,
        evidence.salt,
        evidence.rows,
        evidence.committed,
    )
    found = prosecutor.move(game)
    if isinstance(found, Asked):
        return {"asked": encode(found)}
    name = "proof" if isinstance(found, Proof) else "salt"
    return {name: encode(found)}


def _evidence(params: Mapping[str, Any]) -> bundle.Bundle:
    return bundle.read(Path(params["evidence"]).read_bytes())
