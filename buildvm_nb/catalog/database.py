"""The database below a catalog: where it is, how it is opened, and its errors in our words."""

import os
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from buildvm_nb.catalog.engines import (
    SERVER_READS,
    WRITES,
    connect_sqlite,
    parse_place,
    server_engine,
    sqlite_engine,
)
from buildvm_nb.catalog.schema import SCHEMA_VERSION
from buildvm_nb.catalog.upgrades import create_or_upgrade, stored_version
from buildvm_nb.errors import CatalogError, CatalogUnreachable, UsageError
from buildvm_nb.host.interruption import interruptible, is_interrupted

__all__ = ["Database", "default_place"]

_STEPS_PER_LOOK = 1_000_000
"""Of SQLite's machine, some 20 ms: each look has to wait for Python's lock."""


def default_place() -> str:
    """Return where the catalog is when nobody says.

    Returns
    -------
    str
        ``$BUILDVM_CATALOG``, else ``catalog.sqlite`` in the user's data directory.
    """
    data = platformdirs.user_data_path("buildvm-nb")
    return os.environ.get("BUILDVM_CATALOG") or str(data / "catalog.sqlite")


class Database:
    """A SQLite file, made if it is not there, or a PostgreSQL database by URL.

    Parameters
    ----------
    place : str or Path
        Path, or SQLAlchemy URL.
    is_reader : bool
        Whether it is left as it is, though its schema be older: see `version`.

    Raises
    ------
    UsageError
        If the URL is none, or names a database in memory.
    CatalogError
        If the database cannot be opened or made, or is no catalog.
    SchemaVersionError
        If it was written by a newer version.
    """

    def __init__(self, place: str | Path, *, is_reader: bool = False) -> None:
        where = parse_place(place)
        self.file = where if isinstance(where, Path) else None
        self.name = str(where)
        self.address = where if isinstance(where, Path) else str(where._replace(password=None))
        """Path, or URL without a password: names the database whoever opens it."""
        self.read_only = is_reader or (self.file is not None and _cannot_be_written(self.file))
        self._engine: Engine | None = None
        self._is_prepared = False
        with self._translated():
            self._engine = (
                sqlite_engine(self._connect) if isinstance(where, Path) else server_engine(where)
            )
        try:
            self._find() if is_reader else self._prepare()
            self._is_prepared = True
        except BaseException:
            self.close()
            raise

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Work in a transaction that only reads.

        Yields
        ------
        Connection
            Sees one state of the database.

        Raises
        ------
        CatalogError
            If the database fails.
        Interrupted
            If this thread's work is no longer wanted; a query that runs is ended.
        """
        isolation = {} if self.file else {"isolation_level": SERVER_READS}
        with self._translated(), self._open_engine().connect() as connection:
            marked = connection.execution_options(**isolation)
            with interruptible(_stopper(marked)), marked.begin():
                yield marked

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Work in a transaction that writes: all of it is kept, or nothing.

        Yields
        ------
        Connection
            Committed at the end, rolled back on any exception.

        Raises
        ------
        CatalogError
            If the database fails, is read-only, full, or locked for too long.
        CatalogUnreachable
            If a server cannot be reached or has gone; whether all of it was kept is not known.
        """
        if self.read_only:
            raise CatalogError(f"the catalog is read-only: {self.name}", hint=_HINTS["readonly"])
        with self._translated(), self._open_engine().connect() as connection:
            marked = connection.execution_options(**{WRITES: True})
            with marked.begin():
                yield marked

    def close(self) -> None:
        """Close all connections; closing twice is no error."""
        if self._engine is not None:
            self._engine.dispose()
        self._engine = None

    def _open_engine(self) -> Engine:
        if self._engine is None:
            raise CatalogError(f"the catalog is closed: {self.name}")
        return self._engine

    @property
    def version(self) -> int | None:
        """The schema version that is there now; None: nothing is there."""
        with self.reading() as connection:
            return stored_version(connection)

    def _find(self) -> None:
        if self.file is not None and not self.file.exists():
            raise UsageError(f"no such catalog: {self.file}")
        if self.version is None:
            raise CatalogError(f"no catalog, but an empty database: {self.name}")

    def _prepare(self) -> None:
        if self.file is not None and not self.file.exists():
            with self._translated():
                self.file.parent.mkdir(parents=True, exist_ok=True)
        elif self._is_current():
            return
        elif self.read_only:
            raise CatalogError(
                f"the catalog is read-only and not of schema version {SCHEMA_VERSION}, to which "
                f"it would have to be brought: {self.name}",
                hint="copy it to a place where you may write, and open the copy",
            )
        if self.file is None:
            with self.writing() as connection:
                create_or_upgrade(connection)
            return
        with self._translated(), FileLock(self.file.with_name(f".{self.file.name}.lock")):
            if not self.file.exists() or not self._is_current():
                self._turn_on_wal()
                with self.writing() as connection:
                    create_or_upgrade(connection)

    def _is_current(self) -> bool:
        return self.version == SCHEMA_VERSION

    def _turn_on_wal(self) -> None:
        """Let readers and a writer work side by side; SQLite keeps this in the file."""
        connection = self._connect()
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        finally:
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        file = self.file or Path()
        # a catalog that was removed meanwhile is not to come back as an empty file
        mode = "mode=ro" if self.read_only else "mode=rw" if self._is_prepared else ""
        if self.read_only and _cannot_be_written(file):
            mode += "&immutable=1"  # SQLite's own locks would have no room there either
        return connect_sqlite(file, mode)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            kind = CatalogUnreachable if self._is_gone(error) else CatalogError
            raise _in_our_words(str(cause), self.name, kind) from error
        except (OSError, ImportError) as error:
            raise _in_our_words(str(error), self.name) from error

    def _is_gone(self, error: Exception) -> bool:
        """Tell whether a server did not do its part, as opposed to refusing what it was given."""
        return self.file is None and isinstance(error, OperationalError | InterfaceError)


