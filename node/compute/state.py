"""A model's state on disk, named by its root, and the scales its next sum is rounded with.

The state of a run is one flat float32 vector in a fixed layout.  Its root is the Merkle root
over 1 MiB chunks, so that equal bytes have one name and a member that falls behind can
fetch and check one chunk at a time.
"""

import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.errors import ComputeError
from protocol import merkle
from protocol.types import Digest

CHUNK_BYTES = 1 << 20
_ASIDE = ".part"

Vector = NDArray[np.float32]


def root_of(data: bytes | memoryview) -> Digest:
    """Merkle root over the chunks of `data`."""
    view = memoryview(data)
    return merkle.root(
        [view[i : i + CHUNK_BYTES] for i in range(0, len(view), CHUNK_BYTES)]
    )


def state_root(state: Vector) -> Digest:
    """Root over the little-endian bytes of `state`."""
    return root_of(_bytes(state))


def path_of(folder: Path, root: bytes) -> Path:
    """Where the bytes called `root` lie."""
    return folder / f"{root.hex()}.state"


def write_bytes(folder: Path, data: bytes | memoryview) -> Digest:
    """Put `data` under its root; on disk when this returns."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    root = root_of(data)
    write_file(path_of(folder, root), data)
    return root


def read_bytes(folder: Path, root: bytes) -> bytes:
    """The bytes called `root`, checked."""
    return _checked(folder, root, np.dtype(np.uint8)).tobytes()


def write(folder: Path, state: Vector) -> Digest:
    """Put `state` under its root; on disk when this returns."""
    return write_bytes(folder, _bytes(state))


def read(folder: Path, root: bytes, size: int) -> Vector:
    """The state called `root`, checked."""
    path = path_of(folder, root)
    if path.exists() and path.stat().st_size != 4 * size:
        raise ComputeError(
            f"state {root.hex()[:16]} has {path.stat().st_size} bytes, needs {4 * size}"
        )
    found: Vector = _checked(folder, root, np.dtype("<f4"))
    return found


def _checked(folder: Path, root: bytes, kind: np.dtype[Any]) -> NDArray[Any]:
    # Straight into the array: a state is as large as everything else in memory together.
    path = path_of(folder, root)
    try:
        found = np.fromfile(path, kind)
    except OSError as error:
        raise ComputeError(
            f"state {root.hex()[:16]} is not on this node",
            hint="it belongs to a run this node did not finish",
        ) from error
    if root_of(found.data.cast("B")) != root:
        raise ComputeError(
            f"{path} is damaged: its root is not {root.hex()[:16]}",
            hint="remove the file; it is in every other member's folder as well",
        )
    return found


def _bytes(state: Vector) -> memoryview:
    return np.ascontiguousarray(state, "<f4").data.cast("B")


def write_file(path: Path, data: bytes | memoryview) -> None:
    """All of `data` under `path`, or nothing: written aside, synced, renamed.

    Each writer has a name of its own aside: two audits of one model write the same file.
    """
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}{_ASIDE}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def tidy(folder: Path) -> None:
    """Remove what a crash left half written; nobody may be writing."""
    for left in folder.glob(f"*{_ASIDE}"):
        left.unlink()
