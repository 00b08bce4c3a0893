"""Dispute methods of the trusted child: what to answer, what to say next; no torch."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from node.compute.evaluation import model_at, tested
from node.errors import ComputeError
from node.verifier import bundle
from node.verifier.dispute import (
    norm_proof,
    proof,
    traced,
    wrong_channel,
    wrong_norm,
)
from node.verifier.replay import Model
from protocol.boundary import open_row
from protocol.dispute import Claim, Game, salted
from protocol.wire import decode, encode

Progress = Callable[[dict[str, Any]], None]


def trace(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{model (path), claim, salt, rows} -> {rows}: the host's ten rows of the claim."""
    tested()
    claim = decode(params["claim"], Claim)
    found = traced(model_at(params["model"]), claim, params["rows"])
    return {"rows": encode(salted(found, params["salt"], claim))}


def place(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{evidence (path)} -> {place: [layer, case, token]} of the number that differs."""
    tested()
    fault = bundle.check(_evidence(params)).fault
    if fault is None or fault.entry is None:
        raise ComputeError("the evidence names no number that differs")
    return {"place": [fault.layer, fault.entry.case, fault.entry.token]}


def move(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{evidence (path), game} -> {step, proof, norm}: what a challenger does next.

    `step` is a row to ask for, else None; `proof` is empty where nothing can be shown; `norm` is
    the step of the norm that it is about, or None where it is about a matrix.
    """
    tested()
    game, evidence = decode(params["game"], Game), _evidence(params)
    model, claim = Model.read(evidence.model), game.claim
    own = salted(traced(model, claim, evidence.rows), evidence.salt, claim)
    step = game.unknown_step(own)
    if step is not None:
        return {"step": step, "proof": b"", "norm": None}
    shape, where = (claim.cases, claim.tokens, claim.width), (claim.case, claim.token)
    before = open_row(evidence.rows, shape, claim.layer, evidence.salt, *where)
    after = open_row(evidence.committed, shape, claim.layer + 1, evidence.salt, *where)
    rows = game.rows(own)
    layer = model.layers[claim.layer - model.first]
    wrong = wrong_channel(layer, rows, before.row, after.row)
    if wrong is not None:
        found = proof(model, claim, rows, wrong, before, after)
        return {"step": None, "proof": encode(found), "norm": None}
    normed = wrong_norm(model.header, rows, before.row)
    if normed is not None:
        shown = norm_proof(model, rows, normed, before)
        return {"step": None, "proof": encode(shown), "norm": normed[0]}
    return {"step": None, "proof": b"", "norm": None}


def _evidence(params: Mapping[str, Any]) -> bundle.Bundle:
    return bundle.read(Path(params["evidence"]).read_bytes())
