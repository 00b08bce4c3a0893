"""What verified inference costs: `rexis bench verify --json`.

A trunk of the size of BERT-base (12 layers, 768 wide, 7.1 M weights a layer, 128 tokens, one
sequence, one thread).  Each figure is the best of several turns, and the kinds take turns, so
that what else the machine does falls on all of them; ratios are of times, so below 1 is
faster.  `kernel` says which int8 product the CPU gave: figures of machines with and without
VNNI are not to be compared.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ee import integer
from ee.integer import IntegerTrunk, freivalds
from protocol.boundary import boundary_root

WIDTH, INNER, HEADS, TOKENS = 768, 2048, 12, 128
SALT, SECRET = bytes(32), bytes(range(32))
EPSILON = 1e-6


def run(quick: bool) -> dict[str, Any]:
    """Every figure of the page; `quick` has two layers."""
    import torch

    from ee.integer_torch import TorchTrunk

    torch.set_num_threads(1)
    layers, turns = (2, 3) if quick else (12, 7)
    state = weights(layers)
    trunk = integer.quantise(state, config(layers), tokens=TOKENS)
    x = np.random.default_rng(1).normal(size=(1, TOKENS, WIDTH))
    rows = integer.encode_rows(x)
    twin, stock = TorchTrunk(trunk), _stock(state, layers, x)
    trace = trunk.forward(rows).boundaries
    boundaries = [integer.pack_rows(one) for one in trace]
    check = _Layer(trunk, boundaries)
    best = _best(
        {
            "fp32": stock,
            "int": lambda: twin.forward(rows),
            "portable": lambda: trunk.forward(rows),
            "commit": lambda: _committed(trace),
            "shard": check.fast(twin),
            "shard_portable": check.audited,
            "products": check.products,
            "freivalds": check.keyed,
        },
        turns,
    )
    found = {
        "int_vs_fp32": best["int"] / best["fp32"],
        "portable_vs_fp32": best["portable"] / best["fp32"],
        "commit_overhead": best["commit"] / best["int"],
        "shard_ms": 1e3 * best["shard"],
        "shard_portable_ms": 1e3 * best["shard_portable"],
        "shard_portable_vs_products": best["shard_portable"] / best["products"],
        "shard_bytes": len(boundaries[1]) + len(SALT),
        "full_replay_vs_inference": best["portable"] / best["int"],
        "freivalds_ms": 1e3 * layers * best["freivalds"],
        "fp32_ms": 1e3 * best["fp32"],
        "int_ms": 1e3 * best["int"],
        "portable_ms": 1e3 * best["portable"],
    }
    return {
        **{name: round(value, 4) for name, value in found.items()},
        **check.sizes(),
        **_light(trunk, boundaries, turns),
        "layers": layers,
        "kernel": twin.kernel,
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def _best(kinds: Mapping[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Seconds of the best turn of each, after one that warms up."""
    best: dict[str, float] = {}
    for turn in range(turns + 1):
        for name, work in kinds.items():
            started = time.perf_counter()
            work()
            seconds = time.perf_counter() - started
            if turn:
                best[name] = min(seconds, best.get(name, seconds))
    return best


def weights(layers: int) -> dict[str, NDArray[np.float32]]:
    generator = np.random.default_rng(0)
    shapes = {
        **{f"self_attn.{name}_proj": (WIDTH, WIDTH) for name in "qkvo"},
        "mlp.gate_proj": (INNER, WIDTH),
        "mlp.up_proj": (INNER, WIDTH),
        "mlp.down_proj": (WIDTH, INNER),
    }
    return {
        f"layers.{layer}.{name}.weight": (
            generator.standard_normal(shape, np.float32) / np.float32(shape[1] ** 0.5)
        )
        for layer in range(layers)
        for name, shape in shapes.items()
    }


def config(layers: int) -> dict[str, Any]:
    return {
        "hidden_size": WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "intermediate_size": INNER,
        "rms_norm_eps": EPSILON,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    }


