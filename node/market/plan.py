"""What will be encrypted: which bytes make which consent unit, and what is said of them.

A plan is made before anything is encrypted and costs a look at each file's header.  It
decides how the data are cut:

- one CSV or Parquet table is cut by rows, at will by a column that names the person; some of its
  columns may be all that is published of it;
- files are cut by `file` (a WFDB record is all of its files), by `folder` (the first below
  the directory given, say one for each patient) or, for DICOM, by `patient`.

More than 64 groups are put together with their neighbours, in the order of their names.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import msgspec

from node.market import DatasetError, formats, parquet, table
from node.market.kinds import sniff
from node.market.source import Extent, File, packed
from protocol.listing import COUNT_FLOOR, TABLES, UNITS_LIMIT, Column, Part
from protocol.types import Digest, digest

FILES_LIMIT = 100_000
_PATIENT = "patient"
_WAYS = ("file", "folder", _PATIENT)


@dataclass(frozen=True)
class Unit:
    """One consent unit's plaintext, unread, and how many records it has."""

    extents: tuple[Extent, ...]
    records: int
    names: tuple[str, ...]
    """What the owner calls what is in it: people, folders, files or rows.  Never published."""


@dataclass(frozen=True)
class Plan:
    """A dataset to be."""

    parts: tuple[Part, ...]
    packed: bool
    units: tuple[Unit, ...]
    warnings: tuple[str, ...] = field(default=())
    table: tuple[bytes, ...] = ()
    """Of one table: its digest whole, and the column that cuts it.  Never stored as they are."""

    def identity(self) -> list[bytes]:
        """What a keyed fingerprint names it by.

        Contents in memory; files by name, size and time of change: a terabyte is not
        read twice.
        """
        return [_identity(extent) for unit in self.units for extent in unit.extents] + [
            repr(len(self.units)).encode()
        ]

    @property
    def size(self) -> int:
        """Bytes of plaintext."""
        return sum(
            extent.size if isinstance(extent, File) else len(extent)
            for unit in self.units
            for extent in unit.extents
        )

    def rows(self) -> tuple[int | None, ...]:
        """Records of each unit, where they are enough to be shown."""
        return tuple(_shown(unit.records) for unit in self.units)


def _identity(extent: Extent) -> bytes:
    if isinstance(extent, File):
        seen = (str(extent.path), extent.name, extent.size, extent.modified_ns)
        return repr(seen).encode()
    return digest(extent)


def _shown(count: int) -> int | None:
    return count if count >= COUNT_FLOOR else None


WHOLE = "table"
"""What the one part of a table is called that is no group of columns."""


def of_paths(
    paths: Sequence[Path],
    unit_by: str | None,
    columns: Sequence[str] = (),
    group: str = WHOLE,
) -> Plan:
    """A plan for these files and folders; of one table for these columns, if any are named.

    `group` is what the owner calls these columns in public.
    """
    files = _found(paths)
    kinds = {file.path: sniff(file.path) for file in files}
    only = files[0] if len(files) == 1 else None
    # A table is no DICOM: there `patient` is a column, which many tables have.
    is_whole = unit_by in _WAYS and unit_by != _PATIENT
    if only is not None and kinds[only.path] in TABLES and not is_whole:
        if only.size <= table.TABLE_LIMIT_BYTES:
            made = _of_table(only, kinds[only.path], unit_by, columns)
            (part,) = made.parts
            return replace(made, parts=(msgspec.structs.replace(part, name=group),))
        if unit_by is not None or columns:
            raise DatasetError(
                f"{only.path} has {only.size} bytes; a table is cut by columns up to "
                f"{table.TABLE_LIMIT_BYTES}",
                hint="publish it as a folder with one file for each unit",
            )
    if columns:
        raise DatasetError(
            f"column {columns[0]!r} is chosen of what is not published as one table",
            hint="name one CSV or Parquet file, and a column or nothing as the unit",
        )
    return _of_files(files, kinds, _way(unit_by, files))


def _found(paths: Sequence[Path]) -> list[File]:
    """All regular files, by name; a link could lead out of the folder that was meant."""
    found: dict[str, File] = {}
    for path in paths:
        below = sorted(path.rglob("*")) if path.is_dir() else [path]
        for one in below:
            if one.is_symlink():
                raise DatasetError(
                    f"{one} is a link", hint="publish the files themselves"
                )
            if one.is_dir():
                continue
            name = str(one.relative_to(path)) if path.is_dir() else one.name
            if name in found:
                raise DatasetError(f"two files are called {name}", hint="rename one")
            if one.exists() and not one.is_file():
                raise DatasetError(f"{one} is not a regular file")
            found[name] = File.found(one, name)
            if len(found) > FILES_LIMIT:
                raise DatasetError(
                    f"more than {FILES_LIMIT} files", hint="publish them in parts"
                )
    if not found:
        raise DatasetError("there is no file", hint="name files, or a folder of files")
    return [found[name] for name in sorted(found)]


def _way(unit_by: str | None, files: Sequence[File]) -> str:
    if unit_by is None:
        return "folder" if any("/" in file.name for file in files) else "file"
    if unit_by not in _WAYS:
        raise DatasetError(
            f"files cannot be cut by {unit_by!r}",
            hint=f"files are cut by {', '.join(_WAYS)}; a column cuts one table",
        )
    return unit_by


