"""The schema in a database: made when there is none, checked, brought up to date step by step."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    bindparam,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.schema import CreateColumn

from buildvm_nb.catalog.findingrows import finding_row
from buildvm_nb.catalog.rows import case_row
from buildvm_nb.catalog.schema import FINDINGS, OUTCOMES, SCHEMA_VERSION
from buildvm_nb.catalog.tables import (
    METADATA,
    cases,
    finding_evidence,
    findings,
    meta,
    outcomes,
    retractions,
)
from buildvm_nb.errors import CatalogError, SchemaVersionError
from buildvm_nb.model.case import Case
from buildvm_nb.model.documents import read_document
from buildvm_nb.model.finding import Finding
from buildvm_nb.model.outcome import Probing
from buildvm_nb.model.value import Value

__all__ = ["UPGRADES", "Upgrade", "create_or_upgrade", "stored_version"]

Upgrade = Callable[[Connection], None]
V = TypeVar("V", bound=Value)

_VERSION = "schema_version"
_MAKING = 0x6275696C64766D
"""Number of the lock under which a server's tables are made: ``buildvm`` in ASCII."""


def stored_version(connection: Connection) -> int | None:
    """Return the schema version of a database.

    Parameters
    ----------
    connection : Connection
        To that database.

    Returns
    -------
    int or None
        None: it is empty.

    Raises
    ------
    CatalogError
        If it has tables, but not ours.
    SchemaVersionError
        If its version is newer than this one's.
    """
    names = inspect(connection).get_table_names()
    if not names:
        return None
    if meta.name not in names:
        raise CatalogError(
            f"a database, but no catalog: it has the tables {', '.join(sorted(names)[:5])}",
            hint="give the catalog a database of its own",
        )
    text = connection.execute(select(meta.c.value).where(meta.c.name == _VERSION)).scalar_one()
    version = int(text)
    if version > SCHEMA_VERSION:
        raise SchemaVersionError(
            f"the catalog has schema version {version}; this buildvm-nb reads up to "
            f"{SCHEMA_VERSION}",
            hint="upgrade buildvm-nb, or name another catalog with BUILDVM_CATALOG",
        )
    return version


def create_or_upgrade(connection: Connection) -> None:
    """Bring a database to the present schema, within the caller's transaction.

    Parameters
    ----------
    connection : Connection
        In a transaction that may write.

    Raises
    ------
    CatalogError
        If the database has tables, but not ours.
    SchemaVersionError
        If its version is newer than this one's, or too old for any step.
    """
    if connection.dialect.name == "postgresql":
        # a server lets two transactions make the same table, and refuses the second at its end
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MAKING})
    if stored_version(connection) is None:
        METADATA.create_all(connection)
        connection.execute(insert(meta).values(name=_VERSION, value=str(SCHEMA_VERSION)))
        return
    # one upgrade at a time: who waits here sees afterwards that there is nothing left to do
    connection.execute(select(meta.c.value).where(meta.c.name == _VERSION).with_for_update())
    for step in range(stored_version(connection) or 0, SCHEMA_VERSION):
        if step not in UPGRADES:
            raise SchemaVersionError(
                f"the catalog has schema version {step}, which cannot be brought to "
                f"{SCHEMA_VERSION}",
                hint="export it with the buildvm-nb that wrote it, then import that",
            )
        UPGRADES[step](connection)
    connection.execute(
        update(meta).where(meta.c.name == _VERSION).values(value=str(SCHEMA_VERSION))
    )


class _Probed(BaseModel):
    """As much of an outcome's document as the step from 1 to 2 needs."""

    probing: Probing = Probing()


def _add_findings(connection: Connection) -> None:
    """From 1 to 2: findings, how a test was run, and outcomes by their case's digest."""
    _add_columns(connection, outcomes, {c.name for c in OUTCOMES.columns if c.since == 2})  # noqa: PLR2004
    for index in outcomes.indexes:
        index.create(connection, checkfirst=True)
    METADATA.create_all(connection, tables=[findings, finding_evidence])
    told = list(_probings(connection))
    if told:
        connection.execute(update(outcomes).where(outcomes.c.id == bindparam("key")), told)


