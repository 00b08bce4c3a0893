"""The plaintext of a unit as one stream that starts anywhere: bytes, a file, or a tar.

A tar is never written to disk.  Its layout follows from names and sizes alone (ustar or
pax headers, no owner, no time, mode 0600), so the stream can be taken up at any offset
after a crash, and the same files always give the same bytes.
"""

import io
import os
import tarfile
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from node.market import DatasetError

PAD_BYTES = 1 << 16
"""A tar ends on a multiple of this: its length is seen by all grantees."""
_BLOCK_BYTES = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class File:
    """A file as it was found; read later, it must be the same."""

    path: Path
    name: str
    """Inside the unit, with forward slashes."""
    size: int
    modified_ns: int

    @classmethod
    def found(cls, path: Path, name: str) -> "File":
        try:
            status = path.stat()
        except OSError as error:
            raise DatasetError(
                f"{path} cannot be read: {error.strerror}",
                hint="name what this daemon can read",
            ) from error
        return cls(path, name, status.st_size, status.st_mtime_ns)


Extent = bytes | File


class Stream:
    """Extents, one after another; a `node.market.body.Source`."""

    def __init__(self, extents: Sequence[Extent]) -> None:
        self._extents = extents
        self._starts = [0]
        for extent in extents:
            size = extent.size if isinstance(extent, File) else len(extent)
            self._starts.append(self._starts[-1] + size)
        self._offset = 0
        self._open: tuple[int, io.FileIO] | None = None

    @property
    def size(self) -> int:
        return self._starts[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def seek(self, offset: int, /) -> int:
        self._offset = min(offset, self.size)
        return self._offset

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill from one extent; 0 at the end of the last."""
        while self._offset < self.size:
            place = bisect_right(self._starts, self._offset) - 1
            left = self._starts[place + 1] - self._offset
            view = buffer[: min(len(buffer), left)]
            count = self._from_extent(place, self._offset - self._starts[place], view)
            self._offset += count
            if count:
                return count
        return 0

    def _from_extent(self, place: int, inside: int, view: memoryview) -> int:
        extent = self._extents[place]
        if not isinstance(extent, File):
            piece = memoryview(extent)[inside : inside + len(view)]
            view[: len(piece)] = piece
            return len(piece)
        file = self._file(place, extent)
        file.seek(inside)
        count = file.readinto(view)
        if not count or inside + count == extent.size:
            _require_same(extent, file)
        return count

    def _file(self, place: int, extent: File) -> io.FileIO:
        if self._open is not None and self._open[0] == place:
            return self._open[1]
        self._close()
        try:
            file = extent.path.open("rb", buffering=0)
        except OSError as error:
            raise DatasetError(
                f"{extent.path} cannot be read: {error.strerror}",
                hint="check the path and its permissions",
            ) from error
        self._open = (place, file)
        _require_same(extent, file)
        return file

    def _close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None


def _require_same(extent: File, file: io.FileIO) -> None:
    status = os.fstat(file.fileno())
    if (status.st_size, status.st_mtime_ns) != (extent.size, extent.modified_ns):
        raise DatasetError(
            f"{extent.path} changed while it was read",
            hint="publish again when nobody writes there",
        )


def packed(files: Sequence[File]) -> list[Extent]:
    """The extents of a tar of `files`, padded."""
    extents: list[Extent] = []
    total = 0
    for file in files:
        info = tarfile.TarInfo(file.name)
        info.size = file.size
        info.mode = 0o600
        head = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
        fill = bytes(-file.size % _BLOCK_BYTES)
        extents += [head, file, fill]
        total += len(head) + file.size + len(fill)
    end = 2 * _BLOCK_BYTES
    extents.append(bytes(end + -(total + end) % PAD_BYTES))
    # Empty extents would only be stepped over.
    return [one for one in extents if isinstance(one, File) or one]
