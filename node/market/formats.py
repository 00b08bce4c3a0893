"""What a file is, and what may be said of files of its kind without saying anything of one.

A description holds names of columns or fields, facts of the format (a modality, an
alphabet) and a count.  Values never: not a range, not a category, not a sample's name.
What is found in the files is checked like everything that is to be public; a field whose
name fails the check stops the publishing.

Readers look at headers only; pixels, bases and matrices stay unread.
"""

import csv
import gzip
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from node.market import DatasetError, privacy
from node.market.table import kind_of, parse_header
from protocol.listing import COLUMNS_LIMIT, DETAIL_LIMIT, DETAILS_LIMIT, Column

SNIFF_BYTES = 1 << 12
HEADER_LIMIT_BYTES = 1 << 24
"""Of a text file's header: a VCF of many contigs has a megabyte."""
_KIND_SAMPLE = 10_000
"""Rows of a table whose cells decide a column's kind."""

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


@dataclass
class Described:
    """Files of one kind, as they may be described."""

    columns: list[Column] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    records: list[int] = field(default_factory=list)
    """Of each file: rows of a table, otherwise 1."""
    warnings: list[str] = field(default_factory=list)


def sniff(path: Path) -> str:
    """The format's name, from the file's first bytes, then from its suffix."""
    head = _head(path)
    if head.startswith(b"\x1f\x8b"):
        head = _inflated(path)
    for name, matches in _MAGIC.items():
        if matches(head):
            return name
    return _SUFFIXES.get(path.suffix.lower(), "bytes")


def describe(format_: str, paths: Sequence[Path]) -> Described:
    """What may be said of `paths`, which all have this format."""
    found = _DESCRIBERS.get(format_, _plain)(paths)
    names = [column.name for column in found.columns]
    if len(names) > COLUMNS_LIMIT:
        raise DatasetError(f"{format_} files have {len(names)} columns or fields")
    privacy.check_column_names(names)
    found.details = sorted(set(found.details))[:DETAILS_LIMIT]
    for detail in found.details:
        privacy.check_text(f"a detail of {format_} files", detail)
    return found


def _plain(paths: Sequence[Path]) -> Described:
    return Described(records=[1] * len(paths))


def _csv(paths: Sequence[Path]) -> Described:
    found = Described()
    columns: tuple[str, ...] | None = None
    kinds: list[str] = []
    for path in paths:
        header, sample, rows = _csv_shape(path)
        if columns is None:
            columns = header
            kinds = [kind_of([row[i] for row in sample]) for i in range(len(header))]
        elif header != columns:
            raise DatasetError(
                f"{path} has other columns than {paths[0].name}",
                hint="one dataset is one table; publish the other apart",
            )
        else:
            kinds = [
                _wider(kinds[i], kind_of([row[i] for row in sample]))
                for i in range(len(header))
            ]
        found.records.append(rows)
    found.columns = list(map(Column, columns or (), kinds))
    return found


def _csv_shape(path: Path) -> tuple[tuple[str, ...], list[list[str]], int]:
    """Header, the first rows, and how many there are; the file is read as a stream."""
    sample: list[list[str]] = []
    rows = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = parse_header(tuple(next(reader, [])))
            for row in reader:
                if not row:
                    continue
                rows += 1
                if len(row) != len(header):
                    raise DatasetError(
                        f"{path} row {rows} has {len(row)} cells, the header has "
                        f"{len(header)}"
                    )
                if len(sample) < _KIND_SAMPLE:
                    sample.append(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} is not a CSV file in UTF-8: {error}") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    return header, sample, rows


def _wider(one: str, other: str) -> str:
    order = ("integer", "number", "text")
    return order[max(order.index(one), order.index(other))]


