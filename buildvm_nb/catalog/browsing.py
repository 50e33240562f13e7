"""Looking through a catalog page by page: SQL filters, sorts and cuts, however much is in it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
from sqlalchemy import Select, Table, func, or_, select

from buildvm_nb.catalog import tables
from buildvm_nb.catalog.columns import TableSchema
from buildvm_nb.catalog.exchange import write_table
from buildvm_nb.catalog.exports import Exports
from buildvm_nb.catalog.failurerows import FAILURE_KINDS, failures_query
from buildvm_nb.catalog.findings import is_current
from buildvm_nb.catalog.frames import make_frame
from buildvm_nb.catalog.queries import filtered, names_of, oldest_first
from buildvm_nb.catalog.rows import storable
from buildvm_nb.catalog.schema import FAILURES, FINDINGS, OUTCOMES
from buildvm_nb.errors import UsageError
from buildvm_nb.model.finding import Axis, FindingKind
from buildvm_nb.model.outcome import Verdict

__all__ = ["SEARCHED", "Browsing", "Selection"]

_ROWS = 2_000
_TABLES: dict[str, tuple[TableSchema, Table]] = {
    OUTCOMES.name: (OUTCOMES, tables.outcomes),
    FINDINGS.name: (FINDINGS, tables.findings),
    FAILURES.name: (FAILURES, tables.findings),
}
SEARCHED = {
    OUTCOMES.name: (
        *("id", "case_id", "source_name", "source_version", "study", "image", "cpu", "kernel"),
        *("reason", "evidence"),
    ),
    FINDINGS.name: (
        *("id", "case_id", "source_name", "source_version", "study", "summary", "first_after"),
        *("cause_path", "cause_why", "features", "failing_line"),
    ),
}
"""The columns of each SQL table in which a text is sought."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which rows of a table are wanted; what is left empty leaves all."""

    case: str = ""
    """Part of the case's id."""
    text: str = ""
    """Part of any of the columns in `SEARCHED`; upper and lower case are the same."""
    only: tuple[str, ...] = ()
    """Verdicts of outcomes, kinds of findings."""
    axis: tuple[str, ...] = ()
    """Axes that explain findings; outcomes have none."""
    since: datetime | None = None
    until: datetime | None = None
    """Aware; recorded at this instant or later, and before that one."""


