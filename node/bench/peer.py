"""The same small block under a proof system that installs from PyPI: EZKL (halo2, KZG).

    rexis bench peer

Not a dependency of ours and not part of a test: it takes minutes and gigabytes, in an environment
of its own (`node.bench.yardstick`).  Both prove one pre-norm block (width 16, 2 heads, gated inner
layer of 24, 4 causal tokens).  They do not promise the same: EZKL's verifier needs neither weights nor rows and trusts a set-up; a replay
needs both and trusts nothing.  The set-up parameters made here are for timing only.
"""

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ee import integer
from node.bench.yardstick import EZKL_PACKAGES, UnavailableError, environment
from protocol.boundary import boundary_root

_CHILD = Path(__file__).with_name("ezkl_child.py")

WIDTH, HEADS, INNER, TOKENS = 16, 2, 24, 4
EPSILON = 1e-3
CONFIG = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "intermediate_size": INNER,
    "rms_norm_eps": EPSILON,
}
"""The block as a stock Llama says it."""
SHAPES = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (WIDTH, WIDTH),
    "self_attn.v_proj": (WIDTH, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (INNER, WIDTH),
    "mlp.up_proj": (INNER, WIDTH),
    "mlp.down_proj": (WIDTH, INNER),
}


def run(quick: bool) -> dict[str, Any]:
    """Ours always; the peer's where it can be installed, and never in a quick turn."""
    generator = np.random.default_rng(0)
    weights = {
        name: (generator.normal(size=shape) / shape[1] ** 0.5).astype(np.float32)
        for name, shape in SHAPES.items()
    }
    x = generator.normal(size=(1, TOKENS, WIDTH)).astype(np.float32)
    peer = "left out of a quick turn" if quick else _ezkl(weights, x)
    return {"ours": _ours(weights, x), "ezkl": peer}


def trunk_of(weights: dict[str, Any]) -> integer.IntegerTrunk:
    """The block in integers, of weights by their names in a stock Llama's layer."""
    named = {f"layers.0.{name}.weight": value for name, value in weights.items()}
    return integer.quantise(named, CONFIG, tokens=TOKENS)


def _ours(weights: dict[str, Any], x: Any) -> dict[str, Any]:
    trunk = trunk_of(weights)
    rows = integer.encode_rows(x)

    def committed() -> bytes:
        after = integer.pack_rows(trunk.forward(rows).output)
        return boundary_root(after, (1, TOKENS, WIDTH), 1, bytes(32))

    root, after = committed(), trunk.forward(rows).output
    return {
        "host_s": _seconds(committed),
        "commit_s": _seconds(
            lambda: boundary_root(
                integer.pack_rows(after), (1, TOKENS, WIDTH), 1, bytes(32)
            )
        ),
        "auditor_s": _seconds(lambda: _same(committed(), root)),
        "auditor_bytes": len(integer.pack_rows(rows)) + 32,
        "model_bytes": len(integer.encode(trunk)),
    }


def _same(found: bytes, wanted: bytes) -> None:
    if found != wanted:
        raise SystemExit("a replay gave another root: this machine must not audit")


def _ezkl(weights: dict[str, Any], x: Any) -> dict[str, Any] | str:
    """The peer's figures, out of a process of its own; a sentence where there are none."""
    try:
        python = environment("ezkl", EZKL_PACKAGES, "import ezkl, onnx, torch")
    except UnavailableError as error:
        return str(error)
    with TemporaryDirectory() as folder:
        given = Path(folder, "given.npz")
        np.savez(given, x=x, **short_names(weights))
        numbers = json.dumps({"heads": HEADS, "epsilon": EPSILON})
        # Alone in its folder: EZKL leaves files where it runs.
        ended = subprocess.run(
            [python, str(_CHILD), str(given), numbers],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or [f"status {ended.returncode}"]
        return f"EZKL ended with: {lines[-1]}"
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def short_names(weights: dict[str, Any]) -> dict[str, Any]:
    """As the other program calls them: q, k, v, o, gate, up and down."""
    return {
        name.split(".")[1].removesuffix("_proj"): value
        for name, value in weights.items()
    }


def _seconds(work: Callable[[], object]) -> float:
    """The best of many runs."""
    return round(min(_once(work) for _ in range(50)), 6)


def _once(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return round(time.perf_counter() - started, 6)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="rexis bench peer", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line instead of many")
    parser.add_argument("--quick", action="store_true", help="without the peer")
    options = parser.parse_args(argv)
    print(json.dumps(run(options.quick), indent=None if options.json else 1))
