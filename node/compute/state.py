"""A model's state on disk, named by its root, and the scales its next sum is rounded with.

The state of a run is one flat float32 vector in a fixed layout.  Its root is the Merkle root
over 1 MiB chunks, so that equal bytes have one name and a member that falls behind can
fetch and check one chunk at a time.
"""

import os
import secrets
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from node.disk import sync_folder, write_all
from node.errors import ComputeError
from protocol import merkle
from protocol.types import Digest

CHUNK_BYTES = 1 << 20
_ASIDE = ".part"
_SPARE = ".spare" + _ASIDE

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


def write(folder: Path, state: Vector) -> Digest:
    """Put `state` under its root; on disk when this returns."""
    return write_bytes(folder, _bytes(state))


def read(folder: Path, root: bytes, size: int) -> Vector:
    """The state called `root`, checked."""
    # Straight into the array: a state is as large as everything else in memory together.
    with open_state(folder, root, size) as file:
        found: Vector = np.fromfile(file, "<f4")
    _require_root(folder, root, root_of(found.data.cast("B")))
    return found


def read_last(folder: Path, root: bytes, count: int) -> bytes:
    """The last `count` bytes of those called `root`; all are checked, a chunk at a time."""
    try:
        file = path_of(folder, root).open("rb")
    except OSError as error:
        raise _absent(root) from error
    with file:
        size = os.fstat(file.fileno()).st_size
        if size < count:
            raise ComputeError(
                f"state {root.hex()[:16]} has {size} bytes, needs {count}"
            )
        # Before the check, which so is of these bytes too should the state be retired meanwhile.
        file.seek(size - count)
        last = file.read(count)
        file.seek(0)
        chunks = iter(lambda: file.read(CHUNK_BYTES), b"")
        found = merkle.root_of_digests([merkle.leaf_digest(each) for each in chunks])
        _require_root(folder, root, found)
        return last


def _require_root(folder: Path, root: bytes, found: Digest) -> None:
    if found != root:
        if not path_of(folder, root).exists():
            raise _absent(root)  # retired while it was read
        raise ComputeError(
            f"{path_of(folder, root)} is damaged: its root is not {root.hex()[:16]}",
            hint="remove the file; it is in every other member's folder as well",
        )


def _absent(root: bytes) -> ComputeError:
    return ComputeError(
        f"state {root.hex()[:16]} is not on this node",
        hint="it belongs to a run this node did not finish",
    )


def _bytes(state: Vector) -> memoryview:
    return np.ascontiguousarray(state, "<f4").data.cast("B")


def write_file(path: Path, data: bytes | memoryview) -> None:
    """All of `data` under `path`, or nothing: written aside, synced, renamed.

    Each writer has a name of its own aside: two audits of one model write the same file.
    """
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}{_ASIDE}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb", buffering=0):
            write_all(descriptor, data)
            os.fsync(descriptor)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


class StateFile:
    """A state being written piece by piece; hashed as it goes, while the piece is in the cache.

    Leaving its context without `commit` drops it.
    """

    def __init__(self, folder: Path, size_bytes: int) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._part = folder / f"{secrets.token_hex(8)}{_ASIDE}"
        with suppress(FileNotFoundError):
            _spare(folder, size_bytes).replace(self._part)
        self._file = os.open(self._part, os.O_WRONLY | os.O_CREAT, 0o600)
        self._left = size_bytes
        self._leaves: list[Digest] = []
        self._leaf, self._room = merkle.leaf(), CHUNK_BYTES
        if size_bytes:
            # A full disk says so at once, and a file of its final size takes writes faster.
            os.posix_fallocate(self._file, 0, size_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self._file)
        self._part.unlink(missing_ok=True)

    def write(self, data: memoryview) -> None:
        """The next bytes; together as many as were announced."""
        self._left -= len(data)
        while data:
            piece, data = data[: self._room], data[self._room :]
            self._leaf.update(piece)
            self._room -= len(piece)
            if not self._room:
                self._close_leaf()
            write_all(self._file, piece)

    def commit(self) -> Digest:
        """Its root; on disk under that name when this returns."""
        if self._left:
            raise ComputeError(f"{self._left} bytes of a state were not written")
        if self._room < CHUNK_BYTES:
            self._close_leaf()
        root = merkle.root_of_digests(self._leaves)
        os.fsync(self._file)
        self._part.replace(path_of(self._folder, root))
        sync_folder(self._folder)
        return root

    def _close_leaf(self) -> None:
        self._leaves.append(Digest(self._leaf.digest()))
        self._leaf, self._room = merkle.leaf(), CHUNK_BYTES


def open_state(folder: Path, root: bytes, size: int, behind: int = 0) -> FileIO:
    """The file called `root` of `size` entries and `behind` bytes; its root is not checked."""
    path = path_of(folder, root)
    try:
        file = path.open("rb", 0)
    except OSError as error:
        raise _absent(root) from error
    found, needed = os.fstat(file.fileno()).st_size, 4 * size + behind
    if found != needed:
        file.close()
        raise ComputeError(f"state {root.hex()[:16]} has {found} bytes, needs {needed}")
    return file


def filled(file: FileIO, into: Vector) -> Vector:
    """`into`, with the next entries of a state's file in it."""
    view = into.data.cast("B")
    while view:
        count = file.readinto(view)
        if not count:
            raise ComputeError(f"a state ends {len(view)} bytes early")
        view = view[count:]
    return into


def mapped(folder: Path, root: bytes, size: int) -> Vector:
    """The state called `root` without a copy and without a check; changes stay in memory."""
    return np.memmap(path_of(folder, root), "<f4", "c", shape=(size,))


def retire(folder: Path, root: bytes) -> None:
    """Forget the state called `root`, and leave its room to the next of its size.

    That one is written over it: a run whose first rounds found the space needs no more of a disk
    that fills up, and to free and find tens of megabytes each round costs the system more than
    to copy them.  Whoever has the file open reads another state from then on, so what matters
    is checked against its root, or read while the name is there.  A file with a second name,
    such as a backup by links, belongs to that one and is left alone.
    """
    path = path_of(folder, root)
    with suppress(FileNotFoundError):
        found = path.stat()
        if found.st_nlink > 1:
            path.unlink()
        else:
            path.replace(_spare(folder, found.st_size))


def tidy(folder: Path) -> None:
    """Remove what a crash left half written, and spare room; nobody may be writing."""
    for left in folder.glob(f"*{_ASIDE}"):
        left.unlink()


def drop_spares(folder: Path) -> None:
    """Give back the room that `retire` kept."""
    for left in folder.glob(f"*{_SPARE}"):
        left.unlink(missing_ok=True)


def _spare(folder: Path, size: int) -> Path:
    return folder / f"{size}{_SPARE}"