class Browsing(Exports):
    """How `Catalog` shows what it has, page by page."""

    def counts(self) -> dict[str, dict[str, int]]:
        """Count what is there.

        Returns
        -------
        dict
            For ``outcomes`` how many have which verdict, for ``findings`` how many current ones
            are of which kind.

        Raises
        ------
        CatalogError
            If the catalog cannot be read.
        """
        verdict, kind = tables.outcomes.c.verdict, tables.findings.c.kind
        of_outcomes = select(verdict, func.count()).group_by(verdict).order_by(verdict)
        of_findings = select(kind, func.count()).where(is_current()).group_by(kind).order_by(kind)
        with self._database.reading() as connection:
            return {
                name: {str(what): int(count) for what, count in connection.execute(query)}
                for name, query in ((OUTCOMES.name, of_outcomes), (FINDINGS.name, of_findings))
            }

    def count(self, table: str, wanted: Selection = Selection()) -> int:
        """Count the rows of a selection.

        Parameters
        ----------
        table : str
            ``outcomes``; ``findings``, current ones, or those of them that are ``failures``.
        wanted : Selection
            Which rows.

        Returns
        -------
        int
            How many there are.

        Raises
        ------
        UsageError
            If there is no such table, or the selection is none.
        CatalogError
            If the catalog cannot be read.
        """
        _, source = _table(table)
        query = _selected(select(func.count()).select_from(source), table, wanted)
        with self._database.reading() as connection:
            return int(connection.execute(query).scalar_one())

    def page(
        self,
        table: str,
        wanted: Selection = Selection(),
        *,
        sort: str = "recorded_at",
        descending: bool = True,
        offset: int = 0,
        size: int = 20,
    ) -> pd.DataFrame:
        """Return a page of a selection.

        Parameters
        ----------
        table : str
            ``outcomes``, or ``findings``: current ones.
        wanted : Selection
            Which rows.
        sort : str
            Column to sort by; what is missing comes last.
        descending : bool
            The greatest first.
        offset : int
            How many rows come before the page.
        size : int
            At most so many rows.

        Returns
        -------
        DataFrame
            One row each, with the columns and dtypes of the table's schema.

        Raises
        ------
        UsageError
            If there is no such table or column, or the selection is none.
        CatalogError
            If the catalog cannot be read.
        """
        schema, source = _table(table)
        if table == FAILURES.name:
            raise UsageError("failures have no pages; take findings of their kinds")
        if sort not in schema.dtypes:
            raise UsageError(f"no such column of {table}: {sort!r}", hint=", ".join(schema.dtypes))
        if offset < 0 or size < 1:
            raise UsageError(f"no such page: {size} rows after {offset}")
        query = _selected(select(*(source.c[name] for name in schema.dtypes)), table, wanted)
        keys = (source.c[sort], source.c.id)
        order = [key.desc() if descending else key.asc() for key in keys]
        query = query.order_by(order[0].nulls_last(), order[1]).offset(offset).limit(size)
        with self._database.reading() as connection:
            return make_frame(connection.execute(query).all(), schema)

    def selected(self, table: str, wanted: Selection) -> Iterator[pd.DataFrame]:
        """Return all rows of a selection, frame by frame, oldest first.

        Parameters
        ----------
        table : str
            As for `count`.
        wanted : Selection
            Which rows.

        Returns
        -------
        iterator of DataFrame
            With the columns and dtypes of the table's schema.

        Raises
        ------
        UsageError
            If there is no such table, or the selection is none.
        CatalogError
            If the catalog cannot be read.
        """
        schema, source = _table(table)
        columns = select(*(source.c[name] for name in schema.dtypes if name in source.c))
        query = failures_query() if schema is FAILURES else columns
        chosen = oldest_first(_selected(query, table, wanted), source)
        return self._read_frames(chosen, schema, _ROWS)

    def export_selected(self, target: Path, table: str, wanted: Selection) -> None:
        """Write all rows of a selection to a CSV file, in bounded memory and without loss.

        Parameters
        ----------
        target : Path
            It is replaced at once, when all is written.
        table : str
            As for `count`.
        wanted : Selection
            Which rows.

        Raises
        ------
        UsageError
            If there is no such table, or the selection is none.
        CatalogError
            If the catalog cannot be read or the file cannot be written.
        """
        schema, _ = _table(table)
        write_table(self.selected(table, wanted), target, schema, form="csv", partition=None)


def _table(name: str) -> tuple[TableSchema, Table]:
    if name not in _TABLES:
        raise UsageError(f"no such table: {name!r}; allowed: {', '.join(_TABLES)}")
    return _TABLES[name]


def _selected(query: Select[Any], table: str, wanted: Selection) -> Select[Any]:
    source = _TABLES[table][1]
    columns: dict[str, str | tuple[str, ...] | None] = {}
    if source is tables.findings:
        kinds = names_of(wanted.only or None, FindingKind, "kind of finding")
        if table == FAILURES.name:
            kinds = tuple(kind for kind in kinds or FindingKind if kind in FAILURE_KINDS)
        columns = {"kind": kinds, "axis": names_of(wanted.axis or None, Axis, "axis")}
        query = query.where(is_current())
    else:
        columns["verdict"] = names_of(wanted.only or None, Verdict, "verdict")
        if wanted.axis:
            raise UsageError("outcomes have no axis; findings have")
    query = filtered(query, source, columns, wanted.since)
    if wanted.until is not None:
        if wanted.until.tzinfo is None:
            raise UsageError(f"an instant needs a zone: {wanted.until.isoformat()}")
        query = query.where(source.c.recorded_at < wanted.until)
    if wanted.case:
        query = query.where(source.c.case_id.icontains(storable(wanted.case), autoescape=True))
    if wanted.text:
        sought = storable(wanted.text)
        places = (source.c[name] for name in SEARCHED[source.name])
        query = query.where(or_(*(place.icontains(sought, autoescape=True) for place in places)))
    return query
