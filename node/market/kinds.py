"""What a file is, by its first bytes; by its suffix only where the bytes say nothing."""

import gzip
import io
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from node.market import DatasetError

SNIFF_BYTES = 1 << 12

_MAGIC: Mapping[str, Callable[[bytes], bool]] = {
    "dicom": lambda head: head[128:132] == b"DICM",
    "png": lambda head: head.startswith(b"\x89PNG\r\n\x1a\n"),
    "jpeg": lambda head: head.startswith(b"\xff\xd8\xff"),
    "tiff": lambda head: head[:4] in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"},
    "parquet": lambda head: head.startswith(b"PAR1"),
    "edf": lambda head: head[:8] in {b"0       ", b"\xffBIOSEMI"},
    "h5ad": lambda head: head.startswith(b"\x89HDF\r\n\x1a\n"),
    "vcf": lambda head: head.startswith(b"##fileformat=VCF"),
    "fasta": lambda head: re.match(rb">[^\n]+\n[A-Za-z*\-\r\n]+", head) is not None,
    "nifti": lambda head: head[344:348] in {b"n+1\0", b"ni1\0"},
}
_SUFFIXES = {
    ".csv": "csv",
    ".hea": "wfdb",
    ".dat": "wfdb",
    ".atr": "wfdb",
}
_TOLD_BY_BYTES = frozenset(
    {
        *(".dcm", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".nii", ".parquet"),
        *(".edf", ".bdf", ".h5ad", ".vcf", ".fa", ".fasta"),
    }
)


def sniff(path: Path) -> str:
    """The format's name, from the file's first bytes, then from its suffix."""
    head = _head(path)
    if head.startswith(b"\x1f\x8b"):
        head = _inflated(path)
    for name, matches in _MAGIC.items():
        if matches(head):
            return name
    return _SUFFIXES.get(path.suffix.lower(), "bytes")


def broken_suffix(path: Path) -> str | None:
    """The suffix of a file that is nothing we know, where it promises a format."""
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    return suffix if suffix in _TOLD_BY_BYTES else None


def is_gzipped(path: Path) -> bool:
    return _head(path).startswith(b"\x1f\x8b")


def _head(path: Path) -> bytes:
    with opened(path) as file:
        return file.read(SNIFF_BYTES)


def _inflated(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read(SNIFF_BYTES)
    except (OSError, EOFError, zlib.error):
        return b""  # another use of the two bytes: sniffed by its suffix


def opened(path: Path) -> io.BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> DatasetError:
    return DatasetError(
        f"{path} cannot be read: {error.strerror}",
        hint="check the path and its permissions",
    )
