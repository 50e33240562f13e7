"""The schema in a database: made when there is none, checked, brought up to date step by step."""

from collections.abc import Callable, Mapping

from sqlalchemy import Connection, insert, inspect, select, update

from buildvm_nb.catalog.schema import SCHEMA_VERSION
from buildvm_nb.catalog.tables import METADATA, meta
from buildvm_nb.errors import CatalogError, SchemaVersionError

__all__ = ["UPGRADES", "Upgrade", "create_or_upgrade", "stored_version"]

Upgrade = Callable[[Connection], None]

UPGRADES: Mapping[int, Upgrade] = {}
"""The step from each version to the next: ``{1: add_findings}`` leads from 1 to 2.

A step runs in the transaction of the whole upgrade and changes tables only, never outcomes that
are there: what a new column needs of them comes from their ``document``.
"""

_VERSION = "schema_version"


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
    version = stored_version(connection)
    if version is None:
        METADATA.create_all(connection)
        connection.execute(insert(meta).values(name=_VERSION, value=str(SCHEMA_VERSION)))
        return
    for step in range(version, SCHEMA_VERSION):
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
