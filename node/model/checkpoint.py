"""A stock checkpoint folder: its configuration, its files, its tensors by name.

Only safetensors is read: the older format runs code when it is loaded.  Nothing is fetched;
a folder is a folder on this machine.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from node.errors import ModelError
from node.model.tensor_file import Layout, Slot, TensorFile, TensorWriter

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
JSON_LIMIT_BYTES = 64 << 20
"""An index of a hundred thousand tensors has about ten megabytes."""
SHARD_BYTES = 5 << 30
"""What the stock library splits at by default."""


class Checkpoint:
    """An open folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()
        try:
            files = [self._stack.enter_context(TensorFile(p)) for p in _files(folder)]
        except BaseException:
            self._stack.close()
            raise
        self._home = {name: file for file in files for name in file.slots}
        self.metadata: Mapping[str, str] = files[0].metadata if files else {}
        self.largest_file_bytes = max((f.path.stat().st_size for f in files), default=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def config(self) -> PreTrainedConfig:
        """The stock configuration; a custom one is not run."""
        return read_config(self.folder)

    def names(self) -> list[str]:
        """All tensors, file by file."""
        return list(self._home)

    def slot(self, name: str) -> Slot:
        return self._home[name].slots[name]

    def read(self, name: str) -> Tensor:
        """One tensor, with memory of its own."""
        return self._home[name].read(name)

    def tensors(self, names: list[str]) -> Iterator[tuple[str, Tensor]]:
        """One after the other; the caller holds as many as it keeps."""
        for name in names:
            yield name, self.read(name)


def read_config(folder: Path) -> PreTrainedConfig:
    """The stock configuration of a folder; `ModelError` if it is none."""
    document = read_json(folder / CONFIG)
    if "auto_map" in document:
        raise ModelError(
            f"{folder / CONFIG} asks for code that comes with the checkpoint",
            hint="only stock architectures are keyed; `rexis model inspect` lists them",
        )
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{folder / CONFIG} is no stock configuration: {_first_line(error)}",
            hint="name a folder that `AutoModel.from_pretrained` can load",
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of bounded size."""
    try:
        with path.open("rb") as file:
            data = file.read(JSON_LIMIT_BYTES + 1)
    except OSError as error:
        raise ModelError(
            f"cannot read {path}: {error.strerror}",
            hint="name a folder with config.json and model.safetensors",
        ) from error
    try:
        document = json.loads(data) if len(data) <= JSON_LIMIT_BYTES else None
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ModelError(
            f"{path} is no JSON object of at most {JSON_LIMIT_BYTES} bytes"
        )
    return document


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else repr(error)


def _files(folder: Path) -> list[Path]:
    if (folder / INDEX).exists():
        table = read_json(folder / INDEX).get("weight_map")
        if not isinstance(table, dict) or not table:
            raise ModelError(f"{folder / INDEX} has no weight_map")
        names = sorted({str(name) for name in table.values()})
        if any(Path(name).name != name for name in names):
            raise ModelError(f"{folder / INDEX} names files outside of its folder")
        return [folder / name for name in names]
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    if next(folder.glob("*.bin"), None) is not None:
        raise ModelError(
            f"{folder} has only pickled weights, which run code when they are loaded",
            hint="convert it with `save_pretrained(..., safe_serialization=True)`",
        )
    if not folder.is_dir():
        raise ModelError(
            f"there is no folder {folder}",
            hint="name a folder with a stock safetensors checkpoint",
        )
    raise ModelError(
        f"{folder} has no {SINGLE}",
        hint="name a folder with a stock safetensors checkpoint",
    )


class CheckpointWriter:
    """A new stock checkpoint, sharded as the stock library would."""

    def __init__(
        self,
        folder: Path,
        shapes: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
        metadata: Mapping[str, str],
        *,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        """`folder` exists and is empty; `shapes` are all tensors that will come."""
        groups = _grouped(shapes, shard_bytes)
        single = len(groups) == 1
        self._folder = folder
        self._home: dict[str, TensorWriter] = {}
        self._writers: list[TensorWriter] = []
        table: dict[str, str] = {}
        total = 0
        for number, group in enumerate(groups, 1):
            name = (
                SINGLE
                if single
                else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
            )
            layout = Layout.of({n: shapes[n] for n in group}, metadata)
            writer = TensorWriter(folder / name, layout)
            self._writers.append(writer)
            self._home |= dict.fromkeys(group, writer)
            table |= dict.fromkeys(group, name)
            total += sum(slot.nbytes for slot in layout.slots.values())
        if not single:
            index = {"metadata": {"total_size": total}, "weight_map": table}
            (folder / INDEX).write_text(json.dumps(index, indent=1))

    def write(self, name: str, tensor: Tensor) -> None:
        """One tensor to its place, in any order."""
        writer = self._home.get(name)
        if writer is None:
            raise ModelError(f"{name} has no place in the checkpoint")
        writer.write(name, tensor)

    def close(self) -> None:
        """Everything on disk; `ModelError` if a tensor did not come."""
        for writer in self._writers:
            writer.close()


def _grouped(
    shapes: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], shard_bytes: int
) -> list[list[str]]:
    """In order, each group within `shard_bytes` unless one tensor alone is not."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, (dtype, shape) in shapes.items():
        size = Slot(dtype, shape, 0).nbytes
        if groups[-1] and filled + size > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups
