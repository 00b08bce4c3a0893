"""Safetensors files, one tensor in memory at a time.

The format is a little-endian 64-bit length, a JSON header that gives every tensor a dtype, a
shape and a range of bytes, and the bytes.  A reader that maps the file would count all of
it as memory in use; this one reads what it is asked for.  A writer lays the file out first,
so tensors may come in any order and go straight to their place.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from node.disk import write_all
from node.errors import ModelError

HEADER_LIMIT_BYTES = 100_000_000
"""The limit of the reference implementation."""
_KINDS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _KINDS.items()}


@dataclass(frozen=True)
class Slot:
    """Where a tensor lies in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """From the beginning of the file."""

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


class TensorFile:
    """An open safetensors file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise ModelError(
                f"cannot read {path}: {error.strerror}",
                hint="name a folder with a stock safetensors checkpoint",
            ) from error
        try:
            self.slots, self.metadata = self._header()
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def read(self, name: str) -> Tensor:
        """A tensor with memory of its own, which the caller may write into."""
        slot = self.slots[name]
        buffer = bytearray(slot.nbytes)
        self._fill(memoryview(buffer), slot.start)
        if not buffer:
            return torch.empty(slot.shape, dtype=slot.dtype)
        return torch.frombuffer(buffer, dtype=slot.dtype).reshape(slot.shape)

    def _fill(self, view: memoryview, start: int) -> None:
        done = 0
        while done < len(view):
            count = os.preadv(self._descriptor, [view[done:]], start + done)
            if count == 0:
                raise self._damaged("it ends too early")
            done += count

    def _header(self) -> tuple[dict[str, Slot], dict[str, str]]:
        total = os.fstat(self._descriptor).st_size
        prefix = bytearray(8)
        if total < len(prefix):
            raise self._damaged("it is too short for a header")
        self._fill(memoryview(prefix), 0)
        length = int.from_bytes(prefix, "little")
        if length > min(HEADER_LIMIT_BYTES, total - 8):
            raise self._damaged(f"its header of {length} bytes is too long")
        text = bytearray(length)
        self._fill(memoryview(text), 8)
        try:
            document = json.loads(bytes(text))
            metadata = dict(document.pop("__metadata__", {}))
            slots = {n: _slot(d, 8 + length) for n, d in document.items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise self._damaged(f"its header cannot be read: {error}") from error
        for name, slot in slots.items():
            if slot.start + slot.nbytes > total:
                raise self._damaged(f"{name} lies outside of it")
        return slots, metadata

    def _damaged(self, why: str) -> ModelError:
        return ModelError(
            f"{self.path} is no safetensors file: {why}",
            hint="fetch the checkpoint again",
        )


def _slot(described: Mapping[str, Any], base: int) -> Slot:
    start, end = described["data_offsets"]
    shape = tuple(int(extent) for extent in described["shape"])
    if min((*shape, 0)) < 0 or described["dtype"] not in _KINDS:
        raise ValueError(f"a tensor of {described['dtype']} and shape {list(shape)}")
    slot = Slot(_KINDS[described["dtype"]], shape, base + int(start))
    if not 0 <= start <= end or end - start != slot.nbytes:
        raise ValueError(f"{end - start} bytes for a tensor of {slot.nbytes}")
    return slot


@dataclass(frozen=True)
class Layout:
    """A file to be written: tensors in order, with their places."""

    slots: Mapping[str, Slot]
    header: bytes

    @classmethod
    def of(
        cls,
        tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
        metadata: Mapping[str, str],
    ) -> "Layout":
        document: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
        places: dict[str, tuple[torch.dtype, tuple[int, ...], int]] = {}
        offset = 0
        for name, (dtype, shape) in tensors.items():
            size = dtype.itemsize * math.prod(shape)
            document[name] = {
                "dtype": _NAMES[dtype],
                "shape": list(shape),
                "data_offsets": [offset, offset + size],
            }
            places[name] = (dtype, shape, offset)
            offset += size
        text = json.dumps(document, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
        base = 8 + len(text)
        slots = {n: Slot(d, s, base + at) for n, (d, s, at) in places.items()}
        return cls(slots, len(text).to_bytes(8, "little") + text)


class TensorWriter:
    """Fills one file; `close` insists that every tensor came."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self._path = path
        self._slots = dict(layout.slots)
        self._missing = set(self._slots)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        write_all(self._descriptor, layout.header, 0)

    def write(self, name: str, tensor: Tensor) -> None:
        """Put a tensor into its place; the dtype is the file's."""
        slot = self._slots[name]
        if tuple(tensor.shape) != slot.shape or name not in self._missing:
            raise ModelError(
                f"{name} of shape {tuple(tensor.shape)} does not fit {slot.shape} in"
                f" {self._path}, or came twice"
            )
        self._missing.discard(name)
        flat = tensor.detach().to(slot.dtype).contiguous().reshape(-1)
        if flat.numel():
            data = memoryview(flat.view(torch.uint8).numpy()).cast("B")
            write_all(self._descriptor, data, slot.start)

    def close(self) -> None:
        """Everything on disk."""
        os.fsync(self._descriptor)
        os.close(self._descriptor)
        if self._missing:
            raise ModelError(
                f"{self._path} lacks {len(self._missing)} tensors, first"
                f" {min(self._missing)}"
            )
