"""SQL for rows: how they are inserted, filtered and read."""

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from operator import itemgetter
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import ValidationError
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    false,
    insert,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from buildvm_nb.catalog import database as tables
from buildvm_nb.catalog.database import Database
from buildvm_nb.catalog.rows import case_row, finding_row, outcome_row, storable
from buildvm_nb.catalog.schema import SUBJECT
from buildvm_nb.errors import CatalogError, SchemaVersionError, UsageError
from buildvm_nb.model.case import Case, plain_name
from buildvm_nb.model.finding import Finding
from buildvm_nb.model.instants import parse_instant
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.model.value import Value, read_document

__all__ = [
    "documents",
    "filtered",
    "find",
    "insert_cases",
    "insert_finding",
    "insert_new",
    "insert_outcomes",
    "instant_of",
    "is_same",
    "known_ids",
    "names_of",
    "newest_case",
    "newest_rows",
    "oldest_first",
    "pages",
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


def of_package(table: Table, name: str) -> ColumnElement[bool]:
    """Return the condition that a row is on a package.

    `name`: of the package, in any spelling; or exactly the name of the source, such as a URL.
    """
    case, row = tables.cases.c, table.c
    known = storable(name)
    by_name = case.package == known if "/" in name else case.package_key == plain_name(known)
    on_it = select(case.id, case.digest).where(or_(case.source_name == known, by_name))
    return tuple_(row.case_id, row.case_digest).in_(on_it)


def filtered(
    query: Select[Any],
    table: Table,
    wanted: Mapping[str, str | Iterable[str] | None],
    since: datetime | str | None = None,
) -> Select[Any]:
    """Keep the rows that are asked for.

    `wanted`: what a column must hold, one of several values where it is no text; None: anything.
    The column ``package`` is that of the case: see `of_package`.
    Raises `UsageError` if a value is no text, or the instant is naive or none.
    """
    for name, given in wanted.items():
        if given is None:
            continue
        is_one = isinstance(given, str) or not isinstance(given, Iterable)
        values: list[Any] = [given] if is_one else list(given)
        for value in values:
            if not isinstance(value, str):
                raise UsageError(f"{name}: expected text, got {type(value).__name__}: {value!r}")
        if name == "package":
            query = query.where(or_(false(), *(of_package(table, one) for one in values)))
        elif isinstance(given, str):
            query = query.where(table.c[name] == storable(given))
        else:
            query = query.where(table.c[name].in_(tuple(map(storable, values))))
    if since is None:
        return query
    return query.where(table.c.recorded_at >= instant_of(since))


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
