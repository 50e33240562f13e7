"""The catalog: outcomes and findings in a database, logs in files beside it. It only ever grows."""

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import pandas as pd
import platformdirs
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Select,
    Table,
    and_,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
)
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from buildvm_nb.catalog import database as tables
from buildvm_nb.catalog import traps as traps  # noqa: PLC0414 - gives frames their .traps
from buildvm_nb.catalog.database import Database, default_place
from buildvm_nb.catalog.frames import make_frame
from buildvm_nb.catalog.logs import LogStore, Unsent
from buildvm_nb.catalog.maintenance import Collected, Merged, Side, Trouble, check, collect, merge
from buildvm_nb.catalog.query import (
    documents,
    filtered,
    find,
    insert_cases,
    insert_finding,
    insert_outcomes,
    instant_of,
    is_same,
    known_ids,
    names_of,
    newest_case,
    newest_rows,
    oldest_first,
    pages,
    stored_documents,
    stream,
    uncollected,
)
from buildvm_nb.catalog.rows import storable
from buildvm_nb.catalog.schema import FAILURES, FINDINGS, HINTS, OUTCOMES, TableSchema
from buildvm_nb.catalog.tablefiles import form_of, write_jsonl, write_table
from buildvm_nb.catalog.traps import (
    FAILURE_KINDS,
    failures_frame,
    failures_query,
    hint_rows,
    hints_query,
)
from buildvm_nb.errors import CatalogError, CatalogUnreachable, UsageError
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.case import Case
from buildvm_nb.model.display import card
from buildvm_nb.model.finding import Axis, Finding, FindingKind, HintKind
from buildvm_nb.model.instants import now
from buildvm_nb.model.outcome import Outcome, Verdict

__all__ = [
    "EXPORTED",
    "Catalog",
    "Selection",
    "usual_logs",
]

# How outcomes and their logs get into a catalog.

_EMPTY = hashlib.sha256(b"").hexdigest()
_SHOWN = 5


class Recording:
    """What `Catalog` does with new outcomes, and with what a server cannot take now."""

    _database: Database
    _logs: LogStore
    _unsent: Unsent
    _tell: Callable[[str], None]
    _told = False

    def record(self, outcome: Outcome, log: bytes | Path = b"") -> Outcome:
        """Keep an outcome and its log, for good.

        Where the catalog's server cannot be reached, both are kept on this host until the catalog
        is opened the next time, and the user is told.

        `outcome`: not recorded before. Its `log_digest` may be empty, else it must be the log's.
        `log`: the log's text or a file with it; empty: there is none, or the catalog has it.
        Raises `CatalogError` if the id is there already, the log does not match the digest, or the
        catalog cannot be written; then nothing was recorded.
        """
        return self.record_many([(outcome, log)])[0]

    def record_many(self, entries: Iterable[tuple[Outcome, bytes | Path]]) -> list[Outcome]:
        """Keep many outcomes and their logs at once: all of them, or none.

        This is many times faster than one after the other. Memory grows with their number, and
        other writers wait meanwhile: hand over some thousands at a time.

        Returns: as recorded, in the same order.
        """
        if self._database.read_only:
            raise CatalogError(
                f"the catalog is read-only: {self._database.name}",
                hint="name another one with BUILDVM_CATALOG",
            )
        given = list(entries)
        has_logs = any(log != b"" or outcome.log_digest for outcome, log in given)
        with self._logs.held() if has_logs else nullcontext():
            sizes: dict[str, int] = {}
            outcomes = [self._keep_log(outcome, log, sizes) for outcome, log in given]
            try:
                self._insert_outcomes(outcomes, sizes)
            except CatalogUnreachable as error:
                self._keep_unsent(outcomes, error)
        return outcomes

    def _insert_outcomes(self, outcomes: Sequence[Outcome], log_sizes: Mapping[str, int]) -> None:
        keys = [outcome.id for outcome in outcomes]
        if len(set(keys)) < len(keys):
            raise CatalogError(f"outcome is given twice: {_some(_repeated(keys))}")
        with self._database.writing() as connection:
            if known := known_ids(connection, tables.outcomes, keys):
                raise CatalogError(
                    f"outcome is recorded already: {_some(known)} in {self._database.name}"
                )
            insert_outcomes(connection, outcomes, log_sizes)

    def _keep_log(self, outcome: Outcome, log: bytes | Path, sizes: dict[str, int]) -> Outcome:
        wanted = outcome.log_digest
        if log == b"" and wanted != _EMPTY:
            if wanted and wanted not in sizes:
                sizes[wanted] = sum(map(len, self._logs.stream(wanted)))
            return outcome
        digest, size = self._logs.add(log)
        if wanted and wanted != digest:
            raise CatalogError(
                f"the log is not that of outcome {outcome.id}: it has SHA-256 {digest}; "
                f"the outcome says {wanted}"
            )
        sizes[digest] = size
        return outcome if wanted else outcome.model_copy(update={"log_digest": digest})

    def _keep_unsent(self, entries: Iterable[Outcome | Finding], error: CatalogUnreachable) -> None:
        """Keep on this host what the server cannot take, and say so once."""
        for entry in entries:
            self._unsent.keep(entry)
        if not self._told:
            self._told = True
            self._tell(
                f"{error.message}; what is recorded from here on is kept in {self._unsent.root} "
                "and goes to the catalog when it is opened the next time"
            )


