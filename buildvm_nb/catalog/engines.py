"""Connections to the two databases that a catalog may be in: SQLite and PostgreSQL.

Each unit of work has a connection of its own, so that a catalog may be used from several threads
and after a fork.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from buildvm_nb.errors import UsageError

__all__ = [
    "SERVER_READS",
    "WRITES",
    "connect_sqlite",
    "parse_place",
    "server_engine",
    "sqlite_engine",
]

WRITES = "buildvm_writes"
"""Execution option that marks a transaction that writes."""

SERVER_READS = "REPEATABLE READ"
"""Isolation in which a reader of a server sees one state, as it does in SQLite."""

_BUSY_TIMEOUT_S = 60
_CONNECT_TIMEOUT_S = 10
_SERVER = "postgresql"


def parse_place(place: str | Path) -> Path | URL:
    """Tell where a catalog is.

    Parameters
    ----------
    place : str or Path
        A path, or a SQLAlchemy URL.

    Returns
    -------
    Path or URL
        Absolute path of a SQLite file, or URL of a PostgreSQL database.

    Raises
    ------
    UsageError
        If it is no such URL, or names a database in memory.
    """
    if "://" not in str(place):
        return Path(place).expanduser().absolute()
    try:
        url = make_url(str(place))
        backend = url.get_backend_name()
        url.get_dialect()
    except (ArgumentError, NoSuchModuleError) as error:
        raise _no_url(place) from error
    if backend == _SERVER:
        return url.set(drivername=f"{_SERVER}+psycopg")
    if backend != "sqlite":
        raise _no_url(url.render_as_string())
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise UsageError(
            f"a catalog keeps things, so it cannot be in memory: {place}", hint="give a path"
        )
    return Path(url.database).absolute()


def connect_sqlite(file: Path, mode: str = "") -> sqlite3.Connection:
    """Connect to a SQLite file, which is made if it is not there.

    Parameters
    ----------
    file : Path
        Where it is.
    mode : str
        Query of SQLite's own URI, such as ``mode=ro``.

    Returns
    -------
    sqlite3.Connection
        Without transactions of the driver's own; foreign keys on.
    """
    connection = sqlite3.connect(
        f"file:{quote(str(file))}?{mode}",
        uri=True,
        timeout=_BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def sqlite_engine(connect: Callable[[], sqlite3.Connection]) -> Engine:
    """Return an engine for a SQLite file.

    Parameters
    ----------
    connect : callable
        Connects to it.

    Returns
    -------
    Engine
        A transaction with `WRITES` takes SQLite's lock at its beginning.
    """
    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # a writer takes its lock first: two readers that turn writers would lock each other out
        writes = connection.get_execution_options().get(WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def server_engine(url: URL) -> Engine:
    """Return an engine for a PostgreSQL database.

    Parameters
    ----------
    url : URL
        Where it is.

    Returns
    -------
    Engine
        Its sessions are in UTC: in another zone the last instants would be in the year 10000.
    """
    patience = {} if "connect_timeout" in url.query else {"connect_timeout": _CONNECT_TIMEOUT_S}
    engine = create_engine(url, poolclass=NullPool, connect_args=patience)

    @event.listens_for(engine, "connect")
    def settle(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own
        with connection.cursor() as cursor:
            cursor.execute("SET TIME ZONE 'UTC'")
        connection.commit()

    return engine


def _no_url(place: object) -> UsageError:
    return UsageError(
        f"not a catalog's URL: {place}; allowed: a path, sqlite:///PATH or "
        "postgresql://USER@HOST/DATABASE"
    )
