"""Methods of the trusted child for audits without weights; no torch."""

import secrets
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from ee import integer
from ee.integer import freivalds
from node.compute.evaluation import model_at, tested
from node.compute.state import write_file
from node.errors import ComputeError
from node.verifier import keyed
from node.verifier.replay import Model
from protocol.evaluation import TraceAnswer
from protocol.receipt import BatchProof
from protocol.wire import decode

Progress = Callable[[dict[str, Any]], None]


def trace(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{model (path), layer, rows, shape, limit_bytes} -> {sums}: the host's side.

    What would be longer than the limit with its rows is refused before it is computed.
    """
    tested()
    model, index = model_at(params["model"]), params["layer"]
    if not model.first <= index < model.first + len(model.layers):
        raise ComputeError(f"layer {index} of a trunk of {len(model.layers)}")
    layer, (cases, tokens, _) = model.layers[index - model.first], params["shape"]
    sums_bytes = freivalds.sums_bytes(layer, cases * tokens)
    if sums_bytes + len(params["rows"]) > params["limit_bytes"]:
        raise ComputeError(
            f"trace of {cases * tokens} rows has {sums_bytes + len(params['rows'])} bytes,"
            f" limit is {params['limit_bytes']}",
            hint="a receipt of so many rows is replayed",
        )
    rows = integer.unpack_rows(params["rows"], tuple(params["shape"]))
    _, sums = freivalds.shown(model.header, layer, rows)
    return {"sums": list(freivalds.pack_sums(layer, sums))}


def make(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{slice (path), model_root, out (path)} -> {digest}: the auditor's key of one layer."""
    tested()
    model = Model.read(Path(params["slice"]).read_bytes())
    if model.root != params["model_root"]:
        raise ComputeError(f"the slice is of model {model.root.hex()[:16]}")
    data = keyed.key_of(model, secrets.token_bytes(freivalds.SECRET_BYTES))
    path = Path(params["out"])
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_file(path, data)
    return {"digest": sha256(data).digest()}


def check(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{key (path), digest, receipt, batch, proof, salt, rows, sums} -> {stale, reason}.

    `reason` is empty where the layer passes; nothing was looked at where the file is not the
    key of that digest, which is `stale`.
    """
    tested()
    try:
        data = Path(params["key"]).read_bytes()
    except FileNotFoundError:
        data = b""
    if sha256(data).digest() != params["digest"]:
        return {"stale": True, "reason": ""}
    answer = TraceAnswer(params["salt"], params["rows"], tuple(params["sums"]))
    proof = decode(params["proof"], BatchProof)
    about = params["receipt"], params["batch"], proof, answer
    return {"stale": False, "reason": keyed.check(keyed.read(data), *about)}