def _parquet(paths: Sequence[Path]) -> Described:
    import pyarrow.parquet as pq

    found = Described()
    schema: Any = None
    for path in paths:
        file = _parsed(path, partial(pq.ParquetFile, path))
        with file:
            if schema is not None and not schema.equals(file.schema_arrow):
                raise DatasetError(f"{path} has other columns than {paths[0].name}")
            schema = file.schema_arrow
            found.records.append(file.metadata.num_rows)
    found.columns = [Column(one.name, arrow_kind(one.type)) for one in schema]
    return found


def arrow_kind(type_: Any) -> str:
    """Our word for an Arrow type."""
    import pyarrow.types as kinds

    if kinds.is_integer(type_) or kinds.is_boolean(type_):
        return "integer"
    if kinds.is_floating(type_) or kinds.is_decimal(type_):
        return "number"
    return "text"


# DICOM attributes whose presence may be told; identifying ones are not among them
# (PS3.15, annex E, lists those).  The values told are codes from closed lists.
_DICOM_FIELDS = (
    *("Modality", "SOPClassUID", "BodyPartExamined", "PatientSex", "PatientAge"),
    *("Rows", "Columns", "BitsStored", "PixelSpacing", "SliceThickness"),
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames"),
)
_DICOM_IDENTIFYING = ("PatientName", "PatientBirthDate", "PatientID", "PatientAddress")
_CODE = re.compile(r"[A-Z]{2,16}")


def _dicom(paths: Sequence[Path]) -> Described:
    present: set[str] = set()
    identifying = 0
    found = Described(records=[1] * len(paths))
    for path in paths:
        header = dicom_header(path, (*_DICOM_FIELDS, *_DICOM_IDENTIFYING))
        if "SOPClassUID" not in header:
            # Every kind of DICOM object has it, and pydicom reads almost anything.
            raise DatasetError(f"{path} is not a DICOM object")
        present |= {name for name in _DICOM_FIELDS if name in header}
        identifying += any(header.get(name) for name in _DICOM_IDENTIFYING)
        modality = str(header.get("Modality", ""))
        if _CODE.fullmatch(modality):
            found.details.append(f"modality {modality}")
    found.columns = [Column(n, "text") for n in _DICOM_FIELDS if n in present]
    if identifying:
        found.warnings.append(
            f"{identifying} DICOM files carry a patient's name, birth date, number or "
            "address; grantees will read them"
        )
    return found


def dicom_header(path: Path, names: Sequence[str]) -> Any:
    """The named attributes of a DICOM file, without its pixels."""
    import pydicom

    return _parsed(
        path,
        lambda: pydicom.dcmread(
            path, stop_before_pixels=True, specific_tags=list(names)
        ),
    )


def _image(paths: Sequence[Path]) -> Described:
    return Described(records=[1] * len(paths))


def _fasta(paths: Sequence[Path]) -> Described:
    found = Described(records=[1] * len(paths))
    for path in paths:
        letters: set[str] = set()
        for line in _lines(path, HEADER_LIMIT_BYTES, cut=True):
            if not line.startswith(">"):
                letters |= set(line.upper())
        known = letters <= set("ACGTUNRYSWKMBDHV-.")
        found.details.append("nucleotide sequences" if known else "protein sequences")
    return found


_VCF_FIELD = re.compile(r"##(INFO|FORMAT)=<ID=([A-Za-z0-9_.]{1,40}),.*?Type=(\w+)")
_VCF_KINDS = {"Integer": "integer", "Float": "number"}


def _vcf(paths: Sequence[Path]) -> Described:
    found = Described(records=[1] * len(paths))
    fields: dict[str, str] = {}
    for path in paths:
        for line in _lines(path, HEADER_LIMIT_BYTES):
            if not line.startswith("##"):
                break  # the next line names the samples: nothing of it is told
            if line.startswith("##fileformat=VCFv") and len(line) < DETAIL_LIMIT:
                found.details.append(line.removeprefix("##fileformat="))
            if match := _VCF_FIELD.match(line):
                where, name, type_ = match.groups()
                fields[f"{where}.{name}"] = _VCF_KINDS.get(type_, "text")
    found.columns = [Column(name, kind) for name, kind in sorted(fields.items())]
    return found


