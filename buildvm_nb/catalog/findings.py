"""The findings of a catalog: what diagnoses concluded, tied to the outcomes that prove it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any

import pandas as pd
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Select,
    and_,
    exists,
    insert,
    literal,
    or_,
    select,
)
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from buildvm_nb.catalog import tables
from buildvm_nb.catalog.frames import make_frame
from buildvm_nb.catalog.inserting import insert_cases, insert_finding, known_ids
from buildvm_nb.catalog.queries import (
    filtered,
    find,
    names_of,
    newest_rows,
    oldest_first,
    stream,
)
from buildvm_nb.catalog.recording import Recording
from buildvm_nb.catalog.rows import storable
from buildvm_nb.catalog.schema import FINDINGS
from buildvm_nb.errors import CatalogError, CatalogUnreachable, UsageError
from buildvm_nb.model.finding import Axis, Finding, FindingKind
from buildvm_nb.model.instants import now

__all__ = ["FindingRecords", "Retraction", "is_current"]

Columns = ReadOnlyColumnCollection[str, Column[Any]]

_SHOWN = 5
_WHOLE = tuple(
    kind.value for kind in (FindingKind.SOUND, FindingKind.ALWAYS_FAILING, FindingKind.UNDETERMINED)
)
"""Kinds that speak of all axes at once where they are on none."""


@dataclass(frozen=True, kw_only=True)
class Retraction:
    """Why a finding is no longer believed."""

    finding_id: str
    because: str
    recorded_at: datetime


class FindingRecords(Recording):
    """What `Catalog` does with findings."""

    def record_finding(self, finding: Finding) -> Finding:
        """Keep a finding, for good; an earlier one is superseded, never changed.

        Where the catalog's server cannot be reached, the finding is kept on this host, as it is,
        until the catalog is opened the next time, and the user is told.

        Parameters
        ----------
        finding : Finding
            Not recorded before. What it replaces need not be said: see `findings`.

        Returns
        -------
        Finding
            The same.

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

    def retract(self, key: str, because: str) -> Retraction:
        """Say that a finding is no longer believed; it stays, and is never current again.

        Parameters
        ----------
        key : str
            Its id, or a beginning that no other finding's id has.
        because : str
            Why, for whoever reads it later.

        Returns
        -------
        Retraction
            As recorded.

        Raises
        ------
        UsageError
            If there is no such finding, it is retracted already, or no reason is given.
        CatalogError
            If the catalog cannot be written.
        """
        if not because.strip():
            raise UsageError(
                "a finding is retracted for a reason", hint="say why it is not believed"
            )
        finding = self.finding(key)
        told = Retraction(finding_id=finding.id, because=because.strip(), recorded_at=now())
        with self._database.writing() as connection:
            if known := _retraction(connection, finding.id):
                raise UsageError(f"finding {finding.id} is retracted already: {known.because}")
            row = {
                "finding_id": told.finding_id,
                "recorded_at": told.recorded_at,
                "because": storable(told.because),
                "tool_version": version("buildvm-nb"),
            }
            connection.execute(insert(tables.retractions), [row])
        return told

    def retraction(self, key: str) -> Retraction | None:
        """Tell whether a finding is no longer believed, and why.

        Parameters
        ----------
        key : str
            Its id.

        Returns
        -------
        Retraction or None
            None: it is not retracted.

        Raises
        ------
        CatalogError
            If the catalog cannot be read.
        """
        with self._database.reading() as connection:
            return _retraction(connection, key)

    def successors(self, key: str) -> list[str]:
        """Return the later findings that leave nothing of one.

        Parameters
        ----------
        key : str
            Its id.

        Returns
        -------
        list of str
            Their ids, oldest first; those that are retracted do not count.

        Raises
        ------
        CatalogError
            If the catalog cannot be read.
        """
        this, later = tables.findings.alias("this").c, tables.findings
        query = (
            select(later.c.id)
            .join(this.id.table, and_(this.id == key))
            .where(_is_replaced_by(this, later.c))
        )
        with self._database.reading() as connection:
            return list(connection.execute(oldest_first(query, later)).scalars())

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
        case: str | Iterable[str] | None = None,
        kind: FindingKind | str | Iterable[FindingKind | str] | None = None,
        axis: Axis | str | Iterable[Axis | str] | None = None,
        package: str | Iterable[str] | None = None,
        study: str | Iterable[str] | None = None,
        since: datetime | str | None = None,
        current: bool = True,
        limit: int | None = None,
    ) -> pd.DataFrame:
        """Return findings as a frame, oldest first.

        Parameters
        ----------
        case, package : str or several of them, optional
            Only those on the case with this id; on this package, however it is spelled.
        kind : FindingKind, str or several of them, optional
            Only those of one of these kinds.
        axis : Axis, str or several of them, optional
            Only those that one of these axes explains.
        study : str or several of them, optional
            Only those of this study.
        since : datetime or str, optional
            Aware, or text such as ``2026-11-24``; only those recorded at this instant or later.
        current : bool
            Only those that are not retracted and that no later one replaces: on the same case (id
            and build digest) and the same axis; or on all axes at once, as sound and always
            failing cases are; or on one axis where this one spoke of all. What is undetermined
            replaces only its like. False: all.
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
            "package": package,
            "study": study,
            "kind": _kinds(kind),
            "axis": names_of(axis, Axis, "axis"),
        }
        query = _chosen(select(*columns), wanted, since, current=current)
        return make_frame(newest_rows(self._database, tables.findings, query, limit), FINDINGS)

    def finding_documents(  # noqa: PLR0913 - filters, none of which need be given
        self,
        *,
        case: str | Iterable[str] | None = None,
        case_digest: str | None = None,
        kind: FindingKind | str | Iterable[FindingKind | str] | None = None,
        package: str | Iterable[str] | None = None,
        study: str | Iterable[str] | None = None,
        since: datetime | str | None = None,
        current: bool = True,
    ) -> Iterator[Finding]:
        """Iterate over whole findings, oldest first.

        Parameters
        ----------
        case, kind, package, study, since, current
            As for `findings`.
        case_digest : str, optional
            Only those on cases with this build digest, whatever their ids.

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
        wanted = {
            "case_id": case,
            "case_digest": case_digest,
            "package": package,
            "study": study,
            "kind": _kinds(kind),
        }
        query = _chosen(whole, wanted, since, current=current)
        return stream(self._database, Finding, oldest_first(query, tables.findings))

    def _conclude(self, finding: Finding) -> Finding:
        with self._database.writing() as connection:
            self._refuse(connection, finding)
            insert_cases(connection, [finding.case])
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
    wanted: Mapping[str, str | Iterable[str] | None],
    since: datetime | str | None,
    *,
    current: bool,
) -> Select[Any]:
    if current:
        query = query.where(is_current())
    return filtered(query, tables.findings, wanted, since)


