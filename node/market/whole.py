"""Whether a file is all there, as far as its format says so without its content being read.

A copy that broke off has a good head: it would be listed, sealed and granted, and a grantee would
be the first to see it, with a listing that cannot be unpublished.  The formats whose libraries
find that themselves (Parquet, HDF5) are not here, and neither are those that say nothing of their
end (FASTA, plain VCF).
"""

import gzip
import os
import struct
import zlib
from pathlib import Path
from typing import IO

from node.market import DatasetError
from node.market.kinds import is_gzipped, opened, unreadable

HINT = "it may be cut or damaged: take it from its source again, or leave it out"
INFLATED_LIMIT_BYTES = 1 << 26
"""Of a gzip that is no BGZF and says nothing of its end: a second's work, and not a genome's."""
_PIECE_BYTES = 1 << 20
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
"""The empty block at the end of each BGZF file (SAM specification, 4.1.2)."""

_PIXELS = {0x7FE00008, 0x7FE00009, 0x7FE00010}
_DEFLATED = "1.2.840.10008.1.2.1.99"
_IMPLICIT = "1.2.840.10008.1.2"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_UNDEFINED = 0xFFFFFFFF
_ITEM = 0xFFFEE000


def require_archive(path: Path) -> None:
    """Raise `DatasetError` if `path` is gzipped and breaks off; large ones are told by BGZF only."""
    if not is_gzipped(path):
        return
    size = path.stat().st_size
    with opened(path) as file:
        head = file.read(18)
        if head[3] & 4 and head[12:14] == b"BC":
            file.seek(max(0, size - len(_BGZF_END)))
            if file.read() != _BGZF_END:
                raise DatasetError(f"{path} lacks the end of a BGZF file", hint=HINT)
            return
    if size <= INFLATED_LIMIT_BYTES:
        _inflate(path)


def _inflate(path: Path) -> None:
    read = 0
    try:
        with gzip.open(path) as file:
            # A bomb ends here as well: what is not read is not judged.
            while read < 16 * INFLATED_LIMIT_BYTES and (
                piece := file.read(_PIECE_BYTES)
            ):
                read += len(piece)
    except OSError as error:
        if error.errno is not None:
            raise unreadable(path, error) from error
        raise DatasetError(f"{path} cannot be read: {error}", hint=HINT) from error
    except (EOFError, zlib.error) as error:
        raise DatasetError(f"{path} cannot be read: {error}", hint=HINT) from error


def require_pixels(path: Path, file: IO[bytes], syntax: str) -> None:
    """Raise `DatasetError` if the pixels of a DICOM file reach beyond its end.

    `file` stands where reading stopped before them.
    """
    if syntax == _DEFLATED:
        return  # one stream, which was read
    order = ">" if syntax == _BIG_ENDIAN else "<"
    end = os.fstat(file.fileno()).st_size
    head = file.read(8 if syntax == _IMPLICIT else 12)
    if len(head) < 8 or _tag(head, order) not in _PIXELS:
        return
    if len(head) == 8 and syntax != _IMPLICIT:
        raise _cut(path, end, end + 4)
    (length,) = struct.unpack(f"{order}I", head[-4:])
    if length != _UNDEFINED:
        if file.tell() + length > end:
            raise _cut(path, end, file.tell() + length)
        return
    while True:
        item = file.read(8)
        if len(item) < 8:
            raise _cut(path, end, end + 8 - len(item))
        if _tag(item, order) != _ITEM:
            return  # the end of the items; whatever else is pydicom's to judge
        (length,) = struct.unpack(f"{order}I", item[4:])
        if file.seek(length, os.SEEK_CUR) > end:
            raise _cut(path, end, file.tell())


def _tag(head: bytes, order: str) -> int:
    group, element = struct.unpack(f"{order}HH", head[:4])
    return int(group << 16 | element)


def _cut(path: Path, size: int, needed: int) -> DatasetError:
    return DatasetError(
        f"{path} has {size} bytes, its pixels need {needed} or more", hint=HINT
    )