def _h5ad(paths: Sequence[Path]) -> Described:
    import h5py

    found = Described(records=[1] * len(paths))
    names: dict[str, str] = {}
    for path in paths:
        with _parsed(path, partial(h5py.File, path, "r")) as file:
            observations = file.get("obs")
            if not isinstance(observations, h5py.Group):
                raise DatasetError(
                    f"{path} is HDF5 but not AnnData: it has no group `obs`",
                    hint="write it with anndata's write_h5ad",
                )
            order = observations.attrs.get("column-order", list(observations))
            for name in order:
                names[str(name)] = _h5_kind(observations.get(name))
            found.details += [f"has {one}" for one in ("X", "raw") if one in file]
    found.columns = [Column(name, kind) for name, kind in names.items()]
    return found


def _h5_kind(value: Any) -> str:
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    return {"i": "integer", "u": "integer", "b": "integer", "f": "number"}.get(
        kind, "text"
    )


_EDF_HEAD = 256


def _edf(paths: Sequence[Path]) -> Described:
    """Labels of the signals; who was measured and when stands before them, unread."""
    found = Described(records=[1] * len(paths))
    labels: dict[str, str] = {}
    for path in paths:
        with _opened(path) as file:
            head = file.read(_EDF_HEAD)
            try:
                count = int(head[252:256])
                if not 1 <= count <= COLUMNS_LIMIT:
                    raise ValueError
                raw = file.read(16 * count).decode("ascii")
            except ValueError as error:
                raise DatasetError(f"{path} is not an EDF file") from error
        for start in range(0, 16 * count, 16):
            if label := raw[start : start + 16].strip():
                labels[label] = "number"
    found.columns = [Column(label, kind) for label, kind in labels.items()]
    return found


_DESCRIBERS: Mapping[str, Callable[[Sequence[Path]], Described]] = {
    "csv": _csv,
    "parquet": _parquet,
    "dicom": _dicom,
    "fasta": _fasta,
    "vcf": _vcf,
    "h5ad": _h5ad,
    "edf": _edf,
}


def _head(path: Path) -> bytes:
    with _opened(path) as file:
        return file.read(SNIFF_BYTES)


def _inflated(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read(SNIFF_BYTES)
    except (OSError, EOFError):
        return b""  # another use of the two bytes: sniffed by its suffix


def _lines(path: Path, limit: int, *, cut: bool = False) -> Iterator[str]:
    """Lines of a text file, which may be gzipped, up to `limit` bytes.

    Beyond, `cut` ends quietly; without it the file is refused.
    """
    compressed = _head(path).startswith(b"\x1f\x8b")
    size = 0
    try:
        with gzip.open(path) if compressed else path.open("rb") as file:
            for line in io.TextIOWrapper(file, "utf-8", "replace"):
                size += len(line)
                if size > limit:
                    if cut:
                        return
                    raise DatasetError(f"the header of {path} exceeds {limit} bytes")
                yield line.rstrip("\r\n")
    except (OSError, EOFError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def _opened(path: Path) -> io.BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DatasetError:
    return DatasetError(
        f"{path} cannot be read: {error.strerror}",
        hint="check the path and its permissions",
    )


def _parsed(path: Path, read: Callable[[], Any]) -> Any:
    """What a format's library makes of a file; each has errors of its own."""
    try:
        return read()
    except ImportError as error:
        raise DatasetError(
            f"{path} needs a package that is not installed: {error.name}",
            hint="install the institution extra: pip install 'rexis[institution]'",
        ) from error
    except Exception as error:
        # pyarrow, h5py and pydicom raise what they like at a file that is none of theirs.
        raise DatasetError(
            f"{path} cannot be read as what it seems to be: {type(error).__name__}"
        ) from error
