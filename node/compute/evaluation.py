"""Evaluation methods of the trusted child: release, confirm, encode, read, replay."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ee import integer
from ee.integer import IntegerModelError
from node.compute import state
from node.compute.kinds import released
from node.errors import ComputeError
from node.verifier import bundle
from node.verifier.replay import Model, Opened, audit
from protocol.receipt import BatchProof
from protocol.wire import decode
from protocol.wire import encode as encoded

Progress = Callable[[dict[str, Any]], None]


def release(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{spec, folder, root, models, seed, trunks} -> {model_root}: key, round, write the trunk."""
    trunk = released(params).quantised(params["seed"])
    root, folder = integer.model_root(trunk), Path(params["trunks"])
    folder.mkdir(parents=True, exist_ok=True)
    state.write_file(folder / f"{root.hex()}.trunk", integer.encode(trunk))
    return {"model_root": root}


def confirm(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{spec, folder, root, models, seed, trunk (path), model_root} -> {differs}.

    Empty where the trunk is the keyed, quantised form of the state; else what is not.
    """
    model = released(params)
    content = Path(params["trunk"]).read_bytes()
    try:
        trunk = integer.decode(content)
        found = integer.model_root(trunk)
        if found != params["model_root"]:
            return {"differs": f"the trunk's bytes have root {found.hex()[:16]}"}
        model.check(trunk, params["seed"])
    except IntegerModelError as error:
        return {"differs": str(error)}
    return {"differs": ""}


def encode(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{spec, folder, root, models, seed, records} -> {groups}.

    A group is {places, shape, rows}: keyed integer rows of the cases of one length, and which
    records they are.
    """
    groups = released(params).entered(params["records"], params["seed"])
    return {
        "groups": [
            {
                "places": group.places,
                "shape": list(group.rows.shape),
                "rows": integer.pack_rows(group.rows),
            }
            for group in groups
        ],
    }


def read(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{spec, folder, root, models, seed, shape, rows} -> {scores, answers} of a host's rows.

    Log-odds of each case; where the model tells classes apart, of the class in `answers`.
    """
    output = integer.unpack_rows(params["rows"], tuple(params["shape"]))
    told = released(params).left(integer.decode_rows(output), params["seed"])
    return {"scores": told.scores, "answers": told.answers}


def cut(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{trunk (path), layer, out (path)} -> {}: write one layer of a trunk as a slice."""
    model, index = model_at(params["trunk"]), params["layer"]
    if not 0 <= index < len(model.layers):
        raise ComputeError(f"layer {index} of a trunk of {len(model.layers)}")
    state.write_file(Path(params["out"]), integer.encode_slice(model.cut(index)))
    return {}


def check_slice(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{slice (path), model_root, layer} -> {}: refuse what is not that layer of that model."""
    root, layer = params["model_root"], params["layer"]
    try:
        part = integer.decode_slice(Path(params["slice"]).read_bytes())
    except IntegerModelError as error:
        raise ComputeError(f"what was given is no slice: {error}") from error
    if (part.model_root, part.index) != (root, layer):
        raise ComputeError(
            f"what was given is layer {part.index} of {part.model_root.hex()[:16]},"
            f" not {layer} of {root.hex()[:16]}"
        )
    return {}


def ready(_params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """Refused on a machine that computes otherwise than the op-spec: it must not audit."""
    tested()
    return {}


def replay(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """One receipt from the rows at one boundary; imports no torch.

    {model (path of a trunk or a slice), receipt, batch, proof, boundary, salt, rows, committed?} -> {first, count,
    fault, evidence}; `fault` is the message's bytes or empty, `evidence` a bundle that shows
    the same with nothing but the wrong layer; it names the number if `committed` rows are given.
    """
    tested()
    model = model_at(params["model"])
    proof = decode(params["proof"], BatchProof)
    opened = Opened(params["boundary"], params["salt"], params["rows"])
    about = model, params["receipt"], params["batch"], proof, opened
    verdict = audit(*about)
    fault, rows, evidence = verdict.fault, b"", b""
    if fault is not None:
        # Where no layer was computed, the rows at hand are what speaks against the host.
        before, boundary = opened.rows, opened.boundary
        if verdict.before:
            before, boundary = verdict.before, fault.layer
            rows = params.get("committed", b"")
        if rows:
            committed = Opened(boundary + 1, opened.salt, rows)
            fault = audit(*about, committed).fault
        evidence = bundle.write(
            bundle.Bundle(
                params["receipt"],
                params["batch"],
                proof,
                boundary=boundary,
                salt=opened.salt,
                rows=before,
                committed=rows,
                model=integer.encode_slice(model.cut(boundary)),
            )
        )
    return {
        "first": verdict.first,
        "count": verdict.count,
        "fault": b"" if fault is None else encoded(fault),
        "evidence": evidence,
    }


@lru_cache(maxsize=1)
def tested() -> None:
    """Once in the life of the child; a failure is not remembered and comes back each call."""
    integer.self_test()


@lru_cache(maxsize=1)
def model_at(path: str) -> Model:
    """A host's receipts come in batches, so the last model is likely the next."""
    return Model.read(Path(path).read_bytes())
