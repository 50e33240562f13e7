"""The database below a catalog: connections, SQL tables, upgrades, and its errors in our words."""

import os
import socket
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import platformdirs
from filelock import FileLock
from pydantic import BaseModel, ValidationError
from sqlalchemy import (
    URL,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    DateTime,
    Dialect,
    Double,
    Engine,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    MetaData,
    NullPool,
    String,
    Table,
    Text,
    bindparam,
    create_engine,
    event,
    insert,
    inspect,
    literal,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.schema import CreateColumn
from sqlalchemy.types import TypeDecorator, TypeEngine

from buildvm_nb.catalog import schema
from buildvm_nb.catalog.rows import case_row, finding_row
from buildvm_nb.catalog.schema import FINDINGS, OUTCOMES, SCHEMA_VERSION, Kind, TableSchema
from buildvm_nb.errors import CatalogError, CatalogUnreachable, SchemaVersionError, UsageError
from buildvm_nb.host.process import interruptible, is_interrupted
from buildvm_nb.model.case import Case
from buildvm_nb.model.finding import Finding
from buildvm_nb.model.outcome import Probing
from buildvm_nb.model.value import Value, read_document

__all__ = [
    "UPGRADES",
    "Database",
    "cases",
    "default_place",
    "finding_evidence",
    "findings",
    "logs",
    "meta",
    "outcomes",
    "retractions",
]

# Connections to the two databases that a catalog may be in: SQLite and PostgreSQL.
#
# Each unit of work has a connection of its own, so that a catalog may be used from several threads
# and after a fork.

WRITES = "buildvm_writes"
"""Execution option that marks a transaction that writes."""

SERVER_READS = "REPEATABLE READ"
"""Isolation in which a reader of a server sees one state, as it does in SQLite."""

_BUSY_TIMEOUT_S = 60
_CONNECT_TIMEOUT_S = 10
_SERVER = "postgresql"


def parse_place(place: str | Path) -> Path | URL:
    """Tell where a catalog is.

    Returns: absolute path of a SQLite file, or URL of a PostgreSQL database.
    Raises `UsageError` if it is no such URL, or names a database in memory.
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
    """Connect to a SQLite file, which is made if it is not there."""
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
    """Return an engine for a SQLite file."""
    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # a writer takes its lock first: two readers that turn writers would lock each other out
        writes = connection.get_execution_options().get(WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def server_engine(url: URL) -> Engine:
    """Return an engine for a PostgreSQL database.

    Returns: its sessions are in UTC: in another zone the last instants would be in the year 10000.
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


# The SQL tables, made from `schema`; no SQL that only one database knows.


class UtcInstant(TypeDecorator[datetime]):
    """An aware UTC instant; databases without time zones keep it in UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Hand an instant to the database."""
        if value is None:
            return None
        utc = value if value.tzinfo is UTC else value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(
        self,
        value: datetime | None,
        dialect: Dialect,  # noqa: ARG002 - SQLAlchemy hands it over
    ) -> datetime | None:
        """Take an instant from the database."""
        return value and value.astimezone(UTC)

    def result_processor(
        self, dialect: Dialect, coltype: object
    ) -> Callable[[Any], datetime | None] | None:
        """Return what takes instants from the database.

        Returns: for SQLite, which has text, half of what SQLAlchemy's own two steps take.
        """
        if dialect.name == "sqlite":
            return _from_text
        return super().result_processor(dialect, coltype)


def _from_text(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(f"{value}+00:00")


_SQL_TYPES: dict[Kind, TypeEngine[Any]] = {
    Kind.TEXT: Text(),
    Kind.JSON: Text(),
    Kind.INTEGER: BigInteger(),
    Kind.REAL: Double(),
    Kind.BOOLEAN: Boolean(),
    Kind.INSTANT: UtcInstant(),
}


def _columns(table: TableSchema) -> list[Column[Any]]:
    return [
        Column(
            column.name,
            _SQL_TYPES[column.kind],
            primary_key=column is table.columns[0],
            nullable=column.optional,
            server_default=None if column.default is None else literal(column.default),
            comment=column.meaning,
        )
        for column in table.columns
    ]


def _indexes(table: TableSchema) -> list[Index]:
    return [
        Index(f"ix_{table.name}_{column.name}", column.name)
        for column in table.columns
        if column.indexed
    ]


METADATA = MetaData()

meta = Table(
    "catalog_meta",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
"""Facts about the database itself: ``schema_version``."""

cases = Table(
    "cases",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("document", Text, nullable=False),
    *(Column(column.name, Text, comment=column.meaning) for column in schema.SUBJECT),
    Column("package_key", Text, comment="name of the package by which it is looked up"),
    Column("source_name", Text, comment="repository, package or path, as the case names it"),
    Column("title", Text, comment="what the case is about, in a sentence"),
    Column("provenance_url", Text, comment="where it was reported"),
    Index("ix_cases_package", "package"),
    Index("ix_cases_package_key", "package_key"),
    Index("ix_cases_source_name", "source_name"),
)
"""Cases as they were first run: JSON, by id and build digest."""

logs = Table(
    "logs",
    METADATA,
    Column("digest", String(64), primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
)
"""Logs that were kept; the texts are files, named by digest."""

outcomes = Table(
    schema.OUTCOMES.name,
    METADATA,
    *_columns(schema.OUTCOMES),
    Column("document", Text, nullable=False, comment="the whole outcome as JSON, without loss"),
    ForeignKeyConstraint(["case_id", "case_digest"], [cases.c.id, cases.c.digest]),
    ForeignKeyConstraint(["log_digest"], [logs.c.digest]),
    *_indexes(schema.OUTCOMES),
    # with the order in it, so that no database prefers the index of a study with many outcomes
    Index("ix_outcomes_case_digest", "case_digest", "recorded_at", "id"),
)

findings = Table(
    schema.FINDINGS.name,
    METADATA,
    *_columns(schema.FINDINGS),
    Column("document", Text, nullable=False, comment="the whole finding as JSON, without loss"),
    ForeignKeyConstraint(["case_id", "case_digest"], [cases.c.id, cases.c.digest]),
    ForeignKeyConstraint(["supersedes"], ["findings.id"]),
    *_indexes(schema.FINDINGS),
    # what is newer on the same build
    Index("ix_findings_case_digest", "case_digest"),
    Index("ix_findings_build", "case_id", "case_digest", "recorded_at", "id"),
)

finding_evidence = Table(
    "finding_evidence",
    METADATA,
    Column("finding_id", Text, ForeignKey(findings.c.id), primary_key=True),
    Column("outcome_id", Text, ForeignKey(outcomes.c.id), primary_key=True),
)
"""Which outcomes prove which findings; their order is in the finding."""

retractions = Table(
    "retractions",
    METADATA,
    Column("finding_id", Text, ForeignKey(findings.c.id), primary_key=True),
    Column("recorded_at", UtcInstant(), nullable=False),
    Column("because", Text, nullable=False),
    Column("tool_version", Text),
)
"""Findings that somebody no longer believes; they stay, and are never current."""


# The schema in a database: made when there is none, checked, brought up to date step by step.

Upgrade = Callable[[Connection], None]
V = TypeVar("V", bound=Value)

_VERSION = "schema_version"
_MAKING = 0x6275696C64766D
"""Number of the lock under which a server's tables are made: ``buildvm`` in ASCII."""


def stored_version(connection: Connection) -> int | None:
    """Return the schema version of a database.

    Returns: None: it is empty.
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

    Raises `SchemaVersionError` if its version is newer than this one's, or too old for any step.
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


_STEPS_PER_LOOK = 1_000_000
"""Of SQLite's machine, some 20 ms: each look has to wait for Python's lock."""


def default_place() -> str:
    """Return where the catalog is when nobody says."""
    data = platformdirs.user_data_path("buildvm-nb")
    return os.environ.get("BUILDVM_CATALOG") or str(data / "catalog.sqlite")


class Database:
    """A SQLite file, made if it is not there, or a PostgreSQL database by URL.

    `is_reader`: whether it is left as it is, though its schema be older: see `version`.
    Raises `CatalogError` if the database cannot be opened or made, or is no catalog.
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

        Raises `Interrupted` if this thread's work is no longer wanted; a query that runs is ended.
        """
        isolation = {} if self.file else {"isolation_level": SERVER_READS}
        with self._translated(), self._open_engine().connect() as connection:
            marked = connection.execution_options(**isolation)
            with interruptible(_stopper(marked)), marked.begin():
                yield marked

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Work in a transaction that writes: all of it is kept, or nothing.

        Raises `CatalogError` if the database fails, is read-only, full, or locked for too long.
        Raises `CatalogUnreachable` if a server cannot be reached or has gone; whether all of it was
        kept is not known.
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
