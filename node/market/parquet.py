"""Parquet tables: cut into units, put together, and shown to our own computing as CSV.

A unit stays Parquet, with its types.  It is padded inside its footer, in a metadata
entry, to whole blocks: the length of a ciphertext is known to all grantees and must not
count the rows of a small unit.

**Nothing in a unit may be of another one.**  What pandas, R and Arrow call a category is stored
with the list of all its values, those of every patient of the table, and their footers name all
columns and count all rows.  So a unit has plain values and no footer but ours.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from node.market import DatasetError
from node.market.table import PAD_BYTES, chosen, column_place, held, partition

_PAD_KEY = "rexis.padding"


def split(
    path: Path, unit_column: str | None, columns: Sequence[str] = ()
) -> list[tuple[bytes, int, tuple[str, ...]]]:
    """The units of a file, each as Parquet bytes, the number of its rows, and `table.held` of it.

    Of the columns named, or of all.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = _bare(pq.read_table(path))
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(
            f"{path} cannot be read as Parquet: {type(error).__name__}",
            hint="it may be cut or damaged, or hold a type that has no plain values",
        ) from error
    if not table.num_rows:
        raise DatasetError(f"{path} has no rows")
    values = None
    if unit_column is not None:
        place = column_place(table.column_names, unit_column)
        cells = table.column(place).to_pylist()
        values = ["" if cell is None else str(cell) for cell in cells]
    kept = table.select(chosen(table.column_names, columns))
    return [
        (_padded(kept.take(rows)), len(rows), held(rows, values))
        for rows in partition(table.num_rows, values, unit_column)
    ]


def join(units: Sequence[bytes], columns: Sequence[str]) -> bytes:
    """All units as one Parquet file; each must have exactly these columns."""
    import pyarrow as pa

    tables = [_opened(unit, columns) for unit in units]
    return _written(pa.concat_tables(tables, promote_options="permissive"))


def to_csv(units: Sequence[bytes], columns: Sequence[str]) -> bytes:
    """All units as one CSV with a header, each cell as the listing's kind of its column has it."""
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    tables = [_opened(unit, columns) for unit in units]
    whole = pa.concat_tables(tables, promote_options="permissive")
    out = io.BytesIO()
    options = pa_csv.WriteOptions(quoting_style="needed")
    cells = pa.table([_cells(column) for column in whole.columns], list(columns))
    pa_csv.write_csv(cells, out, options)
    return out.getvalue()


def _cells(column: Any) -> Any:
    """A column as a CSV can hold it: truth as 1 and 0, what is nested or no text as JSON."""
    import pyarrow as pa
    import pyarrow.types as kinds

    if kinds.is_boolean(column.type):
        return column.cast(pa.int8())
    binary = kinds.is_binary, kinds.is_large_binary, kinds.is_fixed_size_binary
    if kinds.is_nested(column.type) or any(is_so(column.type) for is_so in binary):
        written = [None if one is None else _json(one) for one in column.to_pylist()]
        return pa.array(written, pa.string())
    return column


def _json(value: Any) -> str:
    return json.dumps(
        value, default=lambda one: one.hex() if isinstance(one, bytes) else str(one)
    )


def _bare(table: Any) -> Any:
    """The same values without what was said of the table they come from."""
    import pyarrow as pa

    fields = [pa.field(one.name, plain(one.type), one.nullable) for one in table.schema]
    return table.cast(pa.schema(fields))


def plain(type_: Any) -> Any:
    """The type of a column's values, at every depth without lists of categories."""
    import pyarrow as pa
    import pyarrow.types as kinds

    if kinds.is_dictionary(type_):
        return plain(type_.value_type)
    if isinstance(type_, pa.BaseExtensionType):
        return plain(type_.storage_type)
    if kinds.is_map(type_):
        return pa.map_(plain(type_.key_type), plain(type_.item_type))
    if kinds.is_struct(type_):
        return pa.struct([(one.name, plain(one.type)) for one in type_])
    if kinds.is_fixed_size_list(type_):
        return pa.list_(plain(type_.value_type), type_.list_size)
    if kinds.is_large_list(type_):
        return pa.large_list(plain(type_.value_type))
    if kinds.is_list(type_):
        return pa.list_(plain(type_.value_type))
    # Views of texts: pyarrow cannot take single rows of them.
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(
        type_, type_
    )


def _opened(unit: bytes, columns: Sequence[str]) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(unit)).replace_schema_metadata()
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(
            "a decrypted unit is not Parquet",
            hint="the owner published a table that does not fit its description",
        ) from error
    if table.column_names != list(columns):
        raise DatasetError(
            "a decrypted unit has other columns than the listing",
            hint="the owner published a table that does not fit its description",
        )
    return table


def _padded(table: Any) -> bytes:
    pad = 0
    data = _written(table)
    # The entry's own length field may grow by a byte or two with what it counts.
    while len(data) % PAD_BYTES:
        pad += -len(data) % PAD_BYTES
        data = _written(table, pad)
    return data


def _written(table: Any, pad: int = 0) -> bytes:
    import pyarrow.parquet as pq

    out = io.BytesIO()
    with pq.ParquetWriter(out, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        if pad:
            writer.add_key_value_metadata({_PAD_KEY: " " * pad})
    return out.getvalue()
