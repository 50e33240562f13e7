"""JSON Lines of frames: one row on each line, as an object of its columns.

What is missing is ``null``, instants are ISO 8601 with ``Z``, and columns that hold JSON, which are
lists and objects, hold it here as it is, not as text.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import pandas as pd

from buildvm_nb.catalog.columns import Kind, TableSchema
from buildvm_nb.catalog.frames import check_frame, make_frame
from buildvm_nb.catalog.replacing import replacing
from buildvm_nb.catalog.rows import canonical_json
from buildvm_nb.errors import CatalogError, UsageError
from buildvm_nb.model.instants import format_instant

__all__ = ["read_rows", "write_rows"]


def write_rows(frames: Iterable[pd.DataFrame], target: Path | IO[str], table: TableSchema) -> None:
    """Write frames as JSON Lines.

    Parameters
    ----------
    frames : iterable of DataFrame
        Each with all columns of the table; they are not held in memory.
    target : Path or text stream
        A path is replaced at once, when all is written.
    table : TableSchema
        Which table they are of.

    Raises
    ------
    UsageError
        If a frame is not of the table.
    CatalogError
        If the file cannot be written.
    """
    lines = (line for frame in frames for line in _lines(frame, table))
    if isinstance(target, Path):
        with replacing(target) as stream:
            stream.writelines(lines)
    else:
        target.writelines(lines)


def read_rows(path: Path, table: TableSchema) -> pd.DataFrame:
    """Read what `write_rows` wrote.

    Parameters
    ----------
    path : Path
        UTF-8; blank lines are skipped.
    table : TableSchema
        Which table it is of.

    Returns
    -------
    DataFrame
        One row for each line, with the columns and dtypes of ``table.dtypes``.

    Raises
    ------
    UsageError
        If there is no such file.
    CatalogError
        If it cannot be read, or a line is no such row.
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


def _lines(frame: pd.DataFrame, table: TableSchema) -> Iterator[str]:
    check_frame(frame, table)
    names = list(table.dtypes)
    columns = []
    for column in table.columns:
        write, series = _WRITERS[column.kind], frame[column.name]
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
            values.append(None if value is None else _READERS[column.kind](value))
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


def _read_instant(value: str) -> datetime:
    instant = datetime.fromisoformat(value)
    if instant.tzinfo is None:
        message = "no time zone"
        raise ValueError(message)
    return instant.astimezone(UTC)


_WRITERS: dict[Kind, Callable[[Any], Any]] = {
    Kind.TEXT: str,
    Kind.JSON: json.loads,
    Kind.INTEGER: int,
    Kind.REAL: float,
    Kind.BOOLEAN: bool,
    Kind.INSTANT: format_instant,
}

_READERS: dict[Kind, Callable[[Any], Any]] = {
    Kind.TEXT: _exactly(str),
    Kind.JSON: canonical_json,
    Kind.INTEGER: _exactly(int),
    Kind.REAL: float,
    Kind.BOOLEAN: _exactly(bool),
    Kind.INSTANT: _read_instant,
}
