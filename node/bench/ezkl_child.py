"""One block under EZKL: `ezkl_child.py WEIGHTS.npz NUMBERS`, in an environment of its own.

Nothing of this program is imported: `node.bench.yardstick` has the interpreter, `node.bench.peer`
calls.  The last line is a JSON object.  The set-up parameters made here are for timing only.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Block(torch.nn.Module):
    """One pre-norm block with RoPE and a gated SiLU, causal; a batch of one."""

    def __init__(self, weights: dict[str, Tensor], heads: int, epsilon: float) -> None:
        super().__init__()
        self.w, self.heads, self.epsilon = weights, heads, epsilon

    def forward(self, x: Tensor) -> Tensor:
        rows, w = x[0], self.w
        tokens, width = rows.shape
        dim = width // self.heads
        y = self._norm(rows)
        q, k = (self._turned((y @ w[name].T).view(tokens, -1, dim)) for name in "qk")
        v = (y @ w["v"].T).view(tokens, -1, dim).transpose(0, 1)
        ahead = torch.full((tokens, tokens), -20.0).triu(1)
        scores = q.transpose(0, 1) @ k.permute(1, 2, 0) / dim**0.5 + ahead
        mixed = (torch.softmax(scores, -1) @ v).transpose(0, 1).reshape(tokens, width)
        rows = rows + mixed @ w["o"].T
        y = self._norm(rows)
        gate = y @ w["gate"].T
        changed = (gate * torch.sigmoid(gate) * (y @ w["up"].T)) @ w["down"].T
        return (rows + changed)[None]

    def _norm(self, y: Tensor) -> Tensor:
        return y / torch.sqrt((y * y).mean(-1, keepdim=True) + self.epsilon)

    def _turned(self, y: Tensor) -> Tensor:
        tokens, _, dim = y.shape
        steps = 10_000.0 ** (torch.arange(dim // 2) * 2 / dim)
        angle = torch.arange(tokens)[:, None] / steps
        cos, sin = angle.cos()[:, None, :], angle.sin()[:, None, :]
        a, b = y[..., : dim // 2], y[..., dim // 2 :]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def main(given: str, numbers: dict[str, Any]) -> None:
    import ezkl  # type: ignore[import-not-found]

    with np.load(given) as arrays:
        tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    x = tensors.pop("x")
    block = Block(tensors, numbers["heads"], numbers["epsilon"])
    torch.onnx.export(block, (x,), "net", dynamo=False, opset_version=17)
    Path("in").write_text(json.dumps({"input_data": [x.flatten().tolist()]}))
    visible = ezkl.PyRunArgs()
    visible.input_visibility = visible.output_visibility = "public"
    visible.param_visibility = "fixed"
    ezkl.gen_settings("net", "set", py_run_args=visible)
    ezkl.calibrate_settings("in", "net", "set", "resources")
    rows = json.loads(Path("set").read_text())["run_args"]["logrows"]
    ezkl.compile_circuit("net", "circuit", "set")
    ezkl.gen_srs("srs", rows)
    ezkl.gen_witness("in", "circuit", "witness")
    setup = _seconds(lambda: ezkl.setup("circuit", "vk", "pk", "srs"))
    prove = _seconds(lambda: ezkl.prove("witness", "circuit", "pk", "proof", "srs"))
    verify = _seconds(lambda: ezkl.verify("proof", "set", "vk", "srs"))
    found = {
        "setup_s": setup,
        "host_s": prove,
        "auditor_s": verify,
        "auditor_bytes": Path("proof").stat().st_size,
        "proving_key_bytes": Path("pk").stat().st_size,
        "log2_rows": rows,
        # Its own, since an interpreter starts small; in kibibytes on Linux.
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "version": ezkl.__version__,
    }
    print(json.dumps(found))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return round(time.perf_counter() - started, 3)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
