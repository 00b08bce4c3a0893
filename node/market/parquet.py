"""Parquet tables: cut into units, put together, and shown to our own computing as CSV.

A unit stays Parquet, with its types.  It is padded inside its footer, in a metadata
entry, to whole blocks: the length of a ciphertext is known to all grantees and must not
count the rows of a small unit.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from node.market import DatasetError
from node.market.table import PAD_BYTES, chosen, column_place, partition

_PAD_KEY = "rexis.padding"


def split(
    path: Path, unit_column: str | None, columns: Sequence[str] = ()
) -> list[tuple[bytes, int]]:
    """The units of a file, each as (Parquet bytes, rows); of the columns named, or of all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path} cannot be read as Parquet") from error
    if not table.num_rows:
        raise DatasetError(f"{path} has no rows")
    values = None
    if unit_column is not None:
        place = column_place(table.column_names, unit_column)
        cells = table.column(place).to_pylist()
        values = ["" if cell is None else str(cell) for cell in cells]
    kept = table.select(chosen(table.column_names, columns))
    return [
        (_padded(kept.take(rows)), len(rows))
        for rows in partition(table.num_rows, values, unit_column)
    ]


def join(units: Sequence[bytes], columns: Sequence[str]) -> bytes:
    """All units as one Parquet file; each must have exactly these columns."""
    import pyarrow as pa

    tables = [_opened(unit, columns) for unit in units]
    return _written(pa.concat_tables(tables, promote_options="permissive"))


def to_csv(units: Sequence[bytes], columns: Sequence[str]) -> bytes:
    """All units as one CSV with a header."""
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    tables = [_opened(unit, columns) for unit in units]
    out = io.BytesIO()
    options = pa_csv.WriteOptions(quoting_style="needed")
    pa_csv.write_csv(
        pa.concat_tables(tables, promote_options="permissive"), out, options
    )
    return out.getvalue()


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