def _stopper(connection: Connection) -> Callable[[], None]:
    """Return what ends the query that a connection runs, or else its next one; for any thread.

    SQLite's own ``interrupt`` and PostgreSQL's cancel request do nothing between two queries.
    """
    driver: Any = connection.connection.driver_connection
    if isinstance(driver, sqlite3.Connection):
        driver.set_progress_handler(is_interrupted, _STEPS_PER_LOOK)
        return _nothing
    return partial(_cut_off, driver)


def _cut_off(driver: Any) -> None:  # noqa: ANN401 - psycopg need not be installed
    """End the query that a server runs, and have none begin after it."""
    with suppress(driver.Error, ValueError):  # it is closed
        driver.cancel_safe()
        with socket.socket(fileno=os.dup(driver.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)


def _nothing() -> None:
    """End nothing: who is to end looks itself."""


def _cannot_be_written(path: Path) -> bool:
    return path.exists() and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))


_HINTS = {
    "readonly": "copy it to a place where you may write, or name another with BUILDVM_CATALOG",
    "full": "make room on that file system, or name another catalog with BUILDVM_CATALOG",
    "locked": "another process is writing for a long time; try again when it is done",
    "not a database": "name another catalog with BUILDVM_CATALOG",
    "malformed": "move it away and restore a copy; `sqlite3 FILE .recover` saves what can be read",
    "unable to open": "check that the directory is there and that you may write to it",
    "password": "set PGPASSWORD or ~/.pgpass, or give the password in the URL",
    "onnection refused": "is the server running, and does it listen there?",
    "No module named": "install the driver: pip install 'buildvm-nb[postgres]'",
}


def _in_our_words(what: str, name: str, kind: type[CatalogError] = CatalogError) -> CatalogError:
    hint = next((hint for sign, hint in _HINTS.items() if sign in what), "")
    return kind(f"the catalog fails: {name}: {what}", hint=hint)
