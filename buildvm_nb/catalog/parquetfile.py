"""Parquet without loss: one file, or a directory with one part for each kind, axis or year.

Each column carries its meaning and unit as metadata, and pandas reads the file with its dtypes.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import dataset, parquet

from buildvm_nb.catalog.columns import Kind, TableSchema
from buildvm_nb.catalog.frames import check_frame, empty_frame
from buildvm_nb.catalog.replacing import replacing_path
from buildvm_nb.catalog.schema import SCHEMA_VERSION
from buildvm_nb.errors import CatalogError, UsageError

__all__ = ["partitions", "read_parquet", "write_parquet"]

_YEAR = "year"
_CLOSED = ("kind", "axis", "verdict")
"""Columns whose few values are plain words, fit for names of directories."""

_TYPES = {
    Kind.TEXT: pa.large_string(),
    Kind.JSON: pa.large_string(),
    Kind.INTEGER: pa.int64(),
    Kind.REAL: pa.float64(),
    Kind.BOOLEAN: pa.bool_(),
    Kind.INSTANT: pa.timestamp("us", tz="UTC"),
}

_DTYPES = {pa.int64(): pd.Int64Dtype()}
"""Not by way of floats, as pandas would where one is missing: those are exact to 2**53 only."""


def partitions(table: TableSchema) -> tuple[str, ...]:
    """Name what a table may be parted by.

    Parameters
    ----------
    table : TableSchema
        Any table with a column ``recorded_at``.

    Returns
    -------
    tuple of str
        ``year`` is that of ``recorded_at``, in UTC; the others are columns.
    """
    return (_YEAR, *(name for name in _CLOSED if name in table.dtypes))


def write_parquet(
    frames: Iterable[pd.DataFrame],
    path: Path,
    table: TableSchema,
    *,
    partition: str | None = None,
) -> None:
    """Write frames as Parquet.

    Parameters
    ----------
    frames : iterable of DataFrame
        Each with all columns of the table; they are not held in memory.
    path : Path
        A file, which is replaced at once when all is written; with `partition` a directory, which
        must be empty or not be there.
    table : TableSchema
        Which table they are of.
    partition : str, optional
        One of `partitions`: one directory ``NAME=VALUE`` for each value.

    Raises
    ------
    UsageError
        If a frame is not of the table, the table cannot be parted so, or the directory is there.
    CatalogError
        If it cannot be written.
    """
    schema = _schema(table)
    batches = (_arrow(frame, table, schema) for frame in frames)
    if partition is None:
        with replacing_path(path) as beside, parquet.ParquetWriter(beside, schema) as writer:
            for batch in batches:
                writer.write_table(batch)
        return
    if partition not in partitions(table):
        raise UsageError(
            f"table {table.name!r} cannot be parted by {partition!r}; allowed: "
            f"{', '.join(partitions(table))}"
        )
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(
            f"there is something already: {path}",
            hint="parts of an earlier export would mix with these; name another directory",
        )
    try:
        path.mkdir(exist_ok=True)  # also where there are no rows, and so no parts
        _write_parts(batches, path, schema, partition)
    except OSError as error:
        raise CatalogError(f"cannot write {path}: {error.strerror or error}") from error


def read_parquet(path: Path, table: TableSchema) -> pd.DataFrame:
    """Read what `write_parquet` wrote.

    Parameters
    ----------
    path : Path
        File or directory.
    table : TableSchema
        Which table it is of.

    Returns
    -------
    DataFrame
        The columns and dtypes of ``table.dtypes``; rows of a parted table are ordered by
        ``recorded_at`` and id.

    Raises
    ------
    UsageError
        If there is no such file.
    CatalogError
        If it cannot be read, or is not of the table.
    """
    if not path.exists():
        raise UsageError(f"no such file: {path}")
    if path.is_dir() and not any(path.iterdir()):
        return empty_frame(table)
    schema = _schema(table)
    parting = dataset.partitioning(flavor="hive", schema=_parting_schema(path, schema))
    try:
        read = dataset.dataset(path, format="parquet", partitioning=parting).to_table()
        for name, value in table.later.items():
            if name not in read.schema.names:
                read = read.append_column(name, pa.repeat(pa.scalar(value), len(read)))
        arrow = read.select(schema.names).cast(schema)
    except (OSError, KeyError, ValueError) as error:  # pyarrow's own errors are among these
        raise CatalogError(f"cannot read Parquet: {path}: {error}") from error
    frame = pd.DataFrame(
        {
            name: pd.Series(arrow[name].to_pandas(types_mapper=_DTYPES.get), dtype=dtype)
            for name, dtype in table.dtypes.items()
        }
    )
    if path.is_dir():
        order = ["recorded_at", "id" if "id" in table.dtypes else "finding_id"]
        frame = frame.sort_values(order, ignore_index=True)
    return frame


def _schema(table: TableSchema) -> pa.Schema:
    fields = [
        pa.field(
            column.name,
            _TYPES[column.kind],
            metadata={"meaning": column.meaning, "unit": column.unit},
        )
        for column in table.columns
    ]
    # what pandas wants to know, so that it chooses our dtypes
    told = pa.Schema.from_pandas(empty_frame(table), preserve_index=False).metadata or {}
    version = {b"buildvm_table": table.name, b"buildvm_schema_version": str(SCHEMA_VERSION)}
    return pa.schema(fields, metadata={**told, **version})


def _arrow(frame: pd.DataFrame, table: TableSchema, schema: pa.Schema) -> pa.Table:
    check_frame(frame, table)
    arrow = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    return arrow.replace_schema_metadata(schema.metadata)


def _write_parts(
    batches: Iterator[pa.Table], path: Path, schema: pa.Schema, partition: str
) -> None:
    if partition == _YEAR:
        schema = schema.append(pa.field(_YEAR, pa.int32()))
        batches = map(_with_year, batches)
    dataset.write_dataset(
        (batch for arrow in batches for batch in arrow.to_batches()),
        path,
        schema=schema,
        format="parquet",
        partitioning=dataset.partitioning(pa.schema([schema.field(partition)]), flavor="hive"),
        use_threads=False,  # keeps the order of the rows within a part
    )


def _with_year(arrow: pa.Table) -> pa.Table:
    years: Any = arrow["recorded_at"].to_pandas().dt.year.astype("int32")
    return arrow.append_column(_YEAR, pa.array(years, pa.int32()))


def _parting_schema(path: Path, schema: pa.Schema) -> pa.Schema:
    """Tell the types of the parts' names, which are text otherwise, or what looks like a number."""
    if not path.is_dir():
        return pa.schema([])
    first = next((entry.name for entry in sorted(path.iterdir()) if "=" in entry.name), "")
    name = first.partition("=")[0]
    if name in schema.names:
        return pa.schema([schema.field(name)])
    return pa.schema([pa.field(_YEAR, pa.int32())] if name == _YEAR else [])
