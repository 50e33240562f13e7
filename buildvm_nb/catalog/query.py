"""SQL for rows: how they are inserted, filtered and read."""

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import version
from itertools import islice
from operator import itemgetter
from types import MappingProxyType
from typing import Any, TypedDict, TypeVar

from pydantic import ValidationError
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    and_,
    exists,
    false,
    insert,
    literal,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from buildvm_nb.catalog import database as tables
from buildvm_nb.catalog.database import Database
from buildvm_nb.catalog.rows import case_row, finding_row, outcome_row, storable
from buildvm_nb.catalog.schema import FAILURES, FINDINGS, OUTCOMES, SUBJECT, TableSchema
from buildvm_nb.errors import CatalogError, SchemaVersionError, UsageError
from buildvm_nb.model.case import Case, plain_name
from buildvm_nb.model.finding import Axis, Finding, FindingKind
from buildvm_nb.model.instants import now, parse_instant
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.model.value import Value, read_document

__all__ = [
    "FAILURE_KINDS",
    "Filters",
    "Names",
    "Query",
    "Retraction",
    "documents",
    "find",
    "find_retraction",
    "find_successors",
    "insert_cases",
    "insert_finding",
    "insert_new",
    "insert_outcomes",
    "insert_retraction",
    "is_current",
    "is_same",
    "known_ids",
    "names_of",
    "newest_case",
    "newest_rows",
    "oldest_first",
    "pages",
    "refuse_finding",
    "some",
    "stored_documents",
    "stream",
    "uncollected",
]

# Rows on their way into the database: many at once, each with what it refers to.

_INSERTS: Mapping[str, Callable[[Table], sqlite.Insert | postgresql.Insert]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}
_SUBJECT = tuple(column.name for column in SUBJECT)
_MANY = 1000
"""How many values go into one query; databases limit them."""


def insert_new(connection: Connection, table: Table, rows: Iterable[dict[str, Any]]) -> None:
    """Insert the rows whose key is new, also when another process does so at the same moment.

    `rows`: values by column. Whoever inserts several does so in the order of the key: two servers'
    transactions that wait for each other would never end.
    """
    if given := list(rows):
        into = _INSERTS[connection.dialect.name](table)
        connection.execute(into.on_conflict_do_nothing(), given)


def insert_cases(connection: Connection, cases: Iterable[Case]) -> None:
    """Insert the cases that are new; what a known one is about may be told later.

    `cases`: in the order of their ids and digests.
    """
    given = list(cases)
    insert_new(connection, tables.cases, map(case_row, given))
    column = tables.cases.c
    for case in given:
        if case.subject is not None:
            row = case_row(case)
            told = {name: row[name] for name in (*_SUBJECT, "package_key")}
            this = (column.id == row["id"], column.digest == row["digest"])
            is_old = column.purl.is_distinct_from(row["purl"])
            connection.execute(update(tables.cases).where(*this, is_old).values(told))


def known_ids(connection: Connection, table: Table, ids: Sequence[str]) -> set[str]:
    """Tell which entries are there."""
    known: set[str] = set()
    for start in range(0, len(ids), _MANY):
        some = ids[start : start + _MANY]
        known.update(connection.execute(select(table.c.id).where(table.c.id.in_(some))).scalars())
    return known


def stored_documents(connection: Connection, table: Table, ids: Sequence[str]) -> dict[str, str]:
    """Return the whole entries that have some ids."""
    rows = select(table.c.id, table.c.document).where(table.c.id.in_(ids))
    return {row.id: row.document for row in connection.execute(rows)}


def is_same(entry: Outcome | Finding, document: str) -> bool:
    """Tell whether a stored document says what an entry says.

    `document`: JSON of an entry of the same kind and id; an older version may have left fields out.
    Returns: a finding that supersedes nothing is the same as one for which the catalog found out
    what it supersedes.
    """
    try:
        other = read_document(type(entry), document)
    except (ValidationError, SchemaVersionError):
        return False
    if isinstance(entry, Finding) and isinstance(other, Finding) and entry.supersedes is None:
        return entry == other.model_copy(update={"supersedes": None})
    return entry == other