def _repeated(keys: Iterable[str]) -> set[str]:
    return {key for key, count in Counter(keys).items() if count > 1}


def _some(keys: Iterable[str]) -> str:
    ordered = sorted(keys)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more


# The findings of a catalog: what diagnoses concluded, tied to the outcomes that prove it.

Columns = ReadOnlyColumnCollection[str, Column[Any]]

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

        `finding`: not recorded before. What it replaces need not be said: see `findings`.
        Raises `CatalogError` if the id is there already, its evidence or the finding that it
        supersedes is not in this catalog, or the catalog cannot be written; then nothing was
        recorded.
        """
        try:
            return self._conclude(finding)
        except CatalogUnreachable as error:
            self._keep_unsent([finding], error)
            return finding

    def retract(self, key: str, because: str) -> Retraction:
        """Say that a finding is no longer believed; it stays, and is never current again.

        Raises `UsageError` if there is no such finding, it is retracted already, or no reason is
        given.
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

        Returns: None: it is not retracted.
        """
        with self._database.reading() as connection:
            return _retraction(connection, key)

    def successors(self, key: str) -> list[str]:
        """Return the later findings that leave nothing of one."""
        this, later = tables.findings.alias("this").c, tables.findings
        query = (
            select(later.c.id)
            .join(this.id.table, and_(this.id == key))
            .where(_is_replaced_by(this, later.c))
        )
        with self._database.reading() as connection:
            return list(connection.execute(oldest_first(query, later)).scalars())

    def finding(self, key: str) -> Finding:
        """Return one finding, without loss."""
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

        `case`, `package`: only those on the case with this id; on this package, however it is
        spelled.
        `since`: aware, or text such as ``2026-11-24``; only those recorded at this instant or
        later.
        `current`: only those that are not retracted and that no later one replaces: on the same
        case (id and build digest) and the same axis; or on all axes at once, as sound and always
        failing cases are; or on one axis where this one spoke of all. What is undetermined replaces
        only its like. False: all.
        Raises `UsageError` if a filter is none: an unknown kind, a naive instant, a negative limit.
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
        """Iterate over whole findings, oldest first."""
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


# The failures of a catalog: its current findings as the public table, and their causes.

_KIND, _AXIS = (list(HINTS.dtypes).index(name) for name in ("kind", "axis"))


class FailureRecords(FindingRecords):
    """What `Catalog` tells of failures."""

    def failures(  # noqa: PLR0913 - filters, none of which need be given
        self,
        *,
        case: str | Iterable[str] | None = None,
        kind: FindingKind | str | Iterable[FindingKind | str] | None = None,
        axis: Axis | str | Iterable[Axis | str] | None = None,
        package: str | Iterable[str] | None = None,
        since: datetime | str | None = None,
        springs_before: datetime | str | None = None,
        limit: int | None = None,
    ) -> pd.DataFrame:
        """Return the current findings that tell of a failure, oldest first.

        The runs in which a case did not pass are
        ``outcomes(verdict=["failed", "crashed", "timeout"])``.

        `case`, `package`: only those on the case with this id; on this package, however it is
        spelled.
        `kind`: only those of one of these kinds; by default of all but ``sound`` and
        ``undetermined``.
        `since`: aware, or text such as ``2026-11-24``; only those recorded at this instant or
        later.
        `springs_before`: aware, or text such as ``2028-01-01``; only time traps that spring, or may
        spring, before this instant.
        Raises `UsageError` if a filter is none: an unknown kind, a naive instant, a negative limit.
        """
        query = chosen_failures(case=case, kind=kind, axis=axis, package=package, since=since)
        if springs_before is not None:
            query = query.where(tables.findings.c.may_spring_from < instant_of(springs_before))
        with uncollected():
            return failures_frame(newest_rows(self._database, tables.findings, query, limit))

    def hints(
        self,
        *,
        case: str | Iterable[str] | None = None,
        kind: HintKind | str | Iterable[HintKind | str] | None = None,
        axis: Axis | str | Iterable[Axis | str] | None = None,
        package: str | Iterable[str] | None = None,
        since: datetime | str | None = None,
        limit: int | None = None,
    ) -> pd.DataFrame:
        """Return the hints that current findings name as the cause of a boundary, oldest first.

        `case`, `package`: only those of findings on the case with this id; on this package, however
        spelled.
        `since`: aware, or text such as ``2026-11-24``; only those of findings recorded at this
        instant or later.
        `limit`: those of at most so many findings, the newest ones.
        Returns: one row for each boundary with a cause, with the columns and dtypes of
        ``schema.HINTS.dtypes``.
        Raises `UsageError` if a filter is none: an unknown kind, a naive instant, a negative limit.
        """
        fits = partial(
            _fits,
            kinds=names_of(kind, HintKind, "kind of hint"),
            axes=names_of(axis, Axis, "axis"),
        )
        wanted = {"case_id": case, "package": package}
        query = filtered(hints_query().where(is_current()), tables.findings, wanted, since)
        rows = newest_rows(
            self._database,
            tables.findings,
            query,
            limit,
            lambda row: any(map(fits, hint_rows(row))),
        )
        return make_frame((hint for row in rows for hint in hint_rows(row) if fits(hint)), HINTS)


def chosen_failures(
    *,
    case: str | Iterable[str] | None = None,
    kind: FindingKind | str | Iterable[FindingKind | str] | None = None,
    axis: Axis | str | Iterable[Axis | str] | None = None,
    package: str | Iterable[str] | None = None,
    since: datetime | str | None = None,
) -> Select[Any]:
    """Ask for failures."""
    kinds = names_of(FAILURE_KINDS if kind is None else kind, FindingKind, "kind of finding")
    for name in kinds or ():
        if name not in FAILURE_KINDS:
            raise UsageError(
                f"no kind of failure: {name!r}; allowed: {', '.join(FAILURE_KINDS)}",
                hint="findings() and `buildvm catalog findings` have all kinds",
            )
    wanted = {
        "case_id": case,
        "package": package,
        "kind": kinds,
        "axis": names_of(axis, Axis, "axis"),
    }
    return filtered(failures_query().where(is_current()), tables.findings, wanted, since)


def _fits(hint: list[Any], kinds: tuple[str, ...] | None, axes: tuple[str, ...] | None) -> bool:
    return (kinds is None or hint[_KIND] in kinds) and (axes is None or hint[_AXIS] in axes)


# Tables of a catalog that leave it piece by piece, however many rows they have.

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

        `only`: verdicts of outcomes, kinds of findings or failures: only those with one of them.
        `size`: rows of a frame, at most.
        Returns: None of them empty; the index goes on from one to the next.
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

        `target`: a path is replaced at once, when all is written. A stream takes CSV and JSON
        Lines.
        `form`: ``csv``, ``jsonl`` or ``parquet``; by default by the name of the file, else CSV.
        JSON Lines of outcomes and findings hold them whole, as `read_jsonl` reads them.
        `partition`: for Parquet: ``year`` (of ``recorded_at``), ``kind``, ``axis`` or ``verdict``;
        `target` becomes a directory.
        Raises `UsageError` if there is no such table or format, or a filter is none.
        Raises `CatalogError` if the catalog cannot be read or the file cannot be written.
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


# Looking through a catalog page by page: SQL filters, sorts and cuts, however much is in it.

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

        Returns: for ``outcomes`` how many have which verdict, for ``findings`` how many current
        ones are of which kind.
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
        """Count the rows of a selection."""
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

        Returns: one row each, with the columns and dtypes of the table's schema.
        Raises `UsageError` if there is no such table or column, or the selection is none.
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
        """Return all rows of a selection, frame by frame, oldest first."""
        schema, source = _table(table)
        columns = select(*(source.c[name] for name in schema.dtypes if name in source.c))
        query = failures_query() if schema is FAILURES else columns
        chosen = oldest_first(_selected(query, table, wanted), source)
        return self._read_frames(chosen, schema, _ROWS)

    def export_selected(self, target: Path, table: str, wanted: Selection) -> None:
        """Write all rows of a selection to a CSV file, in bounded memory and without loss.

        Raises `CatalogError` if the catalog cannot be read or the file cannot be written.
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


