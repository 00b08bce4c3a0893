r"""A CSV table, cut into consent units and put together again.

A unit is a whole CSV with the table's header, so that one unit alone can be read with
any tool.  Rows keep their order within a unit and their bytes are written in one
dialect (RFC 4180 quoting, "\n"), so the same table always gives the same plaintext.
Each unit is padded with empty lines to whole blocks, which any reader skips: the length
of a ciphertext is known to all grantees and must not count the rows of a small unit.
"""

import csv
import io
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from node.market import DatasetError
from node.market.privacy import check_column_names
from protocol.listing import COLUMN_NAME_LIMIT, COLUMNS_LIMIT, COUNT_FLOOR, UNITS_LIMIT

TABLE_LIMIT_BYTES = 1 << 26
"""64 MiB: a table is held in memory while it is cut."""
ROWS_LIMIT = 1_000_000
CELL_LIMIT = 32_767
"""What a spreadsheet's cell holds."""
PAD_BYTES = 4096
UNIT_LIMIT_BYTES = 2 * TABLE_LIMIT_BYTES
"""A table in our dialect: quoting may add to a cell, padding to the whole."""

T = TypeVar("T")

_INTEGER = re.compile(r"[+\-]?\d+")
_NUMBER = re.compile(r"[+\-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+\-]?\d+)?")
_OTHER_SEPARATOR = re.compile(r"[;|]")
_COMMAS = "write it again as CSV with commas"
_SPECIAL = re.compile(r'[",\r\n]')
_FORMULA = re.compile(r"[=@\t\r]|[+\-].*[(|!=]", re.DOTALL)


@dataclass(frozen=True)
class Table:
    """Column names and rows of text, all rows of the same width."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def read_table(path: Path) -> bytes:
    """The file's bytes, if it is a regular file of a size we take."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DatasetError(f"{path} is not a regular file")
        if status.st_size > TABLE_LIMIT_BYTES:
            raise DatasetError(
                f"{path} has {status.st_size} bytes, limit is {TABLE_LIMIT_BYTES}",
                hint="publish it as a folder with one file for each unit",
            )
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read: {error.strerror}",
            hint="check the path and its permissions",
        ) from error
    except ValueError as error:
        raise DatasetError("path holds a zero byte") from error


def parse(data: bytes, *, limit_bytes: int = TABLE_LIMIT_BYTES) -> Table:
    """The table in `data`, every rule of ours kept, or `DatasetError`."""
    if len(data) > limit_bytes:
        raise DatasetError(
            f"table has {len(data)} bytes, limit is {limit_bytes}",
            hint="publish it as a folder with one file for each unit",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"table is not UTF-8 at byte {error.start}", hint="convert it to UTF-8"
        ) from error
    if "\x00" in text:
        raise DatasetError("table holds a zero byte", hint="is it a CSV file at all?")
    lines = _lines(text)
    if not lines:
        raise DatasetError("table is empty", hint="the first row names the columns")
    columns = parse_header(lines[0])
    rows = lines[1:]
    if not rows:
        raise DatasetError("table has a header and no rows")
    for number, row in enumerate(rows, 1):
        _check_row(number, row, len(columns))
    return Table(columns, tuple(rows))


def split(
    table: Table, unit_column: str | None = None
) -> list[tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]]:
    """The rows of each consent unit and what they are `held` as, at most 64 units."""
    values = None
    if unit_column is not None:
        place = column_place(table.columns, unit_column)
        values = [row[place] for row in table.rows]
    return [
        (tuple(table.rows[index] for index in unit), held(unit, values))
        for unit in partition(len(table.rows), values, unit_column)
    ]


def column_place(columns: Sequence[str], name: str) -> int:
    """Where the column stands."""
    if name not in columns:
        raise DatasetError(
            f"the table has no column {name!r}", hint=f"it has {_some(columns)}"
        )
    return list(columns).index(name)


