"""Rows on their way into the database: many at once, each with what it refers to."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, Table, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from buildvm_nb.catalog import tables
from buildvm_nb.catalog.findingrows import finding_row
from buildvm_nb.catalog.rows import case_row, outcome_row
from buildvm_nb.catalog.schema import SUBJECT
from buildvm_nb.errors import SchemaVersionError
from buildvm_nb.model.case import Case
from buildvm_nb.model.documents import read_document
from buildvm_nb.model.finding import Finding
from buildvm_nb.model.outcome import Outcome

__all__ = [
    "insert_cases",
    "insert_finding",
    "insert_new",
    "insert_outcomes",
    "is_same",
    "known_ids",
    "stored_documents",
]

_INSERTS: Mapping[str, Callable[[Table], sqlite.Insert | postgresql.Insert]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}
_SUBJECT = tuple(column.name for column in SUBJECT)
_MANY = 1000
"""How many values go into one query; databases limit them."""


def insert_new(connection: Connection, table: Table, rows: Iterable[dict[str, Any]]) -> None:
    """Insert the rows whose key is new, also when another process does so at the same moment.

    Parameters
    ----------
    connection : Connection
        In a transaction that writes.
    table : Table
        Where they go.
    rows : iterable of dict
        Values by column. Whoever inserts several does so in the order of the key: two servers'
        transactions that wait for each other would never end.
    """
    if given := list(rows):
        into = _INSERTS[connection.dialect.name](table)
        connection.execute(into.on_conflict_do_nothing(), given)


def insert_cases(connection: Connection, cases: Iterable[Case]) -> None:
    """Insert the cases that are new; what a known one is about may be told later.

    Parameters
    ----------
    connection : Connection
        In a transaction that writes.
    cases : iterable of Case
        In the order of their ids and digests.
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
    """Tell which entries are there.

    Parameters
    ----------
    connection : Connection
        In any transaction.
    table : Table
        Of outcomes or findings.
    ids : sequence of str
        Any number.

    Returns
    -------
    set of str
        Those of the ids that the table has.
    """
    known: set[str] = set()
    for start in range(0, len(ids), _MANY):
        some = ids[start : start + _MANY]
        known.update(connection.execute(select(table.c.id).where(table.c.id.in_(some))).scalars())
    return known


def stored_documents(connection: Connection, table: Table, ids: Sequence[str]) -> dict[str, str]:
    """Return the whole entries that have some ids.

    Parameters
    ----------
    connection : Connection
        In any transaction.
    table : Table
        Of outcomes or findings.
    ids : sequence of str
        At most a thousand; databases limit the values of a query.

    Returns
    -------
    dict of str
        JSON by id, of those that are there.
    """
    rows = select(table.c.id, table.c.document).where(table.c.id.in_(ids))
    return {row.id: row.document for row in connection.execute(rows)}


def is_same(entry: Outcome | Finding, document: str) -> bool:
    """Tell whether a stored document says what an entry says.

    Parameters
    ----------
    entry : Outcome or Finding
        Any.
    document : str
        JSON of an entry of the same kind and id; an older version may have left fields out.

    Returns
    -------
    bool
        A finding that supersedes nothing is the same as one for which the catalog found out what
        it supersedes.
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

    Parameters
    ----------
    connection : Connection
        In a transaction that writes.
    outcomes : iterable of Outcome
        None of them is there.
    log_sizes : mapping
        Bytes of each log that they name, by digest.
    documents : mapping
        The documents, by id, of those that were read from one: a newer version may tell more there.
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

    Parameters
    ----------
    connection : Connection
        In a transaction that writes.
    finding : Finding
        Not there yet; its case, its evidence and what it supersedes are.
    document : str
        The one that it was read from: a newer version may tell more there.
    """
    row = {**finding_row(finding), "document": document or finding.model_dump_json()}
    connection.execute(insert(tables.findings), [row])
    links = [
        {"finding_id": finding.id, "outcome_id": key} for key in dict.fromkeys(finding.evidence)
    ]
    if links:
        connection.execute(insert(tables.finding_evidence), links)