# What keeps a catalog whole: check, merge, removal of what nobody has.


def usual_logs(database: Database) -> Path:
    """Return where a catalog's logs are when nobody says.

    Returns: ``logs`` beside a SQLite file, or in the user's data directory for a server.
    """
    file = database.file
    beside = platformdirs.user_data_path("buildvm-nb") if file is None else file.parent
    return beside / "logs"


class Care:
    """What `Catalog` does to be and to stay whole."""

    _database: Database
    _logs: LogStore
    _unsent: Unsent

    def merge(
        self, other: str | Path, *, logs: Path | None = None, progress: Progress = SILENT
    ) -> Merged:
        """Add what another catalog has and this one has not; doing so again adds nothing.

        `other`: its file or URL. It is left as it is, also where its schema is older.
        `logs`: directory of its logs; by default as for `Catalog`.
        Raises `CatalogError` if an id stands for different things in both, or something in the
        other one cannot be read: then nothing was added. Or if a catalog fails.
        """
        source = Database(other, is_reader=True)
        try:
            theirs = Side(database=source, logs=LogStore(logs or usual_logs(source)))
            return merge(Side(database=self._database, logs=self._logs), theirs, progress)
        finally:
            source.close()

    def check(self, progress: Progress = SILENT) -> Iterator[Trouble]:
        """Read everything and compare: database, documents, columns, references, logs.

        Returns: each thing that is wrong; nothing is changed.
        """
        return check(self._database, self._logs, self._unsent, progress)

    def collect(self, *, dry_run: bool = False) -> Collected:
        """Remove logs that no outcome has, and what killed writers left.

        Raises `CatalogError` if the catalog is read-only, or another one that keeps its logs in the
        same directory cannot be read.
        """
        if self._database.read_only:
            raise CatalogError(f"the catalog is read-only: {self._database.name}")
        return collect(self._database, self._logs, dry_run=dry_run)


