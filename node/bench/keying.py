"""Memory and time of keying a checkpoint that is made up on the spot.

`python -m node.bench.keying FOLDER GIGABYTES [dense|hadamard]` writes a Llama checkpoint of
about that size at FOLDER/source, keys it in this process, and prints one JSON object.  The
peak is what the kernel counted for this process, so making the checkpoint happens in another;
one that is there already is keyed as it is.
"""

import json
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig

from ee.arch.llama import Llama
from ee.arch.sites import Options, Turn
from ee.ledger import Context
from node.bench.memory import peak_kib
from node.model import convert
from node.model.checkpoint import Checkpoint, CheckpointWriter

WIDTH = 2048
HEAD_DIM = 64


def layer_bytes(width: int) -> int:
    """Of one block in float32: four square matrices, three to or from the inner units."""
    return 4 * (4 * width * width + 3 * width * _inner(width))


def _inner(width: int) -> int:
    return 11 * width // 4


def run(folder: Path, gigabytes: float, turn: Turn = Turn.DENSE) -> dict[str, Any]:
    """Key a checkpoint of about `gigabytes`; what it took."""
    source = folder / "source"
    if not source.exists():
        layers = max(1, round(gigabytes * 1e9 / layer_bytes(WIDTH)))
        maker = get_context("spawn").Process(target=make, args=(source, layers))
        maker.start()
        maker.join()
        if maker.exitcode != 0:
            raise RuntimeError(f"making the checkpoint ended with {maker.exitcode}")
    with Checkpoint(source) as stock:
        layers = stock.config().num_hidden_layers
        total = sum(path.stat().st_size for path in source.glob("*.safetensors"))
        largest = stock.largest_file_bytes
    before, started = _peak_bytes(), time.perf_counter()
    made = convert.key(
        source,
        folder / "trunk",
        folder / "ends",
        secret=bytes(32),
        context=Context("bench", "bench", "bench"),
        options=Options(turn=turn),
    )
    seconds = time.perf_counter() - started
    peak = _peak_bytes()
    return {
        "checkpoint_bytes": total,
        "largest_file_bytes": largest,
        "layers": layers,
        "turn": str(turn),
        "seconds": round(seconds, 1),
        "peak_bytes": peak,
        "grown_bytes": peak - before,
        "limit_bytes": 2 * largest + (1 << 30),
        "trunk_bytes": made.trunk_bytes,
    }


def make(folder: Path, layers: int, width: int = WIDTH) -> None:
    """A stock checkpoint with weights of the usual size, written tensor by tensor."""
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=width,
        intermediate_size=_inner(width),
        num_hidden_layers=layers,
        num_attention_heads=width // HEAD_DIM,
        num_key_value_heads=width // HEAD_DIM,
    )
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    plan = Llama().plan(config)
    shapes = {f"model.{n}": (torch.float32, s) for n, s in plan.shapes().items()}
    shapes["model.embed_tokens.weight"] = (torch.float32, (1000, width))
    # A gigabyte a file, or a quarter of a small checkpoint.
    limit = min(1 << 30, max(1, layers * layer_bytes(width) // 4))
    writer = CheckpointWriter(folder, shapes, {}, shard_bytes=limit)
    generator = torch.Generator().manual_seed(0)
    for name, (_, shape) in shapes.items():
        tensor = torch.randn(shape, generator=generator)
        writer.write(name, tensor.abs() if len(shape) == 1 else 0.02 * tensor)
    writer.close()


def _peak_bytes() -> int:
    return 1024 * peak_kib()


def main() -> int:
    folder, gigabytes, *rest = sys.argv[1:]
    turn = Turn(rest[0]) if rest else Turn.DENSE
    print(json.dumps(run(Path(folder), float(gigabytes), turn)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
