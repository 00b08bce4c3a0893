"""What may be said of files of a kind without saying anything of one.

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
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from node.market import DatasetError, privacy, whole
from node.market.kinds import broken_suffix, is_gzipped, opened, unreadable
from node.market.parquet import plain
from node.market.table import kind_of, parse_header, require_commas
from protocol.listing import COLUMNS_LIMIT, DETAIL_LIMIT, DETAILS_LIMIT, Column

HEADER_LIMIT_BYTES = 1 << 24
"""Of a text file's header: a VCF of many contigs has a megabyte."""
_KIND_SAMPLE = 10_000
"""Rows of a table whose cells decide a column's kind."""

Read = TypeVar("Read")


@dataclass
class Described:
    """Files of one kind, as they may be described."""

    columns: list[Column] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    records: list[int] = field(default_factory=list)
    """Of each file: rows of a table, otherwise 1."""
    warnings: list[str] = field(default_factory=list)


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


def _bytes(paths: Sequence[Path]) -> Described:
    """Files that are nothing we know; the owner is told of those that are called it."""
    found = _plain(paths)
    called = [suffix for path in paths if (suffix := broken_suffix(path))]
    found.warnings = [
        f"{called.count(suffix)} files are called {suffix} and are not: broken, or of "
        "another kind; they are listed as bytes"
        for suffix in sorted(set(called))
    ]
    return found


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
            require_commas(header)
            for row in reader:
                if not row:
                    continue
                rows += 1
                if len(row) != len(header):
                    raise DatasetError(
                        f"{path} row {rows} has {len(row)} cells, the header has "
                        f"{len(header)}",
                        hint="the file may be cut, or a cell with a comma lacks its quotes",
                    )
                if len(sample) < _KIND_SAMPLE:
                    sample.append(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} is not a CSV file in UTF-8: {error}") from error
    except OSError as error:
        raise unreadable(path, error) from error
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
    found.columns = [Column(one.name, arrow_kind(plain(one.type))) for one in schema]
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
            raise DatasetError(f"{path} is not a DICOM object", hint=whole.HINT)
        present |= {name for name in _DICOM_FIELDS if name in header}
        identifying += any(header.get(name) for name in _DICOM_IDENTIFYING)
        modality = header.get("Modality", "")
        if _CODE.fullmatch(modality):
            found.details.append(f"modality {modality}")
    found.columns = [Column(n, "text") for n in _DICOM_FIELDS if n in present]
    if identifying:
        found.warnings.append(
            f"{identifying} DICOM files carry a patient's name, birth date, number or "
            "address; grantees will read them"
        )
    return found


def dicom_header(path: Path, names: Sequence[str]) -> dict[str, str]:
    """The named attributes that a DICOM file has, as text, without its pixels."""
    return _parsed(path, partial(_attributes, path, names))


def _attributes(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Read to the pixels: pydicom looks at a value only when it is asked for."""
    import pydicom

    with opened(path) as file:
        found = pydicom.dcmread(
            file, stop_before_pixels=True, specific_tags=list(names)
        )
        whole.require_pixels(
            path, file, str(found.file_meta.get("TransferSyntaxUID", ""))
        )
    return {name: str(found.get(name) or "") for name in names if name in found}


def _fasta(paths: Sequence[Path]) -> Described:
    found = Described(records=[1] * len(paths))
    for path in paths:
        whole.require_archive(path)
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
        whole.require_archive(path)
        line = ""
        for line in _lines(path, HEADER_LIMIT_BYTES):
            if not line.startswith("##"):
                break  # the next line names the samples: nothing of it is told
            if line.startswith("##fileformat=VCFv") and len(line) < DETAIL_LIMIT:
                found.details.append(line.removeprefix("##fileformat="))
            if match := _VCF_FIELD.match(line):
                where, name, type_ = match.groups()
                fields[f"{where}.{name}"] = _VCF_KINDS.get(type_, "text")
        if not line.startswith("#CHROM"):
            raise DatasetError(
                f"{path} has no line #CHROM after its header", hint=whole.HINT
            )
    found.columns = [Column(name, kind) for name, kind in sorted(fields.items())]
    return found


def _h5ad(paths: Sequence[Path]) -> Described:
    found = Described(records=[1] * len(paths))
    names: dict[str, str] = {}
    for path in paths:
        more, details = _parsed(path, partial(_annotations, path))
        names |= more
        found.details += details
    found.columns = [Column(name, kind) for name, kind in names.items()]
    return found


def _annotations(path: Path) -> tuple[dict[str, str], list[str]]:
    """Names and kinds of what is known of each cell, and which matrices there are."""
    import h5py

    with h5py.File(path, "r") as file:
        observations = file.get("obs")
        if not isinstance(observations, h5py.Group):
            raise DatasetError(
                f"{path} is HDF5 but not AnnData: it has no group `obs`",
                hint="write it with anndata's write_h5ad",
            )
        order = observations.attrs.get("column-order", list(observations))
        names = {str(name): _h5_kind(observations.get(name)) for name in order}
        return names, [f"has {one}" for one in ("X", "raw") if one in file]


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
        with opened(path) as file:
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
    "bytes": _bytes,
    "csv": _csv,
    "parquet": _parquet,
    "dicom": _dicom,
    "fasta": _fasta,
    "vcf": _vcf,
    "h5ad": _h5ad,
    "edf": _edf,
}


def _lines(path: Path, limit: int, *, cut: bool = False) -> Iterator[str]:
    """Lines of a text file, which may be gzipped, up to `limit` bytes.

    Beyond, `cut` ends quietly; without it the file is refused.  A chromosome may be a
    single line: no more than `limit` of it comes into memory.
    """
    size = 0
    try:
        with gzip.open(path) if is_gzipped(path) else path.open("rb") as file:
            text = io.TextIOWrapper(file, "utf-8", "replace")
            while size <= limit and (line := text.readline(limit + 1 - size)):
                size += len(line)
                if size > limit and not cut:
                    raise DatasetError(f"the header of {path} exceeds {limit} bytes")
                yield line.rstrip("\r\n")
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(
            f"{path} cannot be read: {error}", hint=whole.HINT
        ) from error


def _parsed(path: Path, read: Callable[[], Read]) -> Read:
    """What a format's library makes of a file; each has errors of its own."""
    try:
        return read()
    except DatasetError:
        raise
    except ImportError as error:
        raise DatasetError(
            f"{path} needs a package that is not installed: {error.name}",
            hint="install the institution extra: pip install 'rexis[institution]'",
        ) from error
    except Exception as error:
        # pyarrow, h5py and pydicom raise what they like at a file that is none of theirs.
        raise DatasetError(
            f"{path} cannot be read as what it seems to be: {type(error).__name__}",
            hint=whole.HINT,
        ) from error