def insert_outcomes(
    connection: Connection,
    outcomes: Iterable[Outcome],
    log_sizes: Mapping[str, int],
    documents: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Insert outcomes with their cases and logs.

    `documents`: the documents, by id, of those that were read from one: a newer version may tell
    more there.
    """
    rows = []
    cases: dict[tuple[str, str], Case] = {}
    for outcome in outcomes:
        row = outcome_row(outcome)
        key = row["case_id"], row["case_digest"]
        cases.setdefault(key, outcome.case)
        document = documents.get(outcome.id) or outcome.model_dump_json()
        rows.append({**row, "document": document})
    insert_new(
        connection,
        tables.logs,
        ({"digest": key, "size_bytes": size} for key, size in sorted(log_sizes.items())),
    )
    insert_cases(connection, (case for _, case in sorted(cases.items(), key=itemgetter(0))))
    if rows:
        connection.execute(insert(tables.outcomes), rows)


def insert_finding(connection: Connection, finding: Finding, document: str = "") -> None:
    """Insert a finding and tie it to its evidence.

    `finding`: not there yet; its case, its evidence and what it supersedes are.
    `document`: the one that it was read from: a newer version may tell more there.
    """
    row = {**finding_row(finding), "document": document or finding.model_dump_json()}
    connection.execute(insert(tables.findings), [row])
    links = [
        {"finding_id": finding.id, "outcome_id": key} for key in dict.fromkeys(finding.evidence)
    ]
    if links:
        connection.execute(insert(tables.finding_evidence), links)


# Queries that outcomes and findings have in common.

V = TypeVar("V", bound=Value)

_TABLES: dict[type[Value], Table] = {Outcome: tables.outcomes, Finding: tables.findings}
_LISTS = {Outcome: "`buildvm catalog list`", Finding: "`buildvm catalog findings`"}
_LONGEST_BEGINNING = 100
_SOME = 5
_LATEST = datetime.max.replace(tzinfo=UTC)
_PAGE = 1000


def find(database: Database, key: str, *kinds: type[V]) -> V:
    """Return the one entry that has an id, or whose id alone begins so.

    `key`: an id, or the beginning of one in upper or lower case.
    """
    with database.reading() as connection:
        found = _matches(connection, kinds, lambda ids: ids == storable(key))
        if not found and 0 < len(key) <= _LONGEST_BEGINNING:
            beginning = storable(key.upper())
            found = _matches(
                connection, kinds, lambda ids: ids.startswith(beginning, autoescape=True)
            )
    what = " or ".join(map(_noun, kinds))
    if not found:
        shown = " and ".join(_LISTS[kind] for kind in kinds)
        raise UsageError(f"no such {what}: {key!r} in {database.name}", hint=f"see {shown}")
    if len(found) > 1:
        some = ", ".join(row.id for _, row in found[:_SOME])
        raise UsageError(f"more than one {what} begins with {key!r}: {some}")
    kind, row = found[0]
    return _read(database, kind, row)


def newest_case(database: Database, case_id: str) -> Case | None:
    """Return the case of this id that was run last."""
    table = tables.outcomes
    query = select(table.c.id, table.c.document).where(table.c.case_id == storable(case_id))
    newest_first = query.order_by(table.c.recorded_at.desc(), table.c.id.desc())
    found = next(stream(database, Outcome, newest_first.limit(1)), None)
    return None if found is None else found.case


def stream(database: Database, kind: type[V], query: Select[Any]) -> Iterator[V]:
    """Iterate over whole entries."""
    with database.reading() as connection:
        for row in connection.execute(query.execution_options(yield_per=_PAGE)):
            yield _read(database, kind, row)


def documents(database: Database, kind: type[Value], query: Select[Any]) -> Iterator[str]:
    """Iterate over whole entries as they were recorded, after looking whether they can be read."""
    with database.reading() as connection:
        for row in connection.execute(query.execution_options(yield_per=_PAGE)):
            _read(database, kind, row)
            yield row.document.replace("\n", " ")


def newest_rows(
    database: Database,
    table: Table,
    query: Select[Any],
    limit: int | None,
    keep: Callable[[Row[Any]], bool] | None = None,
) -> list[Any]:
    """Return rows, oldest first."""
    if limit is not None and limit < 0:
        raise UsageError(f"limit is negative: {limit}; allowed: 0 and more")
    newest_first = query.order_by(table.c.recorded_at.desc(), table.c.id.desc())
    with database.reading() as connection, uncollected():
        if keep is None:
            rows = connection.execute(newest_first.limit(limit)).all()
        else:
            streamed = connection.execute(newest_first.execution_options(yield_per=_PAGE))
            rows = list(islice(filter(keep, streamed), limit))
        return list(reversed(rows))


@contextmanager
def uncollected() -> Iterator[None]:
    """Leave the garbage collector out while many rows come: it would look at each, again and again.

    Yields
    ------
    None
        Where it was on, it is on again afterwards.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def pages(database: Database, query: Select[Any], size: int) -> Iterator[Sequence[Row[Any]]]:
    """Read rows piece by piece, all as they were when the first was read.

    Yields: at most `size`, at least one.
    """
    with database.reading() as connection:
        yield from connection.execute(query.execution_options(yield_per=size)).partitions()


def oldest_first(query: Select[Any], table: Table) -> Select[Any]:
    """Order rows by the instant at which they were recorded.

    Returns: the same in a stable order.
    """
    return query.order_by(table.c.recorded_at, table.c.id)


Names = str | Iterable[str]
"""One value, or several of which any will do."""


class Filters(TypedDict, total=False):
    """What a `Query` asks of rows, as `Catalog` takes it by name."""

    case: Names | None
    case_digest: Names | None
    package: Names | None
    study: Names | None
    kind: Names | None
    axis: Names | None
    verdict: Names | None
    cpu: Names | None
    kernel: Names | None
    since: datetime | str | None
    until: datetime | str | None
    springs_before: datetime | str | None
    columns: Names | None
    current: bool
    only: Names | None


@dataclass(frozen=True, kw_only=True)
class Query:
    """Which rows of a table are wanted; what is left out leaves all."""

    table: str
    """``outcomes``, ``findings`` or ``failures``."""
    case: Names | None = None
    """The case's id."""
    case_digest: Names | None = None
    package: Names | None = None
    """What the case is on, however it is spelled."""
    study: Names | None = None
    kind: Names | None = None
    """Of findings and failures."""
    axis: Names | None = None
    """Of findings and failures."""
    verdict: Names | None = None
    """Of outcomes."""
    only: Names | None = None
    """Verdicts of outcomes, kinds of findings and failures."""
    cpu: Names | None = None
    """Of outcomes."""
    kernel: Names | None = None
    """Of outcomes."""
    since: datetime | str | None = None
    until: datetime | str | None = None
    """Aware, or text such as ``2026-11-24``: recorded at this instant or later, before that one."""
    springs_before: datetime | str | None = None
    """Only time traps that spring, or may spring, before this instant."""
    case_part: str = ""
    """Part of the case's id; upper and lower case are the same."""
    text: str = ""
    """Part of any of the columns in `SEARCHED`; upper and lower case are the same."""
    columns: Names | None = None
    """Which columns are read, in the order of the table's."""
    current: bool = True
    """Of findings: only those that are not retracted and that no later one replaces: on the same
    case (id and build digest) and the same axis; or on all axes at once, as sound and always
    failing cases are; or on one axis where this one spoke of all. What is undetermined replaces
    only its like."""

    @classmethod
    def of(cls, table: "str | Query", wanted: Filters) -> "Query":
        """Return a query as it is, or make one of what a caller gave by name."""
        if isinstance(table, Query):
            return replace(table, **wanted) if wanted else table
        return cls(table=table, **wanted)

    @property
    def source(self) -> Table:
        """The SQL table that has the rows."""
        return tables.outcomes if self.schema.name == OUTCOMES.name else tables.findings

    @property
    def schema(self) -> TableSchema:
        """The columns that are read."""
        if self.table not in QUERIED:
            raise UsageError(f"no such table: {self.table!r}; allowed: {', '.join(QUERIED)}")
        whole = QUERIED[self.table]
        if self.columns is None:
            return whole
        names = [self.columns] if isinstance(self.columns, str) else list(self.columns)
        if strange := [name for name in names if name not in whole.dtypes]:
            known = ", ".join(whole.dtypes)
            raise UsageError(f"no such column of {self.table}: {strange[0]!r}", hint=known)
        return replace(whole, columns=tuple(one for one in whole.columns if one.name in names))

    def rows(self) -> Select[Any]:
        """Ask for the rows, in no order."""
        return self.narrow(select(*(self.source.c[name] for name in self.schema.dtypes)))

    def documents(self) -> Select[Any]:
        """Ask for ids and whole entries, oldest first."""
        column = self.source.c
        return oldest_first(self.narrow(select(column.id, column.document)), self.source)

    def narrow(self, query: Select[Any]) -> Select[Any]:
        """Keep the rows that are asked for.

        Raises `UsageError` if a filter is invalid: an unknown kind, a naive instant, one that the
        table has no column for.
        """
        return query.where(*self._named(), *self._recorded(), *self._found())

    def _named(self) -> Iterator[ColumnElement[bool]]:
        """Compare columns with the values that they must have."""
        source, column = self.source, self.source.c
        for field, name in _COLUMNS.items():
            if (values := self._values(field)) is not None:
                if name not in column:
                    raise UsageError(f"{self.table} have no {field}: {', '.join(values)}")
                yield column[name].in_(tuple(map(storable, values)))
        packages = self._values("package")
        if packages is not None:
            yield or_(false(), *(of_package(source, one) for one in packages))

    def _recorded(self) -> Iterator[ColumnElement[bool]]:
        column = self.source.c
        if self.current and self.source is tables.findings:
            yield is_current()
        if self.since is not None:
            yield column.recorded_at >= instant_of(self.since)
        if self.until is not None:
            yield column.recorded_at < instant_of(self.until)
        if self.springs_before is not None:
            yield column.may_spring_from < instant_of(self.springs_before)

    def _found(self) -> Iterator[ColumnElement[bool]]:
        column = self.source.c
        if self.case_part:
            yield _contains(column.case_id, self.case_part)
        if self.text:
            places = (column[name] for name in SEARCHED[self.source.name])
            yield or_(*(_contains(place, self.text) for place in places))

    def _values(self, field: str) -> tuple[str, ...] | None:
        given = getattr(self, field)
        if given is None and field == ("verdict" if self.source is tables.outcomes else "kind"):
            given = self.only
        if field == "kind" and self.table == FAILURES.name:
            return _failure_kinds(given)
        return names_of(given, *_CLOSED[field]) if field in _CLOSED else _texts(given, field)


def _failure_kinds(given: Names | None) -> tuple[str, ...] | None:
    kinds = names_of(FAILURE_KINDS if given is None else given, FindingKind, "kind of finding")
    for name in kinds or ():
        if name not in FAILURE_KINDS:
            raise UsageError(
                f"no kind of failure: {name!r}; allowed: {', '.join(FAILURE_KINDS)}",
                hint="findings() and `buildvm catalog findings` have all kinds",
            )
    return kinds


def _texts(given: Names | None, what: str) -> tuple[str, ...] | None:
    if given is None:
        return None
    is_one = isinstance(given, str) or not isinstance(given, Iterable)
    values: list[Any] = [given] if is_one else list(given)
    for value in values:
        if not isinstance(value, str):
            raise UsageError(f"{what}: expected text, got {type(value).__name__}: {value!r}")
    return tuple(values)


QUERIED = {table.name: table for table in (OUTCOMES, FINDINGS, FAILURES)}
"""The tables that can be asked, by name."""
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
FAILURE_KINDS = tuple(
    kind for kind in FindingKind if kind not in {FindingKind.SOUND, FindingKind.UNDETERMINED}
)
"""The kinds of finding that tell of a failure."""
_CLOSED: dict[str, tuple[type[StrEnum], str]] = {
    "kind": (FindingKind, "kind of finding"),
    "axis": (Axis, "axis"),
    "verdict": (Verdict, "verdict"),
}
_COLUMNS = {
    "case": "case_id",
    **{name: name for name in ("case_digest", "study", "cpu", "kernel", *_CLOSED)},
}
"""The column that must hold one of the values that a field has."""


def _contains(column: ColumnElement[str], part: str) -> ColumnElement[bool]:
    return column.icontains(storable(part), autoescape=True)


Columns = ReadOnlyColumnCollection[str, Column[Any]]

_WHOLE = tuple(
    kind.value for kind in (FindingKind.SOUND, FindingKind.ALWAYS_FAILING, FindingKind.UNDETERMINED)
)
"""Kinds that speak of all axes at once where they are on none."""


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


@dataclass(frozen=True, kw_only=True)
class Retraction:
    """Why a finding is no longer believed."""

    finding_id: str
    because: str
    recorded_at: datetime


def find_retraction(connection: Connection, key: str) -> Retraction | None:
    """Return why a finding is no longer believed; None: it is not retracted."""
    column = tables.retractions.c
    names = (column.finding_id, column.because, column.recorded_at)
    query = select(*names).where(column.finding_id == storable(key))
    row = connection.execute(query).first()
    return row and Retraction(**row._asdict())


def insert_retraction(connection: Connection, key: str, because: str) -> Retraction:
    """Retract a finding that is there, unless it is retracted already."""
    if known := find_retraction(connection, key):
        raise UsageError(f"finding {key} is retracted already: {known.because}")
    told = Retraction(finding_id=key, because=because, recorded_at=now())
    row = {**asdict(told), "because": storable(because), "tool_version": version("buildvm-nb")}
    connection.execute(insert(tables.retractions), [row])
    return told


def find_successors(connection: Connection, key: str) -> list[str]:
    """Return the later findings that leave nothing of one."""
    this, later = tables.findings.alias("this").c, tables.findings
    query = (
        select(later.c.id)
        .join(this.id.table, and_(this.id == key))
        .where(_is_replaced_by(this, later.c))
    )
    return list(connection.execute(oldest_first(query, later)).scalars())


def refuse_finding(connection: Connection, finding: Finding, name: str) -> None:
    """Raise if the id is taken, or if something is not there that the finding refers to.

    `name`: of the catalog.
    """
    column = tables.findings.c
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
        raise CatalogError(
            f"evidence of finding {finding.id} is not in {name}: no outcome {some(missing)}",
            hint="record the outcomes first",
        )


def some(keys: Iterable[str]) -> str:
    """Name the first of many keys."""
    ordered = list(keys)
    more = f" and {len(ordered) - _SOME} more" if len(ordered) > _SOME else ""
    return ", ".join(ordered[:_SOME]) + more


def of_package(table: Table, name: str) -> ColumnElement[bool]:
    """Return the condition that a row is on a package.

    `name`: of the package, in any spelling; or exactly the name of the source, such as a URL.
    """
    case, row = tables.cases.c, table.c
    known = storable(name)
    by_name = case.package == known if "/" in name else case.package_key == plain_name(known)
    on_it = select(case.id, case.digest).where(or_(case.source_name == known, by_name))
    return tuple_(row.case_id, row.case_digest).in_(on_it)


def instant_of(given: datetime | str) -> datetime:
    """Return an instant that a filter names."""
    if not isinstance(given, datetime):
        return parse_instant(given, latest=_LATEST)
    if given.tzinfo is None:
        raise UsageError(f"an instant needs a zone: {given.isoformat()}")
    return given


def names_of(
    given: str | Iterable[str] | None, allowed: type[StrEnum], what: str
) -> tuple[str, ...] | None:
    """Check names that a caller chose from a closed set.

    `given`: what the caller gave; None: no choice.
    Returns: the names as they are recorded; None: no choice.
    """
    if given is None:
        return None
    names = [given] if isinstance(given, str) else list(given)
    for name in names:
        if name not in set(allowed):
            raise UsageError(f"unknown {what}: {name!r}; allowed: {', '.join(allowed)}")
    return tuple(allowed(name).value for name in names)


def _matches(
    connection: Connection,
    kinds: Iterable[type[V]],
    condition: Callable[[ColumnElement[str]], ColumnElement[bool]],
) -> list[tuple[type[V], Any]]:
    found = []
    for kind in kinds:
        ids = _TABLES[kind].c.id
        query = select(ids, _TABLES[kind].c.document).where(condition(ids))
        rows = connection.execute(query.order_by(ids).limit(_SOME))
        found += [(kind, row) for row in rows]
    return found


def _read(database: Database, kind: type[V], row: Any) -> V:  # noqa: ANN401 - an id and a document
    try:
        return read_document(kind, row.document)
    except ValidationError as error:
        raise CatalogError(
            f"{_noun(kind)} {row.id} in {database.name} cannot be read: {error.error_count()} "
            "fields are not as this buildvm-nb knows them",
            hint="it was written by another version, or changed by hand",
        ) from error


def _noun(kind: type[Value]) -> str:
    return kind.__name__.lower()