def _some(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def chosen(columns: Sequence[str], names: Sequence[str]) -> list[int]:
    """Where the columns stand that are named, in the table's order; all if none is named."""
    places = [column_place(columns, name) for name in names]
    if len(set(places)) < len(places):
        raise DatasetError(f"a column is named twice: {', '.join(names)}")
    return sorted(places) if places else list(range(len(columns)))


def partition(
    rows: int, values: Sequence[str] | None, unit_column: str | None
) -> list[list[int]]:
    """The numbers of the rows of each unit.

    Without values, blocks of neighbouring rows of at least `COUNT_FLOOR` where the table
    has as many.  With one for each row, rows with the same value always share a unit:
    one unit per value, or neighbouring values together where there are more than 64.
    """
    if values is None:
        units = max(1, min(UNITS_LIMIT, rows // COUNT_FLOOR))
        return blocks(range(rows), units)
    groups: dict[str, list[int]] = {}
    for index, value in enumerate(values):
        groups.setdefault(value, []).append(index)
    if "" in groups:
        raise DatasetError(
            f"{len(groups[''])} rows have nothing in the unit column {unit_column!r}"
        )
    together = blocks(list(groups.values()), min(UNITS_LIMIT, len(groups)))
    return [[index for group in unit for index in group] for unit in together]


def held(unit: Sequence[int], values: Sequence[str] | None) -> tuple[str, ...]:
    """What an owner finds a unit by: its values of the unit column, or where its rows stand."""
    if values is None:
        return (f"rows {unit[0] + 1} to {unit[-1] + 1}",)
    return tuple(dict.fromkeys(values[index] for index in unit))


def write(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    """The one CSV of these columns and rows."""
    lines = (",".join(map(_quoted, row)) or '""' for row in (columns, *rows))
    return "".join(line + "\n" for line in lines).encode()


def _quoted(cell: str) -> str:
    # The csv module of Python 3.11 leaves a lone carriage return unquoted, and then
    # cannot read what it wrote.
    if _SPECIAL.search(cell):
        return '"' + cell.replace('"', '""') + '"'
    return cell


def pad(unit: bytes) -> bytes:
    """`unit` with empty lines to a whole number of blocks."""
    return unit + b"\n" * (-len(unit) % PAD_BYTES)


def join(units: Sequence[bytes], columns: Sequence[str]) -> Table:
    """The rows of all `units`, each of which must have exactly these columns."""
    rows: list[tuple[str, ...]] = []
    for unit in units:
        table = parse(unit, limit_bytes=UNIT_LIMIT_BYTES)
        if table.columns != tuple(columns):
            raise DatasetError(
                "a decrypted unit has other columns than the listing",
                hint="the owner published a table that does not fit its description",
            )
        rows.extend(table.rows)
    return Table(tuple(columns), tuple(rows))


def kinds(table: Table) -> list[str]:
    """`integer`, `number` or `text` for each column; missing values do not count."""
    return [
        kind_of([row[place] for row in table.rows])
        for place in range(len(table.columns))
    ]


def kind_of(values: list[str]) -> str:
    present = [value.strip() for value in values if value.strip() not in {"", "NA"}]
    if present and all(_INTEGER.fullmatch(value) for value in present):
        return "integer"
    if present and all(_NUMBER.fullmatch(value) for value in present):
        return "number"
    return "text"


def _lines(text: str) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = []
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for line in reader:
            if line:
                lines.append(tuple(line))
            if len(lines) > ROWS_LIMIT + 1:
                raise DatasetError(
                    f"table has more than {ROWS_LIMIT} rows", hint="publish it in parts"
                )
    except csv.Error as error:
        raise DatasetError(
            f"line {reader.line_num} is not CSV: {error}", hint="check its quotes"
        ) from error
    return lines


def parse_header(names: tuple[str, ...]) -> tuple[str, ...]:
    """Column names, every rule of ours kept, or `DatasetError`."""
    if len(names) > COLUMNS_LIMIT:
        raise DatasetError(f"table has {len(names)} columns, limit is {COLUMNS_LIMIT}")
    # First: of records two cells are often the same, and that is not what is the matter.
    check_column_names([name if name.strip() else "_" for name in names])
    seen: set[str] = set()
    for place, name in enumerate(names, 1):
        if not name.strip():
            raise DatasetError(f"column {place} has no name")
        if len(name) > COLUMN_NAME_LIMIT or not name.isprintable():
            raise DatasetError(
                f"the name of column {place} is not a printable text of at most "
                f"{COLUMN_NAME_LIMIT} characters",
                hint=_COMMAS if "\t" in name else "",
            )
        if name in seen:
            raise DatasetError(
                f"column {place} has the name of an earlier one", hint="rename it"
            )
        seen.add(name)
    return names


def require_commas(names: Sequence[str]) -> None:
    """Raise `DatasetError` for a header that is one cell because something else separates.

    Asked of what is to be published only: as one column of all cells it could never be cut, asked
    about or shown in part.
    """
    if len(names) == 1 and (found := _OTHER_SEPARATOR.search(names[0])):
        raise DatasetError(
            f"the header is one name with {found[0]!r} in it: its cells seem to be separated "
            "by that, not by commas",
            hint=_COMMAS,
        )


def _check_row(number: int, row: tuple[str, ...], width: int) -> None:
    """Messages name the row, never what stands in it."""
    if len(row) != width:
        raise DatasetError(
            f"row {number} has {len(row)} cells, the header has {width}",
            hint="the file may be cut, or a cell with a comma lacks its quotes",
        )
    for place, cell in enumerate(row, 1):
        if len(cell) > CELL_LIMIT:
            raise DatasetError(
                f"row {number} column {place} has {len(cell)} characters, limit is "
                f"{CELL_LIMIT}"
            )
        if cell[:1] in "=+-@\t\r" and _FORMULA.match(cell):
            raise DatasetError(
                f"row {number} column {place} begins like a spreadsheet formula",
                hint="a grantee's spreadsheet would run it; take it out",
            )


def blocks(items: Sequence[T], count: int) -> list[list[T]]:
    """`count` blocks of neighbours, sizes differing by one at most."""
    size, extra = divmod(len(items), count)
    cut: list[list[T]] = []
    start = 0
    for index in range(count):
        end = start + size + (index < extra)
        cut.append(list(items[start:end]))
        start = end
    return cut
