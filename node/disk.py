"""What every writer of files needs: a name that lasts, and a disk's complaints in our words."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from node.errors import NoSpaceError, StorageError

PIECE_BYTES = 1 << 15
"""Written at once.  The page cache takes a write in folios as large as it is, and only small ones
are kept at hand; what has to be made of fresh memory is dear.  Beside four members that wrote, a
probe of 42 MB took 8 ms in these pieces and mostly 100 ms in larger ones (docs/benchmarks.md)."""

FREE = "free space on the disk that holds the home; nothing was lost"


def sync_folder(path: Path) -> None:
    """A rename is durable only once the folder that holds the name is (fsync(2))."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(file: int, data: bytes | memoryview, offset: int | None = None) -> None:
    """Write all of `data` to the descriptor: at `offset`, or where the file stands."""
    view = memoryview(data)
    while view:  # a write may be short (write(2))
        piece = view[:PIECE_BYTES]
        if offset is None:
            done = os.write(file, piece)
        else:
            done = os.pwrite(file, piece, offset)
            offset += done
        view = view[done:]


@contextmanager
def mapped(what: bytes | Path) -> Iterator[None]:
    """Raise `StorageError` for what the system says of a file, or of the blob called `what`."""
    name = f"blob {what.hex()}" if isinstance(what, bytes) else str(what)
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(
            f"{name} is not here", hint="fetch it from a peer"
        ) from error
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise NoSpaceError(f"{name}: no space left on disk", hint=FREE) from error
        raise StorageError(
            f"{name}: {error.strerror}",
            hint="check that this user owns the home and that its disk is healthy",
        ) from error