def _of_table(
    file: File, format_: str, unit_column: str | None, columns: Sequence[str]
) -> Plan:
    if format_ == "csv":
        return of_csv(table.read_table(file.path), unit_column, columns)
    with file.path.open("rb") as data:
        whole = Digest(hashlib.file_digest(data, "sha256").digest())
    found = formats.describe("parquet", [file.path]).columns
    places = table.chosen([column.name for column in found], columns)
    units = [
        Unit((data,), rows, names)
        for data, rows, names in parquet.split(file.path, unit_column, columns)
    ]
    made = _single("parquet", [found[place] for place in places], units)
    return replace(made, table=_cut(whole, unit_column))


def of_csv(data: bytes, unit_column: str | None, columns: Sequence[str] = ()) -> Plan:
    """A plan for one table that is held in memory."""
    parsed = table.parse(data)
    table.require_commas(parsed.columns)
    places = table.chosen(parsed.columns, columns)
    names = [parsed.columns[place] for place in places]
    kinds = table.kinds(parsed)
    units = []
    for rows, holds in table.split(parsed, unit_column):
        kept = [[row[place] for place in places] for row in rows]
        units.append(Unit((table.pad(table.write(names, kept)),), len(kept), holds))
    listed = [Column(parsed.columns[p], kinds[p]) for p in places]
    return replace(_single("csv", listed, units), table=_cut(digest(data), unit_column))


def _cut(whole: Digest, unit_column: str | None) -> tuple[bytes, ...]:
    return whole, repr(unit_column).encode()


def _single(format_: str, columns: list[Column], units: list[Unit]) -> Plan:
    part = Part(WHOLE, format_, tuple(columns), (), None)
    return _totalled([part], [[unit.records for unit in units]], False, units, [])


def _of_files(files: Sequence[File], kinds: dict[Path, str], way: str) -> Plan:
    groups: dict[str, list[File]] = {}
    for file in files:
        groups.setdefault(_group(file, kinds[file.path], way), []).append(file)
    together = table.blocks(sorted(groups), min(UNITS_LIMIT, len(groups)))
    cut = [[file for name in unit for file in groups[name]] for unit in together]
    used = sorted(set(kinds.values()))
    single = len(used) == 1 and all(len(unit) == 1 for unit in cut)
    if single and (empty := [file.path for file in files if not file.size]):
        raise DatasetError(f"{empty[0]} is empty", hint="leave it out")
    records: dict[Path, int] = {}
    parts, warnings = [], []
    for format_ in used:
        paths = [file.path for file in files if kinds[file.path] == format_]
        described = formats.describe(format_, paths)
        records.update(zip(paths, described.records, strict=True))
        warnings += described.warnings
        parts.append(
            Part(
                WHOLE if single and format_ in TABLES else format_,
                format_,
                tuple(described.columns),
                tuple(described.details),
                None,
            )
        )
    units = [
        Unit(
            tuple(unit) if single else tuple(_tar(unit, kinds)),
            sum(records[file.path] for file in unit),
            tuple(names),
        )
        for names, unit in zip(together, cut, strict=True)
    ]
    of_part = [
        [records[f.path] for f in files if kinds[f.path] == format_] for format_ in used
    ]
    return _totalled(parts, of_part, not single, units, warnings)


def _tar(unit: list[File], kinds: dict[Path, str]) -> list[Extent]:
    named = [
        File(f.path, f"{kinds[f.path]}/{f.name}", f.size, f.modified_ns) for f in unit
    ]
    return packed(named)


def _group(file: File, format_: str, way: str) -> str:
    if way == "file":
        # Header and signals of a WFDB record are of no use apart, and one withdrawal must
        # reach both.
        wfdb = format_ == "wfdb"
        return str(PurePosixPath(file.name).with_suffix("")) if wfdb else file.name
    if way == "folder":
        folder, slash, _ = file.name.partition("/")
        if not slash:
            raise DatasetError(
                f"{file.name} lies beside the folders, in none of them",
                hint="a unit is a folder: move it into one, or cut by file",
            )
        return folder
    if format_ != "dicom":
        raise DatasetError(
            f"{file.name} is not DICOM and names no patient",
            hint="cut by folder, one for each patient",
        )
    patient = str(formats.dicom_header(file.path, ["PatientID"]).get("PatientID", ""))
    if not patient.strip():
        raise DatasetError(
            f"{file.name} has no PatientID",
            hint="it may be cut; otherwise cut by folder, one for each patient",
        )
    return patient


def _totalled(
    parts: list[Part],
    records: list[list[int]],
    packed_: bool,
    units: list[Unit],
    warnings: list[str],
) -> Plan:
    """The parts with their totals, unless a total would give a hidden count away."""
    totals = [sum(counts) for counts in records]
    hidden = [unit.records for unit in units if unit.records < COUNT_FLOOR]
    safe = not hidden or (len(hidden) > 1 and sum(hidden) >= COUNT_FLOOR)
    if safe and min(totals) >= COUNT_FLOOR:
        parts = [
            Part(part.name, part.format, part.columns, part.details, total)
            for part, total in zip(parts, totals, strict=True)
        ]
    return Plan(tuple(parts), packed_, tuple(units), tuple(warnings))
