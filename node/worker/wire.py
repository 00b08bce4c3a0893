"""Frames between a key holder and a worker: one header, then raw tensors.

A frame is a 4-byte big-endian header length, a MessagePack header and the tensors' bytes in
the header's order, C-contiguous, little-endian.  Nothing is pickled; every length is checked
against its limit before a byte is allocated for it.
"""

import math
import socket
import struct
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from node.errors import ComputeError

HEADER_LIMIT_BYTES = 1 << 20
TENSOR_LIMIT_BYTES = 8 << 30
DTYPES = frozenset({"<f4", "<f8", "<i4", "|u1"})

Tensors = dict[str, NDArray[Any]]


class WorkerGone(Exception):  # noqa: N818 - an ordinary end of a session
    """The other side closed the connection."""


class NoRoomError(Exception):
    """Tensors came that no memory was given for; they were read and let go."""


def send(
    sock: socket.socket, header: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]
) -> None:
    """One frame out."""
    arrays = {
        name: np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        for name, array in tensors.items()
    }
    described = [[n, a.dtype.str, list(a.shape)] for n, a in arrays.items()]
    packed = msgpack.packb({**header, "tensors": described})
    if len(packed) > HEADER_LIMIT_BYTES:
        raise ComputeError(
            f"a worker frame's header has {len(packed)} bytes, limit is {HEADER_LIMIT_BYTES}"
        )
    sock.sendall(struct.pack(">I", len(packed)) + packed)
    for array in arrays.values():
        sock.sendall(array.reshape(-1).view(np.uint8).data)


def receive(sock: socket.socket) -> tuple[dict[str, Any], Tensors]:
    """One frame in; raises `WorkerGone` at a clean end."""
    (length,) = struct.unpack(">I", _exactly(sock, 4))
    if length > HEADER_LIMIT_BYTES:
        raise ComputeError(
            f"a worker frame's header has {length} bytes, limit is {HEADER_LIMIT_BYTES}"
        )
    try:
        header = msgpack.unpackb(_exactly(sock, length), strict_map_key=True)
        described = header.pop("tensors")
        plan = [(str(n), _dtype(d), tuple(map(int, s))) for n, d, s in described]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ComputeError(
            f"a worker frame's header cannot be read: {error}"
        ) from error
    total = sum(_nbytes(dtype, shape) for _, dtype, shape in plan)
    if total > TENSOR_LIMIT_BYTES:
        raise ComputeError(
            f"a worker frame has {total} bytes of tensors, limit is {TENSOR_LIMIT_BYTES}"
        )
    return header, _tensors(sock, plan, total)


def _tensors(
    sock: socket.socket,
    plan: list[tuple[str, np.dtype[Any], tuple[int, ...]]],
    total: int,
) -> Tensors:
    """All of a frame's tensors, or none: the next frame begins where this one ends."""
    tensors: Tensors = {}
    left = total
    try:
        for name, dtype, shape in plan:
            tensors[name] = np.empty(shape, dtype)
            left -= _read(sock, tensors[name])
    except MemoryError as error:
        tensors.clear()
        _skip(sock, left)
        raise NoRoomError(f"no room for a frame of {total} bytes") from error
    return tensors


def _dtype(text: str) -> np.dtype[Any]:
    if text not in DTYPES:
        raise ValueError(f"dtype {text!r} is not one of {sorted(DTYPES)}")
    return np.dtype(text)


def _nbytes(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    if len(shape) > 4 or any(extent < 0 for extent in shape):
        raise ComputeError(f"a worker frame describes a tensor of shape {shape}")
    return dtype.itemsize * math.prod(shape)


def _read(sock: socket.socket, array: NDArray[Any]) -> int:
    if array.nbytes:
        _fill(sock, array.reshape(-1).view(np.uint8).data)
    return array.nbytes


def _skip(sock: socket.socket, count: int) -> None:
    scrap = memoryview(bytearray(min(count, 1 << 16)))
    while count:
        size = min(count, len(scrap))
        _fill(sock, scrap[:size])
        count -= size


def _exactly(sock: socket.socket, length: int) -> bytes:
    buffer = bytearray(length)
    _fill(sock, memoryview(buffer))
    return bytes(buffer)


def _fill(sock: socket.socket, view: memoryview) -> None:
    done = 0
    while done < len(view):
        count = sock.recv_into(view[done:], min(len(view) - done, 1 << 20))
        if count == 0:
            raise WorkerGone("the other side closed the connection")
        done += count
