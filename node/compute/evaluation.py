"""Evaluation methods of the trusted child: release, encode, read, replay."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ee import integer
from ee.spec import ModelSpec, part, size, split
from ee.table import final_norm, head_scores, stem_tokens
from node.compute import state, table
from node.errors import ComputeError
from node.verifier.audit import audit, unpack_rows

Progress = Callable[[dict[str, Any]], None]


def release(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{spec, folder, root, seed, out} -> {model_root}: key, round, write the trunk."""
    from ee.keys import TrunkKey, key_trunk
    from ee.trunk import trunk_config

    spec = ModelSpec.from_dict(params["spec"])
    arrays = split(spec, state.read(Path(params["folder"]), params["root"], size(spec)))
    key = TrunkKey.generate(params["seed"], spec)
    keyed = key_trunk(part(arrays, "trunk"), key)
    trunk = integer.quantise(keyed, trunk_config(spec), tokens=spec.tokens)
    state.write_file(Path(params["out"]), integer.encode(trunk))
    return {"model_root": integer.root(trunk)}


def encode(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{spec, folder, root, seed, records} -> keyed integer rows of every record."""
    from ee.keys import TrunkKey

    spec = ModelSpec.from_dict(params["spec"])
    arrays = split(spec, state.read(Path(params["folder"]), params["root"], size(spec)))
    header, rows = table.read_csv(params["records"])
    values = table.parse(spec, header, rows)
    plain = stem_tokens(spec, part(arrays, "stem"), values)
    keyed = TrunkKey.generate(params["seed"], spec).enter(plain)
    integers = integer.to_rows(keyed, residual_bits=integer.RESIDUAL_BITS)
    return {"shape": list(integers.shape), "rows": integers.astype("<i4").tobytes()}


def read(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """{spec, folder, root, seed, boundaries} -> log-odds out of a host's answer."""
    from ee.keys import TrunkKey

    spec = ModelSpec.from_dict(params["spec"])
    arrays = split(spec, state.read(Path(params["folder"]), params["root"], size(spec)))
    output = unpack_rows(params["boundaries"]).output
    if output.shape[1:] != (spec.tokens, spec.width):
        raise ComputeError(
            f"the host answered rows of {output.shape}, the model has"
            f" {spec.tokens} tokens of {spec.width}"
        )
    last = integer.from_rows(output[:, -1:], residual_bits=integer.RESIDUAL_BITS)[:, 0]
    plain = TrunkKey.generate(params["seed"], spec).leave(last)
    scores = head_scores(part(arrays, "head"), final_norm(spec, plain))
    return {"scores": [float(score) for score in np.asarray(scores)]}


def replay(params: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """One receipt against the anchored root; imports no torch."""
    found = audit(
        trunk=integer.decode(params["trunk"]),
        receipt=params["receipt"],
        batch_root=params["batch_root"],
        index=params["index"],
        size=params["size"],
        proof=params["proof"],
        boundaries=params["boundaries"],
    )
    return {"audit": found}