def _stock(
    state: Mapping[str, NDArray[np.float32]], layers: int, x: NDArray[np.float64]
) -> Callable[[], object]:
    """The same blocks as a stock fp32 model runs them."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    stock = LlamaConfig(
        **config(layers),
        vocab_size=1,
        bos_token_id=None,
        eos_token_id=None,
        max_position_embeddings=TOKENS,
        attn_implementation="sdpa",
    )
    model = LlamaModel(stock)
    model.load_state_dict(
        {name: torch.from_numpy(value) for name, value in state.items()}, strict=False
    )
    model.eval()
    rows = torch.from_numpy(x.astype(np.float32))

    def forward() -> object:
        with torch.inference_mode():
            return model(inputs_embeds=rows, use_cache=False).last_hidden_state

    return forward


def _committed(trace: Sequence[NDArray[np.int32]]) -> list[bytes]:
    """What a receipt costs beside the inference: bytes and root of every boundary."""
    packed = [integer.pack_rows(rows) for rows in trace]
    return [
        boundary_root(rows, (1, TOKENS, WIDTH), at, SALT)
        for at, rows in enumerate(packed)
    ]


class _Layer:
    """One layer of one receipt, audited in three ways."""

    def __init__(self, trunk: IntegerTrunk, boundaries: list[bytes]) -> None:
        self._trunk = trunk
        self._shape = (1, TOKENS, WIDTH)
        self._packed, self._after = boundaries[1], boundaries[2]
        self._rows = integer.unpack_rows(self._packed, self._shape)
        self._root = boundary_root(self._after, self._shape, 2, SALT)
        layer = trunk.layers[1]
        self._key = freivalds.layer_key(layer, 1, SECRET)
        _, self._sums = freivalds.shown(trunk.header, layer, self._rows)

    def audited(self) -> None:
        """As the light verifier does it: unpack, replay, pack, compare the root."""
        rows = integer.unpack_rows(self._packed, self._shape)
        boundary_root(self._packed, self._shape, 1, SALT)
        self._compare(self._trunk.replay_layer(1, rows))

    def products(self) -> None:
        """The layer's seven matrix products alone, in the floats of this machine."""
        layer = self._trunk.layers[1]
        rows = self._rows[0].astype(np.float32)
        for one in (layer.q, layer.k, layer.v, layer.o, layer.up or layer.gate):
            np.matmul(rows, one.weight32.T)
        inner = np.matmul(rows, layer.gate.weight32.T)
        np.matmul(inner, layer.down.weight32.T)

    def fast(self, twin: Any) -> Callable[[], None]:
        """The same with the int8 products of the torch twin."""

        def audited() -> None:
            rows = integer.unpack_rows(self._packed, self._shape)
            boundary_root(self._packed, self._shape, 1, SALT)
            self._compare(twin.replay_layer(1, rows))

        return audited

    def keyed(self) -> None:
        """Without weights."""
        header = self._trunk.header
        self._compare(freivalds.checked(header, self._key, self._rows, self._sums))

    def sizes(self) -> dict[str, int]:
        layer = integer.encode_slice(integer.cut(self._trunk, 1))
        return {
            "slice_bytes": len(layer),
            "freivalds_key_bytes": self._key.size_bytes,
            "freivalds_shown_bytes": sum(4 * one.size for one in self._sums),
        }

    def _compare(self, after: NDArray[np.int32]) -> None:
        root = boundary_root(integer.pack_rows(after), self._shape, 2, SALT)
        if root != self._root:
            raise SystemExit("a replay gave other rows: this machine must not audit")


_THREADS = "_NUM_THREADS"
"""Of OMP, OpenBLAS and MKL."""
_LIGHT = """
import json, sys, time
started = time.perf_counter()
from ee import integer
from node.verifier.replay import Model
from protocol.boundary import boundary_root
integer.self_test()
ready = time.perf_counter() - started
slice_, before, expected = (open(one, "rb").read() for one in sys.argv[1:4])
model, shape, best = Model.read(slice_), (1, 128, 768), []
for _ in range(int(sys.argv[4])):
    started = time.perf_counter()
    rows = integer.unpack_rows(before, shape)
    boundary_root(before, shape, 1, bytes(32))
    after = integer.pack_rows(model.header.replay(model.layers[0], rows))
    boundary_root(after, shape, 2, bytes(32))
    best.append(time.perf_counter() - started)
    assert after == expected
# Not ru_maxrss: Linux carries the parent's over.
peak = next(l for l in open("/proc/self/status") if l.startswith("VmHWM"))
print(json.dumps([ready, int(peak.split()[1]) / 1024, min(best)]))
"""


def _light(
    trunk: IntegerTrunk, boundaries: list[bytes], turns: int
) -> dict[str, float]:
    """A process that audits one layer and nothing else, as it is installed.

    Its BLAS may use all cores, where everything else here is told to use one.
    """
    environment = {k: v for k, v in os.environ.items() if not k.endswith(_THREADS)}
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("slice", "before", "after")]
        part = integer.encode_slice(integer.cut(trunk, 1))
        for path, content in zip(paths, (part, *boundaries[1:3]), strict=True):
            path.write_bytes(content)
        out = subprocess.run(
            [sys.executable, "-c", _LIGHT, *map(str, paths), str(turns + 1)],
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            check=True,
        ).stdout
    ready, memory, audited = json.loads(out)
    return {
        "light_shard_ms": round(1e3 * audited, 4),
        "light_cores": len(os.sched_getaffinity(0)),
        "light_ready_s": round(ready, 2),
        "light_mib": round(memory, 1),
    }


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="rexis bench verify", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--quick", action="store_true", help="two layers, few turns")
    options = parser.parse_args(argv)
    found = run(options.quick)
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:26} {value}")