def is_current() -> ColumnElement[bool]:
    """Return the condition that a finding is neither retracted nor replaced by a later one.

    A later finding on the same case (id and build digest), by the instants at which they were
    concluded and then by their ids, replaces one that answers the same question: on the same axis,
    or likewise on none. What passes everywhere replaces what was found on the axes that it was
    tried along, what fails everywhere all of it, and what depends on an axis what was said of all
    axes. But what is undetermined replaces only its like: it refutes nothing.

    Returns
    -------
    ColumnElement
        True of current ones.
    """
    this, later = tables.findings.c, tables.findings.alias("later")
    other = later.c
    by_name = tables.findings.alias("successor")
    return and_(
        ~_is_retracted(this.id),
        ~exists().where(_is_later(this, other), _replaces(this, other), ~_is_retracted(other.id)),
        # two conditions, so that each has an index
        ~exists().where(by_name.c.supersedes == this.id, ~_is_retracted(by_name.c.id)),
    )


def _is_replaced_by(this: Columns, other: Columns) -> ColumnElement[bool]:
    later = and_(_is_later(this, other), _replaces(this, other))
    return and_(or_(later, other.supersedes == this.id), ~_is_retracted(other.id))


def _is_later(this: Columns, other: Columns) -> ColumnElement[bool]:
    return and_(
        other.case_id == this.case_id,
        other.case_digest == this.case_digest,
        other.recorded_at >= this.recorded_at,  # for the index
        or_(other.recorded_at > this.recorded_at, other.id > this.id),
    )


def _replaces(this: Columns, other: Columns) -> ColumnElement[bool]:
    """Return the condition that a later finding on the same build leaves nothing of this one."""
    undetermined = FindingKind.UNDETERMINED.value
    is_told_along = (literal(" ") + other.covers + literal(" ")).contains(
        literal(" ") + this.axis + literal(" ")
    )
    answers = or_(
        this.axis.is_not_distinct_from(other.axis),
        and_(other.kind == FindingKind.SOUND.value, is_told_along),
        other.kind == FindingKind.ALWAYS_FAILING.value,
        and_(this.kind.in_(_WHOLE), other.axis.is_not(None)),
    )
    return or_(
        and_(other.kind != undetermined, answers),
        and_(
            other.kind == undetermined,
            this.kind == undetermined,
            this.axis.is_not_distinct_from(other.axis),
        ),
    )


def _is_retracted(key: ColumnElement[str]) -> ColumnElement[bool]:
    return key.in_(select(tables.retractions.c.finding_id))  # few: looked up once, not for each


def _retraction(connection: Connection, key: str) -> Retraction | None:
    column = tables.retractions.c
    row = connection.execute(
        select(column.finding_id, column.because, column.recorded_at).where(
            column.finding_id == storable(key)
        )
    ).first()
    return row and Retraction(**row._asdict())