def _add_choices(connection: Connection) -> None:
    """From 2 to 3: which findings chose the machine; of older outcomes nobody knows."""
    _add_columns(connection, outcomes, {c.name for c in OUTCOMES.columns if c.since == 3})  # noqa: PLR2004


def _add_identities(connection: Connection) -> None:
    """From 3 to 4: what the guest's CPU says of itself, which nobody asked older ones."""
    _add_columns(connection, outcomes, {c.name for c in OUTCOMES.columns if c.since == 4})  # noqa: PLR2004


def _add_subjects(connection: Connection) -> None:
    """From 4 to 5: which package a case is about, when findings spring, which are retracted."""
    METADATA.create_all(connection, tables=[retractions])
    _add_columns(connection, cases, {column.name for column in cases.columns})
    _add_columns(connection, findings, {c.name for c in FINDINGS.columns if c.since == 5})  # noqa: PLR2004
    for index in (*cases.indexes, *findings.indexes):
        index.create(connection, checkfirst=True)
    keys: Sequence[ColumnElement[str]] = (cases.c.id, cases.c.digest)
    told = list(_described(connection, cases, keys, Case.model_validate_json, case_row))
    if told:
        this = (cases.c.id == bindparam("key_id"), cases.c.digest == bindparam("key_digest"))
        connection.execute(update(cases).where(*this), told)
    read = partial(read_document, Finding)
    told = list(_described(connection, findings, (findings.c.id,), read, finding_row))
    if told:
        connection.execute(update(findings).where(findings.c.id == bindparam("key_id")), told)


def _described(
    connection: Connection,
    table: Table,
    keys: Sequence[ColumnElement[str]],
    read: Callable[[str], V],
    flatten: Callable[[V], dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """Work rows out anew from their documents."""
    query = select(*keys, table.c.document)
    for row in connection.execute(query.execution_options(yield_per=1000)):
        *key, document = row
        try:
            told = flatten(read(document))
        except (ValidationError, SchemaVersionError):
            continue  # reading that entry says what is wrong with it
        names = (f"key_{column.key}" for column in keys)
        del told["id"]
        yield {**told, **dict(zip(names, key, strict=True))}


def _add_columns(connection: Connection, table: Table, names: set[str]) -> None:
    """Add those of the columns that the table lacks: an earlier step may have made it anew."""
    there = {column["name"] for column in inspect(connection).get_columns(table.name)}
    for column in table.columns:
        if column.name in names - there:
            definition = CreateColumn(column).compile(dialect=connection.dialect)
            connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {definition}"))


def _probings(connection: Connection) -> Iterator[dict[str, Any]]:
    """Read how tests were run from documents that tell it, where that is not the usual way."""
    query = select(outcomes.c.id, outcomes.c.document)
    telling = query.where(outcomes.c.document.contains('"probing":'))
    for row in connection.execute(telling.execution_options(yield_per=1000)):
        try:
            probing = _Probed.model_validate_json(row.document).probing
        except ValidationError:
            continue  # reading that outcome says what is wrong with it
        if probing != Probing():
            yield {
                "key": row.id,
                "prepared_at": probing.prepared_at,
                "clock_held": probing.held,
                "drift_s": probing.drift_s,
                "attempt": probing.attempt,
            }


UPGRADES: Mapping[int, Upgrade] = {
    1: _add_findings,
    2: _add_choices,
    3: _add_identities,
    4: _add_subjects,
}
"""The step from each version to the next: ``{1: add_findings}`` leads from 1 to 2.

A step runs in the transaction of the whole upgrade and changes tables only, never outcomes that
are there: what a new column needs of them comes from their ``document``.
"""
