"""The same small block under a proof system that installs from PyPI: EZKL (halo2, KZG).

    pip install ezkl onnx onnxscript && python -m node.bench.peer

Not a dependency of ours and not part of a test: it takes minutes and gigabytes.  Both prove one
pre-norm block (width 16, 2 heads, gated inner layer of 24, 4 causal tokens).  They do not
promise the same: EZKL's verifier needs neither weights nor rows and trusts a set-up; a replay
needs both and trusts nothing.  The set-up parameters made here are for timing only.
"""

import argparse
import importlib
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ee import integer
from protocol.boundary import boundary_root

WIDTH, HEADS, INNER, TOKENS = 16, 2, 24, 4
DIM = WIDTH // HEADS
EPSILON = 1e-3
SHAPES = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (WIDTH, WIDTH),
    "self_attn.v_proj": (WIDTH, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (INNER, WIDTH),
    "mlp.up_proj": (INNER, WIDTH),
    "mlp.down_proj": (WIDTH, INNER),
}


def run() -> dict[str, Any]:
    """Ours always; the peer's figures where it is installed."""
    generator = np.random.default_rng(0)
    weights = {
        name: (generator.normal(size=shape) / shape[1] ** 0.5).astype(np.float32)
        for name, shape in SHAPES.items()
    }
    x = generator.normal(size=(1, TOKENS, WIDTH)).astype(np.float32)
    found = {"ours": _ours(weights, x)}
    try:
        ezkl = importlib.import_module("ezkl")
    except ImportError:
        return {**found, "ezkl": "not installed: pip install ezkl onnx onnxscript"}
    with TemporaryDirectory() as folder:
        found["ezkl"] = _ezkl(ezkl, Path(folder), weights, x)
    return found


def _ours(weights: dict[str, Any], x: Any) -> dict[str, Any]:
    trunk = integer.quantise(
        {f"layers.0.{name}.weight": value for name, value in weights.items()},
        {
            "hidden_size": WIDTH,
            "num_hidden_layers": 1,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "intermediate_size": INNER,
            "rms_norm_eps": EPSILON,
        },
        tokens=TOKENS,
    )
    rows = integer.encode_rows(x)

    def committed() -> bytes:
        after = integer.pack_rows(trunk.forward(rows).output)
        return boundary_root(after, (1, TOKENS, WIDTH), 1, bytes(32))

    root = committed()
    return {
        "host_s": _seconds(committed),
        "auditor_s": _seconds(lambda: _same(committed(), root)),
        "auditor_bytes": len(integer.pack_rows(rows)) + 32,
        "model_bytes": len(integer.encode(trunk)),
        "largest_error": round(
            float(
                np.abs(
                    integer.decode_rows(trunk.forward(rows).output)
                    - _block(weights, x).numpy()
                ).max()
            ),
            4,
        ),
    }


def _same(found: bytes, wanted: bytes) -> None:
    if found != wanted:
        raise SystemExit("a replay gave another root: this machine must not audit")


def _ezkl(ezkl: Any, folder: Path, weights: dict[str, Any], x: Any) -> dict[str, Any]:
    import torch

    class Block(torch.nn.Module):
        def forward(self, rows: Any) -> Any:
            return _block(weights, rows)

    net, settings, inputs, circuit, srs, witness, vk, pk, proof = (
        str(folder / name)
        for name in (
            "net.onnx",
            "set",
            "in",
            "circuit",
            "srs",
            "wit",
            "vk",
            "pk",
            "prf",
        )
    )
    torch.onnx.export(
        Block(), (torch.from_numpy(x),), net, dynamo=False, opset_version=17
    )
    Path(inputs).write_text(json.dumps({"input_data": [x.flatten().tolist()]}))
    visible = ezkl.PyRunArgs()
    visible.input_visibility = visible.output_visibility = "public"
    visible.param_visibility = "fixed"
    ezkl.gen_settings(net, settings, py_run_args=visible)
    ezkl.calibrate_settings(inputs, net, settings, "resources")
    rows = json.loads(Path(settings).read_text())["run_args"]["logrows"]
    ezkl.compile_circuit(net, circuit, settings)
    ezkl.gen_srs(srs, rows)
    ezkl.gen_witness(inputs, circuit, witness)
    setup = _once(lambda: ezkl.setup(circuit, vk, pk, srs))
    prove = _once(lambda: ezkl.prove(witness, circuit, pk, proof, srs))
    verify = _once(lambda: ezkl.verify(proof, settings, vk, srs))
    return {
        "setup_s": setup,
        "host_s": prove,
        "auditor_s": verify,
        "auditor_bytes": Path(proof).stat().st_size,
        "proving_key_bytes": Path(pk).stat().st_size,
        "log2_rows": rows,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "version": ezkl.__version__,
    }


def _block(weights: dict[str, Any], x: Any) -> Any:
    """The float block in torch, batch of one."""
    import torch

    w = {
        name.split(".")[1].removesuffix("_proj"): torch.from_numpy(value)
        for name, value in weights.items()
    }
    angle = torch.arange(TOKENS)[:, None] / 10_000.0 ** (
        torch.arange(DIM // 2) * 2 / DIM
    )
    cos, sin = angle.cos()[:, None, :], angle.sin()[:, None, :]

    def norm(y: Any) -> Any:
        return y / torch.sqrt((y * y).mean(-1, keepdim=True) + EPSILON)

    def heads(y: Any, *, turn: bool) -> Any:
        y = y.view(TOKENS, HEADS, DIM)
        if turn:
            a, b = y[..., : DIM // 2], y[..., DIM // 2 :]
            y = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
        return y.transpose(0, 1)

    rows = torch.as_tensor(x)[0]
    y = norm(rows)
    q, k = (heads(y @ w[name].T, turn=True) for name in "qk")
    v = heads(y @ w["v"].T, turn=False)
    ahead = torch.full((TOKENS, TOKENS), -20.0).triu(1)
    mixed = torch.softmax(q @ k.transpose(1, 2) / DIM**0.5 + ahead, -1) @ v
    rows = rows + mixed.transpose(0, 1).reshape(TOKENS, WIDTH) @ w["o"].T
    y = norm(rows)
    gate = y @ w["gate"].T
    return (rows + (gate * torch.sigmoid(gate) * (y @ w["up"].T)) @ w["down"].T)[None]


def _seconds(work: Callable[[], object]) -> float:
    """The best of many runs."""
    return round(min(_once(work) for _ in range(50)), 6)


def _once(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return round(time.perf_counter() - started, 6)


def main() -> None:
    parser = argparse.ArgumentParser(prog="node.bench.peer", description=__doc__)
    parser.parse_args()
    print(json.dumps(run(), indent=1))


if __name__ == "__main__":
    main()
