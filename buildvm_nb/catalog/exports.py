"""Tables of a catalog that leave it piece by piece, however many rows they have."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import pandas as pd
from sqlalchemy import Select, Table, select

from buildvm_nb.catalog import tables
from buildvm_nb.catalog.columns import TableSchema
from buildvm_nb.catalog.exchange import form_of, write_table
from buildvm_nb.catalog.failurerows import failures_frame
from buildvm_nb.catalog.failures import FailureRecords, chosen_failures
from buildvm_nb.catalog.frames import make_frame
from buildvm_nb.catalog.jsonlines import write_jsonl
from buildvm_nb.catalog.queries import documents, filtered, names_of, oldest_first, pages
from buildvm_nb.catalog.schema import FAILURES, FINDINGS, OUTCOMES
from buildvm_nb.errors import UsageError
from buildvm_nb.model.finding import Finding, FindingKind
from buildvm_nb.model.outcome import Outcome, Verdict

__all__ = ["EXPORTED", "Exports"]

EXPORTED = {table.name: table for table in (OUTCOMES, FINDINGS, FAILURES)}
"""The tables that can be exported, by name."""

_ROWS = 2_000
"""How many rows are held in memory at once."""


class Exports(FailureRecords):
    """How `Catalog` hands out whole tables in bounded memory."""

    def pieces(
        self,
        table: str,
        *,
        case: str | Iterable[str] | None = None,
        package: str | Iterable[str] | None = None,
        since: datetime | str | None = None,
        only: str | Iterable[str] | None = None,
        size: int = _ROWS,
    ) -> Iterator[pd.DataFrame]:
        """Return a table frame by frame, oldest first.

        Parameters
        ----------
        table : str
            ``outcomes``, ``findings`` (superseded ones too) or ``failures``.
        case, package, since
            As for `outcomes`, `findings` and `failures`.
        only : str or several of them, optional
            Verdicts of outcomes, kinds of findings or failures: only those with one of them.
        size : int
            Rows of a frame, at most.

        Returns
        -------
        iterator of DataFrame
            None of them empty; the index goes on from one to the next.

        Raises
        ------
        UsageError
            If there is no such table, or a filter is none.
        CatalogError
            If the catalog cannot be read.
        """
        wanted = _Wanted(case=case, package=package, since=since, only=only)
        return self._frames(_schema(table), wanted, size)

    def export(  # noqa: PLR0913 - filters, none of which need be given
        self,
        target: Path | IO[str],
        table: str = FAILURES.name,
        *,
        form: str | None = None,
        partition: str | None = None,
        case: str | Iterable[str] | None = None,
        package: str | Iterable[str] | None = None,
        since: datetime | str | None = None,
        only: str | Iterable[str] | None = None,
    ) -> None:
        """Write a table to a file, in bounded memory and without loss.

        Parameters
        ----------
        target : Path or text stream
            A path is replaced at once, when all is written. A stream takes CSV and JSON Lines.
        table : str
            ``failures``, ``findings`` (superseded ones too) or ``outcomes``.
        form : str, optional
            ``csv``, ``jsonl`` or ``parquet``; by default by the name of the file, else CSV. JSON
            Lines of outcomes and findings hold them whole, as `read_jsonl` reads them.
        partition : str, optional
            For Parquet: ``year`` (of ``recorded_at``), ``kind``, ``axis`` or ``verdict``; `target`
            becomes a directory.
        case, package, since, only
            As for `pieces`.

        Raises
        ------
        UsageError
            If there is no such table or format, or a filter is none.
        CatalogError
            If the catalog cannot be read or the file cannot be written.
        """
        schema = _schema(table)
        chosen = form_of(target if isinstance(target, Path) else Path(), form)
        wanted = _Wanted(case=case, package=package, since=since, only=only)
        if chosen == "jsonl" and schema is not FAILURES and partition is None:
            write_jsonl(self._documents(schema, wanted), target)
            return
        frames = self._frames(schema, wanted, _ROWS)
        write_table(frames, target, schema, form=chosen, partition=partition)

    def _frames(self, schema: TableSchema, wanted: "_Wanted", size: int) -> Iterator[pd.DataFrame]:
        if schema is FAILURES:
            query = oldest_first(wanted.failures(), tables.findings)
        else:
            source = _SOURCES[schema.name]
            query = wanted.rows(select(*(source.c[name] for name in schema.dtypes)), source)
        return self._read_frames(query, schema, size)

    def _read_frames(
        self, query: Select[Any], schema: TableSchema, size: int
    ) -> Iterator[pd.DataFrame]:
        done = 0
        for page in pages(self._database, query, size):
            frame = failures_frame(page) if schema is FAILURES else make_frame(page, schema)
            frame.index = pd.RangeIndex(done, done + len(frame))
            done += len(frame)
            yield frame

    def _documents(self, schema: TableSchema, wanted: "_Wanted") -> Iterator[str]:
        """Read documents, and return them as they are: a newer version may tell more there."""
        source = _SOURCES[schema.name]
        query = wanted.rows(select(source.c.id, source.c.document), source)
        kind: type[Outcome | Finding] = Outcome if source is tables.outcomes else Finding
        return documents(self._database, kind, query)


_SOURCES: dict[str, Table] = {
    OUTCOMES.name: tables.outcomes,
    FINDINGS.name: tables.findings,
}


def _schema(table: str) -> TableSchema:
    if table not in EXPORTED:
        raise UsageError(f"no such table: {table!r}; allowed: {', '.join(EXPORTED)}")
    return EXPORTED[table]


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """Which rows."""

    case: str | Iterable[str] | None
    package: str | Iterable[str] | None
    since: datetime | str | None
    only: str | Iterable[str] | None

    def rows(self, query: Select[Any], source: Table) -> Select[Any]:
        wanted: dict[str, str | Iterable[str] | None] = {
            "case_id": self.case,
            "package": self.package,
        }
        if source is tables.outcomes:
            wanted["verdict"] = names_of(self.only, Verdict, "verdict")
        else:
            wanted["kind"] = names_of(self.only, FindingKind, "kind of finding")
        return oldest_first(filtered(query, source, wanted, self.since), source)

    def failures(self) -> Select[Any]:
        return chosen_failures(
            case=self.case, kind=self.only, package=self.package, since=self.since
        )