_DIGEST_LENGTH = 64
_ENTRIES: tuple[type[Outcome | Finding], ...] = (Outcome, Finding)


class Catalog(Browsing, Care):
    """Outcomes with their logs, and findings; a context manager.

    Several processes and threads may use one catalog at once. What `record` or `record_finding`
    has returned is kept, whatever happens next.

    Parameters
    ----------
    place : str or Path, optional
        Path of a SQLite file, made if it is not there, or a SQLAlchemy URL. By default
        ``$BUILDVM_CATALOG``, else ``catalog.sqlite`` in the user's data directory.
    logs : Path, optional
        Directory of the logs. By default ``logs`` beside the SQLite file, or in the user's data
        directory for another database.
    tell : callable, optional
        Takes a sentence for the user: that a server is gone, and that what was kept meanwhile has
        been sent. By default it becomes a warning.

    Raises
    ------
    UsageError
        If the URL is none.
    CatalogError
        If it cannot be opened or made, or is no catalog.
    SchemaVersionError
        If it was written by a newer version.
    """

    def __init__(
        self,
        place: str | Path | None = None,
        *,
        logs: Path | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self._database = Database(place or default_place())
        self._tell = tell or warnings.warn
        address = self._database.address
        self._logs = LogStore(logs or usual_logs(self._database), address)
        self._unsent = Unsent(self._logs.root, str(address))
        if not self._database.read_only:
            self._logs.clear_unfinished()
            with suppress(OSError):  # whoever adds a log tries again
                self._logs.enlist()
            self._send_unsent()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Catalog({self.name!r})"

    def _repr_html_(self) -> str:
        try:
            counts = self.counts()
        except CatalogError as error:
            return card(f"Catalog {self.name}", [("trouble", str(error))])
        rows = [
            (name, ", ".join(f"{n} {what}" for what, n in of.items()) or "none")
            for name, of in counts.items()
        ]
        return card(f"Catalog {self.name}", rows)

    @property
    def name(self) -> str:
        """Path or URL; a password in it is hidden."""
        return self._database.name

    def close(self) -> None:
        """Close the catalog; closing twice is no error."""
        self._database.close()

    def outcome(self, key: str) -> Outcome:
        """Return one outcome, without loss.

        Parameters
        ----------
        key : str
            Its id, or a beginning that no other id has.

        Returns
        -------
        Outcome
            As it was recorded.

        Raises
        ------
        UsageError
            If there is none, or more than one.
        CatalogError
            If the catalog cannot be read.
        """
        return find(self._database, key, Outcome)

    def entry(self, key: str) -> Outcome | Finding:
        """Return an outcome or a finding, whichever has an id.

        Parameters
        ----------
        key : str
            The id, or a beginning that no other id of either has.

        Returns
        -------
        Outcome or Finding
            As it was recorded.

        Raises
        ------
        UsageError
            If there is none, or more than one.
        CatalogError
            If the catalog cannot be read.
        """
        return find(self._database, key, *_ENTRIES)

    def outcomes(
        self,
        *,
        case: str | Iterable[str] | None = None,
        package: str | Iterable[str] | None = None,
        verdict: Verdict | str | Iterable[Verdict | str] | None = None,
        study: str | Iterable[str] | None = None,
        since: datetime | str | None = None,
        limit: int | None = None,
    ) -> pd.DataFrame:
        """Return outcomes as a frame, oldest first.

        Parameters
        ----------
        case, package : str or several of them, optional
            Only those of the case with this id; of this package, however it is spelled.
        verdict : Verdict, str or several of them, optional
            Only those with one of these verdicts.
        study : str or several of them, optional
            Only those of this study.
        since : datetime or str, optional
            Aware, or text such as ``2026-11-24``; only those recorded at this instant or later.
        limit : int, optional
            At most so many, the newest ones.

        Returns
        -------
        DataFrame
            One row each, with the columns and dtypes of ``schema.OUTCOMES.dtypes``.

        Raises
        ------
        UsageError
            If a filter is none: an unknown verdict, a naive instant, a negative limit.
        CatalogError
            If the catalog cannot be read.
        """
        columns = [tables.outcomes.c[column.name] for column in OUTCOMES.columns]
        verdicts = names_of(verdict, Verdict, "verdict")
        wanted = {"case_id": case, "package": package, "study": study, "verdict": verdicts}
        query = filtered(select(*columns), tables.outcomes, wanted, since)
        return make_frame(newest_rows(self._database, tables.outcomes, query, limit), OUTCOMES)

    def newest_case(self, case_id: str) -> Case | None:
        """Return the case of this id that was run last; None: none was."""
        return newest_case(self._database, case_id)

    def documents(
        self, *, case: str | Iterable[str] | None = None, study: str | Iterable[str] | None = None
    ) -> Iterator[Outcome]:
        """Iterate over whole outcomes, oldest first.

        Parameters
        ----------
        case, study : str, optional
            As for `outcomes`.

        Returns
        -------
        iterator of Outcome
            Each as it was recorded.

        Raises
        ------
        CatalogError
            If the catalog cannot be read.
        """
        return self._whole({"case_id": case, "study": study})

    def answers(
        self, case_digest: str, *, study: str | Iterable[str] | None = None
    ) -> Iterator[Outcome]:
        """Iterate over the whole outcomes of all cases that build the same, oldest first.

        Parameters
        ----------
        case_digest : str
            As of `Case.build_digest`: a case may have got another id or title since.
        study : str or several of them, optional
            Only those of this study.

        Returns
        -------
        iterator of Outcome
            Each as it was recorded. The database has an index for them.

        Raises
        ------
        CatalogError
            If the catalog cannot be read.
        """
        return self._whole({"case_digest": case_digest, "study": study})

    def log(self, key: str) -> bytes:
        """Return the text of a log, verified.

        Parameters
        ----------
        key : str
            Digest of the log, or id of an outcome or a beginning of it.

        Returns
        -------
        bytes
            Its text.

        Raises
        ------
        UsageError
            If there is no such outcome.
        CatalogError
            If the outcome has no log, or the log is missing or corrupt.
        """
        return b"".join(self.log_pieces(key))

    def log_pieces(self, key: str) -> Iterator[bytes]:
        """Read a log piece by piece, verified at its end.

        Parameters
        ----------
        key : str
            As for `log`.

        Yields
        ------
        bytes
            Its text, in order.

        Raises
        ------
        UsageError
            If there is no such outcome.
        CatalogError
            If the outcome has no log, or the log is missing or corrupt.
        """
        digest = key if len(key) == _DIGEST_LENGTH else self.outcome(key).log_digest
        if not digest:
            raise CatalogError(f"outcome has no log: {key}")
        yield from self._logs.stream(digest)

    def _send_unsent(self) -> None:
        """Record what waits since the server could not be reached, and say so."""
        sent = self._unsent.send(self._record_once)
        if sent.count:
            self._tell(
                f"{sent.count} outcomes and findings that were kept in {self._unsent.root} while "
                f"the server could not be reached are in {self.name} now"
            )
        for trouble in sent.trouble:
            self._tell(f"what was kept while the server could not be reached is refused: {trouble}")

    def _record_once(self, entry: Outcome | Finding) -> None:
        """Record an entry unless it is there: the connection may have broken after all was kept."""
        table = tables.outcomes if isinstance(entry, Outcome) else tables.findings
        with self._database.reading() as connection:
            known = stored_documents(connection, table, [entry.id]).get(entry.id)
        if known is not None:
            if not is_same(entry, known):
                raise CatalogError(f"recorded already, with another content: {entry.id}")
        elif isinstance(entry, Outcome):
            with self._logs.held():
                sizes: dict[str, int] = {}
                self._insert_outcomes([self._keep_log(entry, b"", sizes)], sizes)
        else:
            self._conclude(entry)

    def _whole(self, wanted: Mapping[str, str | Iterable[str] | None]) -> Iterator[Outcome]:
        whole = select(tables.outcomes.c.id, tables.outcomes.c.document)
        query = oldest_first(filtered(whole, tables.outcomes, wanted), tables.outcomes)
        return stream(self._database, Outcome, query)
