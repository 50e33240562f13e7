"""Tables in files: CSV, JSON Lines and Parquet, all read back as they were written."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

import pandas as pd

from buildvm_nb.catalog.columns import TableSchema
from buildvm_nb.catalog.csvfile import read_csv, write_csv
from buildvm_nb.catalog.findingrows import finding_row
from buildvm_nb.catalog.frames import make_frame
from buildvm_nb.catalog.jsonlines import read_jsonl
from buildvm_nb.catalog.parquetfile import read_parquet, write_parquet
from buildvm_nb.catalog.rowlines import read_rows, write_rows
from buildvm_nb.catalog.rows import outcome_row
from buildvm_nb.catalog.schema import FAILURES, FINDINGS, OUTCOMES
from buildvm_nb.errors import UsageError
from buildvm_nb.model.finding import Finding
from buildvm_nb.model.outcome import Outcome

__all__ = ["FORMATS", "form_of", "read_failures", "read_table", "write_table"]

FORMATS = ("csv", "jsonl", "parquet")


def form_of(path: Path, form: str | None = None) -> str:
    """Choose the format of a file.

    Parameters
    ----------
    path : Path
        Its name's end tells, where `form` does not.
    form : str, optional
        One of `FORMATS`.

    Returns
    -------
    str
        One of `FORMATS`; csv for any other name.

    Raises
    ------
    UsageError
        If there is no such format.
    """
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
    return _READERS[chosen](path, table)


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


_READERS: dict[str, Callable[[Path, TableSchema], pd.DataFrame]] = {
    "csv": read_csv,
    "jsonl": _read_lines,
    "parquet": read_parquet,
}
