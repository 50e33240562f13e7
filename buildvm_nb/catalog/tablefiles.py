"""Tables in files: CSV, JSON Lines and Parquet, all read back as they were written."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any, TypeVar, overload

import pandas as pd
import pyarrow as pa
from pyarrow import dataset, parquet
from pydantic import ValidationError

from buildvm_nb.catalog.frames import check_frame, empty_frame, make_array, make_frame
from buildvm_nb.catalog.logs import replacing, replacing_path
from buildvm_nb.catalog.rows import canonical_json, finding_row, outcome_row
from buildvm_nb.catalog.schema import (
    FAILURES,
    FINDINGS,
    OUTCOMES,
    SCHEMA_VERSION,
    Column,
    Kind,
    TableSchema,
)
from buildvm_nb.errors import CatalogError, UsageError
from buildvm_nb.model.finding import Finding
from buildvm_nb.model.instants import format_instant
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.model.value import Value, describe, read_document

__all__ = [
    "form_of",
    "partitions",
    "read_csv",
    "read_failures",
    "read_jsonl",
    "read_table",
    "write_csv",
    "write_jsonl",
    "write_parquet",
    "write_table",
]

# CSV without loss, and safe to open in a spreadsheet.
#
# A file has a header line, commas, line feeds, UTF-8, and quotes (doubled inside) around cells that
# need them. Reading takes a byte-order mark and CRLF line ends as well. Cells are written so:
#
# * an empty cell is a missing value;
# * a cell that begins with an apostrophe is text: what follows the apostrophe. So an empty text is
#   ``'``, and text that begins with an apostrophe or with what a spreadsheet takes for a formula
#   (``=``, ``+``, ``-``, ``@``, tab, carriage return, line feed, and the full-width forms) has one
#   put before it;
# * a spreadsheet that parts cells at semicolons or tabs would see cells within a text. So an
#   apostrophe is put behind each semicolon, tab, carriage return and line feed that is followed by
#   any number of quotes, apostrophes and spaces and then by such a sign; a reader takes it away;
# * any other cell of a text column is that text: ``NA``, ``null`` and ``0012345`` stay as they are;
# * integers are decimal, numbers are as exact as Python prints them, truth values ``TRUE`` and
#   ``FALSE``, as R and spreadsheets have them, and instants ISO 8601 with ``Z``.
#
# Reading takes what spreadsheets and ``DataFrame.to_csv`` make of it, too: truth values in any
# case, an index without a name before the first column, semicolons or tabs between cells.
#
# References: RFC 4180; OWASP, "CSV Injection".

_SIGNS = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
_APOSTROPHE_FIRST = ("'", *_SIGNS)
_BEFORE_SIGN = f"(?=[\"' ]*[{re.escape(_SIGNS)}])"
_INNER_START = re.compile(f"([;\t\r\n]){_BEFORE_SIGN}")
_INNER_GUARDED = re.compile(f"([;\t\r\n])'{_BEFORE_SIGN}")
_NEEDS_QUOTES = frozenset('",\r\n')
_SEPARATORS = (",", ";", "\t")
_INDEX = ("", "Unnamed: 0")
"""Names of a column that only counts the rows."""
_CHUNK = 10_000
_LONGEST_CELL = 2**31 - 1


def write_csv(
    frames: pd.DataFrame | Iterable[pd.DataFrame],
    target: Path | IO[str],
    table: TableSchema = OUTCOMES,
) -> None:
    """Write a frame, or several one after the other, as CSV.

    Parameters
    ----------
    frames : DataFrame or iterable of DataFrame
        Columns of the table, all or some, the same in each, with its dtypes; the index is not
        written. No frame at all is a table without rows.
    target : Path or text stream
        A path is replaced at once, when all is written.
    table : TableSchema
        Which table it is of; columns are written in its order.

    Raises
    ------
    UsageError
        If the frame is not of the table.
    CatalogError
        If the file cannot be written.
    """
    if isinstance(frames, pd.DataFrame):
        check_frame(frames, table)
        frames = (frames,)
    if isinstance(target, Path):
        with replacing(target) as stream:
            stream.writelines(_lines(frames, table))
    else:
        target.writelines(_lines(frames, table))


def read_csv(path: Path, table: TableSchema = OUTCOMES) -> pd.DataFrame:
    """Read what `write_csv` wrote, perhaps saved by a spreadsheet or by pandas since.

    Parameters
    ----------
    path : Path
        CSV file.
    table : TableSchema
        Which table it is of.

    Returns
    -------
    DataFrame
        The columns of the file, with the dtypes of ``table.dtypes``.

    Raises
    ------
    UsageError
        If there is no such file.
    CatalogError
        If it is no such CSV: an unknown column, or a cell that its column cannot hold.
    """
    names, rows = _cells(path)
    for name in names:
        if name not in table.dtypes and name not in table.gone:
            near = get_close_matches(name, table.dtypes, n=1)
            raise CatalogError(
                f"unknown column in {path}: {name!r}",
                hint=f"did you mean {near[0]!r}?" if near else "written by a newer version?",
            )
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    return pd.DataFrame(
        {
            name: _parse(cells, table[name], path)
            for name, cells in zip(names, columns, strict=True)
            if name not in table.gone
        }
    )


def _cells(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return header and rows, each as long as the header."""
    limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            header = stream.readline()
            stream.seek(0)
            counts = {sign: header.count(sign) for sign in _SEPARATORS}
            parted = csv.reader(stream, delimiter=max(counts, key=counts.__getitem__), strict=True)
            rows = [row for row in parted if row]
    except FileNotFoundError as error:
        raise UsageError(f"no such file: {path}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CatalogError(f"cannot read CSV: {path}: {error}") from error
    finally:
        csv.field_size_limit(limit)
    if not rows or len(set(rows[0])) < len(rows[0]):
        raise CatalogError(f"cannot read CSV: {path}: no header, or a column there twice")
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise CatalogError(
                f"{path}: row {number} has {len(row)} cells; the header has {len(rows[0])}"
            )
    if rows[0][0] in _INDEX and len(rows[0]) > 1:
        rows = [row[1:] for row in rows]
    return rows[0], rows[1:]


def _lines(frames: Iterable[pd.DataFrame], table: TableSchema) -> Iterator[str]:
    columns: list[Column] = []
    for number, frame in enumerate(frames):
        check_frame(frame, table)
        if number == 0:
            columns = [column for column in table.columns if column.name in frame.columns]
            yield _header(columns)
        for start in range(0, len(frame), _CHUNK):
            part = frame.iloc[start : start + _CHUNK]
            cells = [_format(part[column.name], column.kind) for column in columns]
            yield from (_line(row) for row in zip(*cells, strict=True))
    if not columns:
        yield _header(table.columns)


def _header(columns: Iterable[Column]) -> str:
    return ",".join(column.name for column in columns) + "\n"


def _line(cells: tuple[str, ...]) -> str:
    if len(cells) == 1 and not cells[0].strip():
        return f'"{cells[0]}"\n'  # a blank line would be no row at all
    return ",".join(map(_quoted, cells)) + "\n"


def _quoted(cell: str) -> str:
    if _NEEDS_QUOTES.isdisjoint(cell):
        return cell
    doubled = cell.replace('"', '""')
    return f'"{doubled}"'


def _format(series: "pd.Series[Any]", kind: Kind) -> list[str]:
    write = _WRITERS[kind]
    missing = series.isna().tolist()
    values = series.tolist()
    return ["" if gone else write(value) for value, gone in zip(values, missing, strict=True)]


def _parse(cells: Iterable[str], column: Column, path: Path) -> pd.api.extensions.ExtensionArray:
    read = _READERS[column.kind]
    values = []
    for number, cell in enumerate(cells, start=1):
        try:
            values.append(read(cell) if cell else None)
        except ValueError as error:
            raise CatalogError(
                f"{path}: row {number}, column {column.name!r}: not {_A[column.kind]}: {cell!r}"
            ) from error
    return make_array(values, column.kind)


def _write_text(text: str) -> str:
    guarded = _INNER_START.sub(r"\1'", text)
    return f"'{guarded}" if not text or text.startswith(_APOSTROPHE_FIRST) else guarded


def _read_text(cell: str) -> str:
    return _INNER_GUARDED.sub(r"\1", cell.removeprefix("'"))


def _read_integer(cell: str) -> int:
    value = int(cell)
    if not -(2**63) <= value < 2**63:
        message = "more than 64 bits"
        raise ValueError(message)
    return value


def _read_boolean(cell: str) -> bool:
    folded = cell.casefold()
    if folded not in {"true", "false"}:
        message = "neither true nor false"
        raise ValueError(message)
    return folded == "true"


def _read_instant(cell: str) -> datetime:
    value = datetime.fromisoformat(cell)
    if value.tzinfo is None:
        message = "no time zone"
        raise ValueError(message)
    return value.astimezone(UTC)


_WRITERS: dict[Kind, Callable[[Any], str]] = {
    Kind.TEXT: _write_text,
    Kind.JSON: _write_text,
    Kind.INTEGER: str,
    Kind.REAL: repr,
    Kind.BOOLEAN: lambda value: str(value).upper(),
    Kind.INSTANT: format_instant,
}

_READERS: dict[Kind, Callable[[str], object]] = {
    Kind.TEXT: _read_text,
    Kind.JSON: _read_text,
    Kind.INTEGER: _read_integer,
    Kind.REAL: float,
    Kind.BOOLEAN: _read_boolean,
    Kind.INSTANT: _read_instant,
}

_A = {
    Kind.TEXT: "text",
    Kind.JSON: "JSON",
    Kind.INTEGER: "an integer of 64 bits",
    Kind.REAL: "a number",
    Kind.BOOLEAN: "true or false",
    Kind.INSTANT: "an instant in ISO 8601 with Z",
}


# JSON Lines: one whole outcome or finding on each line, without loss.

V = TypeVar("V", bound=Value)


def write_jsonl(entries: Iterable[Value | str], target: Path | IO[str]) -> None:
    """Write outcomes or findings, one JSON object a line.

    Parameters
    ----------
    entries : iterable of Outcome, Finding or str
        Or their documents, on one line each.
        Any number; they are not held in memory.
    target : Path or text stream
        A path is replaced at once, when all is written.

    Raises
    ------
    CatalogError
        If the file cannot be written.
    """
    lines = (
        f"{entry if isinstance(entry, str) else entry.model_dump_json()}\n" for entry in entries
    )
    if isinstance(target, Path):
        with replacing(target) as stream:
            stream.writelines(lines)
    else:
        target.writelines(lines)


@overload
def read_jsonl(path: Path) -> Iterator[Outcome]: ...


@overload
def read_jsonl(path: Path, kind: type[V]) -> Iterator[V]: ...


def read_jsonl(path: Path, kind: type[Value] = Outcome) -> Iterator[Value]:
    """Read what `write_jsonl` wrote.

    Parameters
    ----------
    path : Path
        UTF-8; blank lines are skipped.
    kind : type
        What the lines are: `Outcome` or `Finding`.

    Yields
    ------
    Outcome or Finding
        One for each line.

    Raises
    ------
    UsageError
        If there is no such file.
    CatalogError
        If it cannot be read, or a line is no such thing.
    """
    try:
        with path.open(encoding="utf-8", newline="\n") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield _entry(line, kind, f"{path}:{number}")
    except FileNotFoundError as error:
        raise UsageError(f"no such file: {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(f"cannot read {path}: {error}") from error


def _entry(line: str, kind: type[V], where: str) -> V:
    try:
        return read_document(kind, line)
    except ValidationError as error:
        what = f"no {kind.__name__.lower()}"
        raise CatalogError(f"{where}: {what}:\n{describe(error, kind.__name__)}") from error


# Parquet without loss: one file, or a directory with one part for each kind, axis or year.
#
# Each column carries its meaning and unit as metadata, and pandas reads the file with its dtypes.

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
    """Name what a table may be parted by."""
    return (_YEAR, *(name for name in _CLOSED if name in table.dtypes))


def write_parquet(
    frames: Iterable[pd.DataFrame],
    path: Path,
    table: TableSchema,
    *,
    partition: str | None = None,
) -> None:
    """Write frames as Parquet.

    `frames`: each with all columns of the table; they are not held in memory.
    `path`: a file, which is replaced at once when all is written; with `partition` a directory,
    which must be empty or not be there.
    Raises `UsageError` if a frame is not of the table, the table cannot be parted so, or the
    directory is there.
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

    Returns: the columns and dtypes of ``table.dtypes``; rows of a parted table are ordered by
    ``recorded_at`` and id.
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


# JSON Lines of frames: one row on each line, as an object of its columns.
#
# What is missing is ``null``, instants are ISO 8601 with ``Z``, and columns that hold JSON, which
# are lists and objects, hold it here as it is, not as text.


def write_rows(frames: Iterable[pd.DataFrame], target: Path | IO[str], table: TableSchema) -> None:
    """Write frames as JSON Lines.

    `frames`: each with all columns of the table; they are not held in memory.
    """
    lines = (line for frame in frames for line in _row_lines(frame, table))
    if isinstance(target, Path):
        with replacing(target) as stream:
            stream.writelines(lines)
    else:
        target.writelines(lines)


def read_rows(path: Path, table: TableSchema) -> pd.DataFrame:
    """Read what `write_rows` wrote.

    Returns: one row for each line, with the columns and dtypes of ``table.dtypes``.
    Raises `CatalogError` if it cannot be read, or a line is no such row.
    """
    try:
        with path.open(encoding="utf-8", newline="\n") as stream:
            rows = [
                _row(line, table, f"{path}:{number}")
                for number, line in enumerate(stream, start=1)
                if line.strip()
            ]
    except FileNotFoundError as error:
        raise UsageError(f"no such file: {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(f"cannot read {path}: {error}") from error
    return make_frame(rows, table)


def _row_lines(frame: pd.DataFrame, table: TableSchema) -> Iterator[str]:
    check_frame(frame, table)
    names = list(table.dtypes)
    columns = []
    for column in table.columns:
        write, series = _ROW_WRITERS[column.kind], frame[column.name]
        pairs = zip(series.tolist(), series.isna().tolist(), strict=True)
        columns.append([None if gone else write(value) for value, gone in pairs])
    for row in zip(*columns, strict=True):
        yield json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n"


def _row(line: str, table: TableSchema, where: str) -> list[Any]:
    try:
        told = json.loads(line)
    except ValueError as error:
        raise CatalogError(f"{where}: not JSON: {error}") from error
    if not isinstance(told, dict) or told.keys() != table.dtypes.keys():
        raise CatalogError(f"{where}: not a row of table {table.name!r}: its columns differ")
    values = []
    for column in table.columns:
        value = told[column.name]
        try:
            values.append(None if value is None else _ROW_READERS[column.kind](value))
        except (TypeError, ValueError) as error:
            raise CatalogError(
                f"{where}: column {column.name!r} cannot hold {value!r}: {error}"
            ) from error
    return values


def _exactly(kind: type) -> Callable[[Any], Any]:
    def read(value: object) -> object:
        if type(value) is not kind:
            message = f"not of type {kind.__name__}"
            raise TypeError(message)
        return value

    return read


def _read_row_instant(value: str) -> datetime:
    instant = datetime.fromisoformat(value)
    if instant.tzinfo is None:
        message = "no time zone"
        raise ValueError(message)
    return instant.astimezone(UTC)


_ROW_WRITERS: dict[Kind, Callable[[Any], Any]] = {
    Kind.TEXT: str,
    Kind.JSON: json.loads,
    Kind.INTEGER: int,
    Kind.REAL: float,
    Kind.BOOLEAN: bool,
    Kind.INSTANT: format_instant,
}

_ROW_READERS: dict[Kind, Callable[[Any], Any]] = {
    Kind.TEXT: _exactly(str),
    Kind.JSON: canonical_json,
    Kind.INTEGER: _exactly(int),
    Kind.REAL: float,
    Kind.BOOLEAN: _exactly(bool),
    Kind.INSTANT: _read_row_instant,
}


# Tables in files: CSV, JSON Lines and Parquet, all read back as they were written.

FORMATS = ("csv", "jsonl", "parquet")


def form_of(path: Path, form: str | None = None) -> str:
    """Choose the format of a file."""
    suffix = path.suffix.removeprefix(".").lower()
    chosen = form or (suffix if suffix in FORMATS else "csv")
    if chosen not in FORMATS:
        raise UsageError(f"unknown format: {chosen!r}; allowed: {', '.join(FORMATS)}")
    return chosen


def write_table(
    frames: Iterable[pd.DataFrame],
    target: Path | IO[str],
    table: TableSchema,
    *,
    form: str | None = None,
    partition: str | None = None,
) -> None:
    """Write frames to a file, piece by piece.

    Parameters
    ----------
    frames : iterable of DataFrame
        Each with all columns of the table; they are not held in memory.
    target : Path or text stream
        A path is replaced at once, when all is written. A stream takes CSV and JSON Lines.
    table : TableSchema
        Which table they are of.
    form : str, optional
        One of `FORMATS`; by default by the name of the file.
    partition : str, optional
        For Parquet: what it is parted by, see `parquetfile.partitions`.

    Raises
    ------
    UsageError
        If a frame is not of the table, or the format is none or does not fit.
    CatalogError
        If it cannot be written.
    """
    chosen = form_of(target if isinstance(target, Path) else Path(), form)
    if chosen == "parquet" and isinstance(target, Path):
        write_parquet(frames, target, table, partition=partition)
        return
    if chosen == "parquet":
        raise UsageError("Parquet is no text: it needs a file, not a text stream")
    if partition is not None:
        raise UsageError(f"only Parquet can be parted, not {chosen}")
    write = write_csv if chosen == "csv" else write_rows
    write(frames, target, table)


def read_table(path: Path, table: TableSchema, *, form: str | None = None) -> pd.DataFrame:
    """Read what a catalog exported.

    Parameters
    ----------
    path : Path
        File, or directory of parted Parquet.
    table : TableSchema
        Which table it is of.
    form : str, optional
        One of `FORMATS`; by default by the name of the file, parquet for a directory.

    Returns
    -------
    DataFrame
        With the dtypes of ``table.dtypes``.

    Raises
    ------
    UsageError
        If there is no such file or format.
    CatalogError
        If it cannot be read, or is not of the table.
    """
    chosen = form_of(path, form or ("parquet" if path.is_dir() else None))
    return _FORM_READERS[chosen](path, table)


def read_failures(path: Path) -> pd.DataFrame:
    """Read ``failures.csv``, or failures in another format.

    Parameters
    ----------
    path : Path
        What ``Catalog.export(path, "failures")`` wrote, perhaps saved by a spreadsheet since.

    Returns
    -------
    DataFrame
        As `Catalog.failures` gave it.

    Raises
    ------
    UsageError
        If there is no such file.
    CatalogError
        If it cannot be read, or is no such table.
    """
    return read_table(path, FAILURES)


def _read_lines(path: Path, table: TableSchema) -> pd.DataFrame:
    if table is OUTCOMES:
        rows = map(outcome_row, read_jsonl(path, Outcome))
    elif table is FINDINGS:
        rows = map(finding_row, read_jsonl(path, Finding))
    else:
        return read_rows(path, table)
    return make_frame(([row[name] for name in table.dtypes] for row in rows), table)


_FORM_READERS: dict[str, Callable[[Path, TableSchema], pd.DataFrame]] = {
    "csv": read_csv,
    "jsonl": _read_lines,
    "parquet": read_parquet,
}
