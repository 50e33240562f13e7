"""Queries that outcomes and findings have in common."""

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from typing import Any, TypeVar

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Connection, Row, Select, Table, false, or_, select, tuple_

from buildvm_nb.catalog import tables
from buildvm_nb.catalog.database import Database
from buildvm_nb.catalog.rows import storable
from buildvm_nb.errors import CatalogError, UsageError
from buildvm_nb.model.documents import read_document
from buildvm_nb.model.entry import plain_name
from buildvm_nb.model.finding import Finding
from buildvm_nb.model.instants import parse_instant
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.model.value import Value

__all__ = [
    "documents",
    "filtered",
    "find",
    "instant_of",
    "names_of",
    "newest_rows",
    "of_package",
    "oldest_first",
    "pages",
    "stream",
    "uncollected",
]

V = TypeVar("V", bound=Value)

_TABLES: dict[type[Value], Table] = {Outcome: tables.outcomes, Finding: tables.findings}
_LISTS = {Outcome: "`buildvm catalog list`", Finding: "`buildvm catalog findings`"}
_LONGEST_BEGINNING = 100
_SOME = 5
_LATEST = datetime.max.replace(tzinfo=UTC)
_PAGE = 1000


def find(database: Database, key: str, *kinds: type[V]) -> V:
    """Return the one entry that has an id, or whose id alone begins so.

    Parameters
    ----------
    database : Database
        Where it is sought.
    key : str
        An id, or the beginning of one in upper or lower case.
    *kinds : type
        Of what kinds it may be: `Outcome`, `Finding` or both.

    Returns
    -------
    Outcome or Finding
        As it was recorded.

    Raises
    ------
    UsageError
        If there is none, or more than one.
    CatalogError
        If it cannot be read.
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


def stream(database: Database, kind: type[V], query: Select[Any]) -> Iterator[V]:
    """Iterate over whole entries.

    Parameters
    ----------
    database : Database
        Where they are.
    kind : type
        What they are: `Outcome` or `Finding`.
    query : Select
        Of ``id`` and ``document``.

    Yields
    ------
    Outcome or Finding
        As it was recorded.

    Raises
    ------
    CatalogError
        If one cannot be read.
    """
    with database.reading() as connection:
        for row in connection.execute(query.execution_options(yield_per=_PAGE)):
            yield _read(database, kind, row)


def documents(database: Database, kind: type[Value], query: Select[Any]) -> Iterator[str]:
    """Iterate over whole entries as they were recorded, after looking whether they can be read.

    Parameters
    ----------
    database : Database
        Where they are.
    kind : type
        What they are: `Outcome` or `Finding`.
    query : Select
        Of ``id`` and ``document``.

    Yields
    ------
    str
        JSON on one line.

    Raises
    ------
    CatalogError
        If one cannot be read.
    """
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
    """Return rows, oldest first.

    Parameters
    ----------
    database : Database
        Where they are.
    table : Table
        What they are of.
    query : Select
        Of any of its columns.
    limit : int or None
        At most so many, the newest ones.
    keep : callable, optional
        Tells of a row whether it is wanted, where SQL cannot.

    Returns
    -------
    list
        The rows.

    Raises
    ------
    UsageError
        If the limit is negative.
    CatalogError
        If they cannot be read.
    """
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

    Parameters
    ----------
    database : Database
        Where they are.
    query : Select
        Of any columns.
    size : int
        How many at once.

    Yields
    ------
    sequence of Row
        At most `size`, at least one.

    Raises
    ------
    CatalogError
        If they cannot be read.
    """
    with database.reading() as connection:
        yield from connection.execute(query.execution_options(yield_per=size)).partitions()


def oldest_first(query: Select[Any], table: Table) -> Select[Any]:
    """Order rows by the instant at which they were recorded.

    Parameters
    ----------
    query : Select
        Any of the table.
    table : Table
        Which table it is.

    Returns
    -------
    Select
        The same in a stable order.
    """
    return query.order_by(table.c.recorded_at, table.c.id)


def of_package(table: Table, name: str) -> ColumnElement[bool]:
    """Return the condition that a row is on a package.

    Parameters
    ----------
    table : Table
        Of outcomes or findings.
    name : str
        Of the package, in any spelling; or exactly the name of the source, such as a URL.

    Returns
    -------
    ColumnElement
        For a query of that table.
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

    Parameters
    ----------
    query : Select
        Any of the table.
    table : Table
        Which table it is.
    wanted : mapping
        What a column must hold, one of several values where it is no text; None: anything. The
        column ``package`` is that of the case: see `of_package`.
    since : datetime or str, optional
        Only what was recorded at this instant or later; see `instant_of`.

    Returns
    -------
    Select
        Narrower.

    Raises
    ------
    UsageError
        If a value is no text, or the instant is naive or none.
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
    """Return an instant that a filter names.

    Parameters
    ----------
    given : datetime or str
        Aware, or text as everywhere: ``2026-11-24``, ``2026-11-24T12:00:00Z``, ``today``.

    Returns
    -------
    datetime
        Aware.

    Raises
    ------
    UsageError
        If it has no zone, or the text is no date.
    """
    if not isinstance(given, datetime):
        return parse_instant(given, latest=_LATEST)
    if given.tzinfo is None:
        raise UsageError(f"an instant needs a zone: {given.isoformat()}")
    return given


def names_of(
    given: str | Iterable[str] | None, allowed: type[StrEnum], what: str
) -> tuple[str, ...] | None:
    """Check names that a caller chose from a closed set.

    Parameters
    ----------
    given : str, several of them, or None
        What the caller gave; None: no choice.
    allowed : type of StrEnum
        The closed set.
    what : str
        What it is a set of, for the message.

    Returns
    -------
    tuple of str, or None
        The names as they are recorded; None: no choice.

    Raises
    ------
    UsageError
        If a name is not in the set.
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
