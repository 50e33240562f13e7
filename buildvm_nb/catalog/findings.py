"""The findings of a catalog: what diagnoses concluded, tied to the outcomes that prove it."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import pandas as pd
from sqlalchemy import ColumnElement, Connection, Select, exists, select

from buildvm_nb.catalog import tables
from buildvm_nb.catalog.frames import make_frame
from buildvm_nb.catalog.inserting import insert_finding, insert_new, known_ids
from buildvm_nb.catalog.queries import (
    filtered,
    find,
    names_of,
    newest_rows,
    oldest_first,
    stream,
)
from buildvm_nb.catalog.recording import Recording
from buildvm_nb.catalog.schema import FINDINGS
from buildvm_nb.errors import CatalogError, CatalogUnreachable
from buildvm_nb.model.finding import Axis, Finding, FindingKind

__all__ = ["FindingRecords", "is_current"]

_SHOWN = 5


class FindingRecords(Recording):
    """What `Catalog` does with findings."""

    def record_finding(self, finding: Finding) -> Finding:
        """Keep a finding, for good; an earlier one is superseded, never changed.

        Where the catalog's server cannot be reached, the finding is kept on this host, as it is,
        until the catalog is opened the next time, and the user is told.

        Parameters
        ----------
        finding : Finding
            Not recorded before. Where its `supersedes` is None, that becomes the id of the newest
            current finding, if there is one, that is on the same case (id and build digest), has
            the same axis or likewise none, and is not younger: both answer the same question.
            But what is undetermined supersedes only its like: it refutes nothing.

        Returns
        -------
        Finding
            As recorded: with the id of the finding that it supersedes, if any.

        Raises
        ------
        CatalogError
            If the id is there already, its evidence or the finding that it supersedes is not in
            this catalog, or the catalog cannot be written; then nothing was recorded.
        """
        try:
            return self._conclude(finding)
        except CatalogUnreachable as error:
            self._keep_unsent([finding], error)
            return finding

    def finding(self, key: str) -> Finding:
        """Return one finding, without loss.

        Parameters
        ----------
        key : str
            Its id, or a beginning that no other finding's id has.

        Returns
        -------
        Finding
            As it was recorded.

        Raises
        ------
        UsageError
            If there is none, or more than one.
        CatalogError
            If the catalog cannot be read.
        """
        return find(self._database, key, Finding)

    def findings(  # noqa: PLR0913 - filters, none of which need be given
        self,
        *,
        case: str | None = None,
        kind: FindingKind | str | Iterable[FindingKind | str] | None = None,
        axis: Axis | str | Iterable[Axis | str] | None = None,
        package: str | None = None,
        study: str | None = None,
        since: datetime | None = None,
        current: bool = True,
        limit: int | None = None,
    ) -> pd.DataFrame:
        """Return findings as a frame, oldest first.

        Parameters
        ----------
        case, package : str, optional
            Only those on the case with this id; on a source of exactly this name.
        kind : FindingKind, str or several of them, optional
            Only those of one of these kinds.
        axis : Axis, str or several of them, optional
            Only those that one of these axes explains.
        study : str, optional
            Only those of this study.
        since : datetime, optional
            Aware; only those recorded at this instant or later.
        current : bool
            Only those that no other finding supersedes; False: all.
        limit : int, optional
            At most so many, the newest ones.

        Returns
        -------
        DataFrame
            One row each, with the columns and dtypes of ``schema.FINDINGS.dtypes``.

        Raises
        ------
        UsageError
            If a filter is none: an unknown kind, a naive instant, a negative limit.
        CatalogError
            If the catalog cannot be read.
        """
        columns = [tables.findings.c[column.name] for column in FINDINGS.columns]
        wanted = {
            "case_id": case,
            "source_name": package,
            "study": study,
            "kind": _kinds(kind),
            "axis": names_of(axis, Axis, "axis"),
        }
        query = _chosen(select(*columns), wanted, since, current=current)
        return make_frame(newest_rows(self._database, tables.findings, query, limit), FINDINGS)

    def finding_documents(
        self,
        *,
        case: str | None = None,
        kind: FindingKind | str | Iterable[FindingKind | str] | None = None,
        study: str | None = None,
        since: datetime | None = None,
        current: bool = True,
    ) -> Iterator[Finding]:
        """Iterate over whole findings, oldest first.

        Parameters
        ----------
        case, kind, study, since, current
            As for `findings`.

        Returns
        -------
        iterator of Finding
            Each as it was recorded.

        Raises
        ------
        UsageError
            If a filter is none.
        CatalogError
            If the catalog cannot be read.
        """
        whole = select(tables.findings.c.id, tables.findings.c.document)
        wanted = {"case_id": case, "study": study, "kind": _kinds(kind)}
        query = _chosen(whole, wanted, since, current=current)
        return stream(self._database, Finding, oldest_first(query, tables.findings))

    def _conclude(self, finding: Finding) -> Finding:
        case = {"id": finding.case.id, "digest": finding.case.build_digest()}
        with self._database.writing() as connection:
            self._refuse(connection, finding)
            document = finding.case.model_dump_json(by_alias=True)
            insert_new(connection, tables.cases, [{**case, "document": document}])
            if finding.supersedes is None:
                earlier = _superseded_by(connection, finding, case)
                finding = finding.model_copy(update={"supersedes": earlier})
            insert_finding(connection, finding)
        return finding

    def _refuse(self, connection: Connection, finding: Finding) -> None:
        """Raise if the id is taken, or if something is not there that the finding refers to."""
        column, name = tables.findings.c, self._database.name
        if connection.execute(select(column.id).where(column.id == finding.id)).first():
            raise CatalogError(f"finding is recorded already: {finding.id} in {name}")
        if finding.supersedes is not None:
            earlier = column.id == finding.supersedes, column.case_id == finding.case.id
            if not connection.execute(select(column.id).where(*earlier)).first():
                raise CatalogError(
                    f"finding {finding.id} supersedes {finding.supersedes}, which is no finding on "
                    f"case {finding.case.id} in {name}"
                )
        known = known_ids(connection, tables.outcomes, finding.evidence)
        if missing := [key for key in dict.fromkeys(finding.evidence) if key not in known]:
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise CatalogError(
                f"evidence of finding {finding.id} is not in {name}: no outcome "
                f"{', '.join(missing[:_SHOWN])}{more}",
                hint="record the outcomes first",
            )


def _kinds(
    kind: FindingKind | str | Iterable[FindingKind | str] | None,
) -> tuple[str, ...] | None:
    return names_of(kind, FindingKind, "kind of finding")


def _chosen(
    query: Select[Any],
    wanted: Mapping[str, str | tuple[str, ...] | None],
    since: datetime | None,
    *,
    current: bool,
) -> Select[Any]:
    if current:
        query = query.where(is_current())
    return filtered(query, tables.findings, wanted, since)


def is_current() -> ColumnElement[bool]:
    """Return the condition that no other finding supersedes a finding.

    Returns
    -------
    ColumnElement
        True of current ones.
    """
    later = tables.findings.alias("later")
    return ~exists().where(later.c.supersedes == tables.findings.c.id)


def _superseded_by(connection: Connection, finding: Finding, case: dict[str, str]) -> str | None:
    """Return the id of the finding that a new one supersedes where it does not say so itself."""
    # another process that concludes on the same case waits until this one's finding is there
    row = filtered(select(tables.cases.c.id), tables.cases, case)
    connection.execute(row.with_for_update(key_share=True))
    column = tables.findings.c
    query = select(column.id).where(
        is_current(),
        column.case_id == case["id"],
        column.case_digest == case["digest"],
        column.axis == (finding.axis and finding.axis.value),
        column.recorded_at <= finding.recorded_at,
    )
    if finding.kind is FindingKind.UNDETERMINED:
        query = query.where(column.kind == finding.kind.value)
    newest = query.order_by(column.recorded_at.desc(), column.id.desc()).limit(1)
    return connection.execute(newest).scalar()
