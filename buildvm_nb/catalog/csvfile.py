"""CSV without loss, and safe to open in a spreadsheet.

A file has a header line, commas, line feeds, UTF-8, and quotes (doubled inside) around cells that
need them. Reading takes a byte-order mark and CRLF line ends as well. Cells are written so:

* an empty cell is a missing value;
* a cell that begins with an apostrophe is text: what follows the apostrophe. So an empty text is
  ``'``, and text that begins with an apostrophe or with what a spreadsheet takes for a formula
  (``=``, ``+``, ``-``, ``@``, tab, carriage return, line feed, and the full-width forms) has one
  put before it;
* a spreadsheet that parts cells at semicolons or tabs would see cells within a text. So an
  apostrophe is put behind each semicolon, tab, carriage return and line feed that is followed by
  any number of quotes, apostrophes and spaces and then by such a sign; a reader takes it away;
* any other cell of a text column is that text: ``NA``, ``null`` and ``0012345`` stay as they are;
* integers are decimal, numbers are as exact as Python prints them, truth values ``TRUE`` and
  ``FALSE``, as R and spreadsheets have them, and instants ISO 8601 with ``Z``.

Reading takes what spreadsheets and ``DataFrame.to_csv`` make of it, too: truth values in any case,
an index without a name before the first column, semicolons or tabs between cells.

References
----------
RFC 4180; OWASP, "CSV Injection".
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any

import pandas as pd

from buildvm_nb.catalog.columns import Column, Kind, TableSchema
from buildvm_nb.catalog.frames import check_frame, make_array
from buildvm_nb.catalog.replacing import replacing
from buildvm_nb.catalog.schema import OUTCOMES
from buildvm_nb.errors import CatalogError, UsageError
from buildvm_nb.model.instants import format_instant

__all__ = ["read_csv", "write_csv"]

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
