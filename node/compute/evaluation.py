"""Evaluation methods of the trusted child: release, encode, read, replay."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ee import integer
from ee.integer import IntegerModelError
from ee.integer.agreement import check_agreement
from ee.spec import ModelSpec, part, size, split
from ee.table import final_norm, head_scores, parse, stem_tokens
from node.compute import state, table
from node.compute.models import table_spec
from node.errors import ComputeError
from node.verifier import bundle
from node.verifier.replay import Model, Opened, audit
from protocol.receipt import BatchProof
from protocol.wire import decode
from protocol.wire import encode as encoded

Progress = Callable[[dict[str, Any]], None]


def release(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{spec, folder, root, seed, trunks} -> {model_root}: key, round, write the trunk."""
    from ee.keys import TrunkKey, key_trunk

    spec = table_spec(params["spec"])
    arrays = split(spec, state.read(Path(params["folder"]), params["root"], size(spec)))
    key = TrunkKey.generate(params["seed"], spec)
    keyed = key_trunk(part(arrays, "trunk"), key)
    trunk = integer.quantise(keyed, _configuration(spec), tokens=spec.tokens)
    root, folder = integer.model_root(trunk), Path(params["trunks"])
    folder.mkdir(parents=True, exist_ok=True)
    state.write_file(folder / f"{root.hex()}.trunk", integer.encode(trunk))
    return {"model_root": root}


def confirm(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{spec, folder, root, seed, trunk (path), model_root} -> {differs}.

    Empty where the trunk is the keyed, quantised form of the state; else what is not.
    """
    from ee.keys import TrunkKey, key_trunk

    spec = table_spec(params["spec"])
    arrays = split(spec, state.read(Path(params["folder"]), params["root"], size(spec)))
    key = TrunkKey.generate(params["seed"], spec)
    keyed = key_trunk(part(arrays, "trunk"), key)
    content = Path(params["trunk"]).read_bytes()
    try:
        trunk = integer.decode(content)
        found = integer.model_root(trunk)
        if found != params["model_root"]:
            return {"differs": f"the trunk's bytes have root {found.hex()[:16]}"}
        check_agreement(trunk, keyed, _configuration(spec))
    except IntegerModelError as error:
        return {"differs": str(error)}
    return {"differs": ""}


def _configuration(spec: ModelSpec) -> dict[str, Any]:
    """The sizes by the names of a stock checkpoint; `ee.trunk` has them too, with torch."""
    return {
        "hidden_size": spec.width,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "intermediate_size": spec.inner,
        "rms_norm_eps": spec.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": spec.rope_base},
    }


def encode(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{spec, folder, root, seed, records} -> keyed integer rows of every record."""
    from ee.keys import TrunkKey

    spec = table_spec(params["spec"])
    arrays = split(spec, state.read(Path(params["folder"]), params["root"], size(spec)))
    values = parse(spec, *table.read_csv(params["records"]))
    plain = stem_tokens(spec, part(arrays, "stem"), values)
    keyed = TrunkKey.generate(params["seed"], spec).enter(plain)
    rows = integer.encode_rows(keyed)
    return {"shape": list(rows.shape), "rows": integer.pack_rows(rows)}


def read(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{spec, folder, root, seed, shape, rows} -> log-odds out of a host's output rows."""
    from ee.keys import TrunkKey

    spec = table_spec(params["spec"])
    arrays = split(spec, state.read(Path(params["folder"]), params["root"], size(spec)))
    shape = tuple(params["shape"])
    if shape[1:] != (spec.tokens, spec.width):
        raise ComputeError(
            f"the host answered rows of shape {shape}, the model has"
            f" {spec.tokens} tokens of {spec.width}"
        )
    output = integer.unpack_rows(params["rows"], shape)
    last = integer.decode_rows(output[:, -1:])[:, 0]
    plain = TrunkKey.generate(params["seed"], spec).leave(last)
    scores = head_scores(part(arrays, "head"), final_norm(spec, plain))
    return {"scores": [float(score) for score in np.asarray(scores)]}


def cut(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{trunk (path), layer, out (path)} -> {}: write one layer of a trunk as a slice."""
    model, index = model_at(params["trunk"]), params["layer"]
    if not 0 <= index < len(model.layers):
        raise ComputeError(f"layer {index} of a trunk of {len(model.layers)}")
    state.write_file(Path(params["out"]), integer.encode_slice(model.cut(index)))
    return {}


def replay(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """One receipt from the rows at one boundary; imports no torch.

    {model (path of a trunk or a slice), receipt, batch, proof, boundary, salt, rows, committed?} -> {first, count,
    fault, evidence}; `fault` is the message's bytes or empty, `evidence` a bundle that shows
    the same with nothing but the wrong layer, once `committed` rows are given.
    """
    tested()
    model = model_at(params["model"])
    proof = decode(params["proof"], BatchProof)
    opened = Opened(params["boundary"], params["salt"], params["rows"])
    about = model, params["receipt"], params["batch"], proof, opened
    verdict = audit(*about)
    fault, rows = verdict.fault, params.get("committed", b"")
    evidence = b""
    if fault is not None and verdict.before and rows:
        committed = Opened(fault.layer + 1, opened.salt, rows)
        fault = audit(*about, committed).fault
        evidence = bundle.write(
            bundle.Bundle(
                params["receipt"],
                params["batch"],
                proof,
                boundary=committed.boundary - 1,
                salt=opened.salt,
                rows=verdict.before,
                committed=rows,
                model=integer.encode_slice(model.cut(committed.boundary - 1)),
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
