"""A checkpoint as the base of a run: the same tensors at every member, or none at all.

Members name a base by a digest over everything that decides what it computes.  Each has it
in a folder of its own; a folder with other bytes is refused before anything trains on it.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from ee.arch.known import architecture_of
from node.errors import ModelError
from node.model.checkpoint import CONFIG, Checkpoint, read_json

TOKENIZER = "tokenizer.json"
_DOMAIN = b"rexis-base-1"


def base_digest(folder: Path) -> str:
    """SHA-256 in hex over the configuration, the tokenizer and every tensor by its name."""
    total = hashlib.sha256(_DOMAIN)
    for name, data in _parts(folder):
        total.update(hashlib.sha256(name.encode()).digest())
        total.update(hashlib.sha256(data).digest())
    return total.hexdigest()


def _parts(folder: Path) -> Iterator[tuple[str, bytes | memoryview]]:
    yield CONFIG, json.dumps(read_json(folder / CONFIG), sort_keys=True).encode()
    path = folder / TOKENIZER
    yield TOKENIZER, path.read_bytes() if path.exists() else b""
    with Checkpoint(folder) as stock:
        for name in sorted(stock.names()):
            tensor = stock.read(name)
            described = f"{name} {tensor.dtype} {list(tensor.shape)}"
            yield described, tensor.reshape(-1).view(torch.uint8).numpy().data


def read_base(folder: Path, digest: str) -> tuple[PreTrainedConfig, dict[str, Tensor]]:
    """Configuration and tensors in float32; `ModelError` unless they are what `digest` names."""
    if not folder.is_dir():
        raise ModelError(
            f"this node has no base at {folder}",
            hint="put the checkpoint there, or a link to it; docs/operations.md",
        )
    found = base_digest(folder)
    if found != digest:
        raise ModelError(
            f"{folder} is base {found[:16]}, the run needs {digest[:16]}",
            hint="ask the proposer where its checkpoint comes from;"
            " `rexis model inspect` prints the digest",
        )
    with Checkpoint(folder) as stock:
        config = stock.config()
        architecture_of(config).check(config)
        state = {
            name: stock.read(name).float()
            for name in stock.names()
            if stock.slot(name).dtype.is_floating_point
        }
    return config, state


def files_seen(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Changes whenever somebody writes into the folder; cheaper than the digest."""
    if not folder.is_dir():
        return ()
    stats = ((path.name, path.stat()) for path in sorted(folder.iterdir()))
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
