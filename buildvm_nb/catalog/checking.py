"""Whether a catalog is whole: the database, its documents and columns, the logs."""

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import ValidationError
from sqlalchemy import Connection, RowMapping, Table, func, select

from buildvm_nb.catalog import tables
from buildvm_nb.catalog.database import Database
from buildvm_nb.catalog.findingrows import finding_row
from buildvm_nb.catalog.logs import LogStore
from buildvm_nb.catalog.rows import outcome_row
from buildvm_nb.catalog.unsent import Unsent
from buildvm_nb.errors import CatalogError, SchemaVersionError
from buildvm_nb.host.progress import Progress, Task
from buildvm_nb.model.documents import read_document
from buildvm_nb.model.finding import Finding
from buildvm_nb.model.outcome import Outcome

__all__ = ["Trouble", "check"]

_PAGE = 1000


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Something in a catalog that is not as it should be."""

    where: str
    """``database``, ``outcome``, ``finding``, ``log`` or ``unsent``."""
    key: str
    """Id, digest, table or file that it is about."""
    what: str
    """What is wrong with it."""


def check(
    database: Database, logs: LogStore, unsent: Unsent, progress: Progress
) -> Iterator[Trouble]:
    """Read all of a catalog and compare its parts.

    Parameters
    ----------
    database : Database
        Of the catalog.
    logs : LogStore
        Its logs.
    unsent : Unsent
        What waits for its server.
    progress : Progress
        Gets a task for the database, for entries and for logs.

    Yields
    ------
    Trouble
        Each thing that is wrong; nothing is changed.
    """
    with progress.task("checking the database"):
        yield from _check_database(database)
    for kind, table in ((Outcome, tables.outcomes), (Finding, tables.findings)):
        with progress.task(f"checking {table.name}") as task:
            yield from _go_on(database, _check_entries(database, kind, table, task))
    with progress.task("checking logs") as task:
        yield from _go_on(database, _check_logs(database, logs, task))
    for path in unsent.waiting():
        what = "waits to be sent: open the catalog again to learn why it is refused"
        yield Trouble(where="unsent", key=str(path), what=what)


def _go_on(database: Database, troubles: Iterator[Trouble]) -> Iterator[Trouble]:
    """Make a database that cannot be read on one more trouble: the rest may be read."""
    try:
        yield from troubles
    except CatalogError as error:
        yield Trouble(where="database", key=database.name, what=error.message)


def _check_database(database: Database) -> Iterator[Trouble]:
    """Let SQLite check its file; a server's administrator has tools for that."""
    if database.file is None:
        return
    try:
        with database.reading() as connection:
            pages = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
            references = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    except CatalogError as error:
        yield Trouble(where="database", key=database.name, what=error.message)
        return
    for said in pages:
        if said != "ok":
            yield Trouble(where="database", key=database.name, what=said)
    for table, row, target, _ in references:
        what = f"row {row} refers to something that is not in table {target}"
        yield Trouble(where="database", key=table, what=what)


def _check_entries(
    database: Database, kind: type[Outcome | Finding], table: Table, task: Task
) -> Iterator[Trouble]:
    noun, done = kind.__name__.lower(), 0
    with database.reading() as connection:
        total = connection.execute(select(func.count()).select_from(table)).scalar_one()
        query = select(table).order_by(table.c.id).execution_options(yield_per=_PAGE)
        for page in connection.execute(query).mappings().partitions():
            proofs = _proofs(connection, [row["id"] for row in page]) if kind is Finding else {}
            for row in page:
                for what in _entry_troubles(kind, row, proofs):
                    yield Trouble(where=noun, key=row["id"], what=what)
            done += len(page)
            task.update(done, total)


def _entry_troubles(
    kind: type[Outcome | Finding],
    row: RowMapping,
    proofs: dict[str, set[str]],
) -> Iterator[str]:
    try:
        entry = read_document(kind, row["document"])
    except ValidationError as error:
        yield f"its document cannot be read: {error.error_count()} fields are not as they should be"
        return
    except SchemaVersionError as error:
        yield error.message
        return
    said = outcome_row(entry) if isinstance(entry, Outcome) else finding_row(entry)
    if wrong := [name for name, value in said.items() if row[name] != value]:
        yield f"its document and its columns do not agree: {', '.join(wrong)}"
    if isinstance(entry, Finding) and set(entry.evidence) != proofs.get(entry.id, set()):
        yield "its evidence and the outcomes that it is tied to do not agree"


def _proofs(connection: Connection, ids: list[str]) -> dict[str, set[str]]:
    """Return the outcomes that findings are tied to, and that are there."""
    link = tables.finding_evidence.c
    query = (
        select(link.finding_id, tables.outcomes.c.id)
        .join_from(tables.finding_evidence, tables.outcomes)
        .where(link.finding_id.in_(ids))
    )
    proofs: dict[str, set[str]] = {}
    for finding, outcome in connection.execute(query):
        proofs.setdefault(finding, set()).add(outcome)
    return proofs


def _check_logs(database: Database, logs: LogStore, task: Task) -> Iterator[Trouble]:
    done = 0
    with database.reading() as connection:
        total = connection.execute(select(func.count()).select_from(tables.logs)).scalar_one()
        query = select(tables.logs).order_by(tables.logs.c.digest)
        for row in connection.execute(query.execution_options(yield_per=_PAGE)):
            try:
                size = sum(map(len, logs.stream(row.digest)))
            except CatalogError as error:
                yield Trouble(where="log", key=row.digest, what=error.message)
            else:
                if size != row.size_bytes:
                    what = f"has {size} bytes; {row.size_bytes} are recorded"
                    yield Trouble(where="log", key=row.digest, what=what)
            done += 1
            task.update(done, total)
