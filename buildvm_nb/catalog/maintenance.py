"""Maintenance of a catalog: checked for damage, cleared of unused logs, merged with another one."""

from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy import Connection, RowMapping, Table, func, select

from buildvm_nb.catalog import database as tables
from buildvm_nb.catalog.database import Database
from buildvm_nb.catalog.logs import LogStore, Unsent, unsent_logs
from buildvm_nb.catalog.query import (
    insert_cases,
    insert_finding,
    insert_new,
    insert_outcomes,
    is_same,
    known_ids,
    stored_documents,
)
from buildvm_nb.catalog.rows import finding_row, outcome_row
from buildvm_nb.errors import CatalogError, SchemaVersionError
from buildvm_nb.host.progress import Progress, Task
from buildvm_nb.model.finding import Finding
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.model.value import read_document

__all__ = [
    "Collected",
    "Merged",
    "Side",
    "Trouble",
    "check",
    "collect",
    "merge",
]

# Whether a catalog is whole: the database, its documents and columns, the logs.

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

    Yields: each thing that is wrong; nothing is changed.
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


# Removal of logs that no outcome has, and of files that killed writers left.


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What was removed, or would be."""

    logs: tuple[Path, ...]
    """Logs that no outcome has."""
    unfinished: tuple[Path, ...]
    """What killed writers left of logs."""
    size_bytes: int
    """Of all of them together."""
    gone: tuple[Path, ...]
    """Catalogs that kept logs here and are no longer there: their logs count for nothing."""


def collect(database: Database, logs: LogStore, *, dry_run: bool) -> Collected:
    """Remove logs that no outcome has, and what killed writers left.

    A log that another process is just adding, that another catalog has, or that an outcome names
    which waits for a server, is kept.

    Raises `CatalogError` if another catalog that keeps its logs here cannot be read, or something
    cannot be removed.
    """
    if not logs.root.is_dir():
        return Collected(logs=(), unfinished=(), size_bytes=0, gone=())
    others, gone = _other_users(database, logs)
    try:
        unused = tuple(_unused(logs, (database, *others), dry_run=dry_run))
        unfinished = tuple((path, path.stat().st_size) for path in logs.unfinished())
        if not dry_run:
            logs.clear_unfinished()
    except OSError as error:
        raise CatalogError(f"cannot remove logs in {logs.root}: {error}") from error
    finally:
        for other in others:
            other.close()
    return Collected(
        logs=tuple(path for path, _ in unused),
        unfinished=tuple(path for path, _ in unfinished),
        size_bytes=sum(size for _, size in (*unused, *unfinished)),
        gone=gone,
    )


def _unused(
    logs: LogStore, databases: tuple[Database, ...], *, dry_run: bool
) -> Iterator[tuple[Path, int]]:
    """Remove logs in small turns, so that whoever records an outcome need not wait for long."""
    for directory in sorted(logs.root.glob("[0-9a-f][0-9a-f]")):
        with logs.alone():
            used = _used(databases, directory.name) | unsent_logs(logs.root)
            for path in sorted(directory.glob("*.gz")):
                if path.name.removesuffix(".gz") not in used:
                    yield path, path.stat().st_size
                    if not dry_run:
                        path.unlink()


def _other_users(database: Database, logs: LogStore) -> tuple[list[Database], tuple[Path, ...]]:
    """Open the other catalogs that keep logs here; return those that are gone beside them."""
    others: list[Database] = []
    gone = []
    try:
        for place in logs.users():
            if place == database.address:
                continue
            if isinstance(place, Path) and not place.exists():
                gone.append(place)
                continue
            others.append(Database(place, is_reader=True))
    except BaseException as error:
        for other in others:
            other.close()
        if isinstance(error, CatalogError):
            raise CatalogError(
                f"another catalog keeps its logs in {logs.root} and cannot be read, so nothing "
                f"is removed: {error.message}",
                hint=f"mend that, or take its line out of {logs.register}",
            ) from error
        raise
    return others, tuple(gone)


def _used(databases: tuple[Database, ...], prefix: str) -> set[str]:
    """Return the logs that some outcome has, of those whose digest begins so."""
    digest = tables.logs.c.digest
    query = select(digest).where(digest >= prefix, digest < f"{prefix}g")
    used: set[str] = set()
    for database in databases:
        with database.reading() as connection:
            used.update(connection.execute(query).scalars())
    return used


# Outcomes and findings of another catalog: all of them, once, or none where one contradicts.
#
# The other catalog is read twice in one transaction: first everything is compared with what is
# here, then what is new is copied in batches, so that memory stays small and other writers get
# their turn. What was copied before a failure is whole and stays; merging again copies the rest.

_BATCH = 1000
_SHOWN = 5
_FINDINGS_SINCE = 2
"""Schema version that brought findings."""
_RETRACTIONS_SINCE = 5


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What a merge has added."""

    outcomes: int
    findings: int
    retractions: int
    known: int
    """Outcomes and findings that were here already."""
    missing_logs: int
    """Logs of new outcomes that the other catalog should have, but are missing or corrupt there."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two catalogs."""

    database: Database
    logs: LogStore


def merge(ours: Side, other: Side, progress: Progress) -> Merged:
    """Add what another catalog has and this one has not.

    Raises `CatalogError` if an id stands for different things in both, or something in the other
    one cannot be read: then nothing was added. Or if a catalog fails.
    """
    with other.database.reading() as source:
        total = _count(source, other.database)
        with progress.task("comparing catalogs") as task:
            new = _Comparison(ours, other, source).run(task, total)
        with progress.task("copying outcomes and findings") as task:
            return _Copy(ours, other, source).run(task, new, total)


class _Comparison:
    """What is new, or what stands in the way."""

    def __init__(self, ours: Side, other: Side, source: Connection) -> None:
        self._ours, self._other, self._source = ours, other, source
        self._conflicts: list[str] = []
        self._conflict_count = 0

    def run(self, task: Task, total: int) -> int:
        """Return how many are new."""
        new = done = 0
        for kind, table in _kinds(self._other.database):
            for page in _pages(self._source, table):
                new += self._compare(kind, table, page)
                done += len(page)
                task.update(done, total)
        if self._conflicts:
            more = self._conflict_count - len(self._conflicts)
            shown = "; ".join(self._conflicts) + (f"; and {more} more" if more else "")
            raise CatalogError(
                f"{self._other.database.name} cannot be merged into {self._ours.database.name}, "
                f"and nothing was: {shown}",
                hint="an id is never used twice: one of them was changed by hand",
            )
        return new

    def _compare(self, kind: type[Outcome | Finding], table: Table, page: dict[str, str]) -> int:
        with self._ours.database.reading() as connection:
            known = stored_documents(connection, table, list(page))
        for key, document in page.items():
            here = known.get(key)
            if here == document:
                continue
            try:
                entry = read_document(kind, document)
            except SchemaVersionError as error:
                self._object(error.message)
                continue
            except ValidationError as error:
                self._object(
                    f"{_noun(kind)} {key} there cannot be read: {error.error_count()} "
                    "fields are not as this buildvm-nb knows them"
                )
                continue
            if here is not None and not is_same(entry, here):
                self._object(f"{_noun(kind)} {key} is another one here")
        return len(page) - len(known)

    def _object(self, what: str) -> None:
        self._conflict_count += 1
        if len(self._conflicts) < _SHOWN:
            self._conflicts.append(what)


class _Copy:
    """Copies what is new, in batches."""

    def __init__(self, ours: Side, other: Side, source: Connection) -> None:
        self._ours, self._other, self._source = ours, other, source
        self._missing_logs = 0

    def run(self, task: Task, new: int, total: int) -> Merged:
        done = outcomes = findings = 0
        if new:
            for page in _pages(self._source, tables.outcomes):
                outcomes += self._copy_outcomes(page)
                done += len(page)
                task.update(done, total)
            findings = self._copy_all_findings(task, done, total)
        retractions = self._copy_retractions()
        return Merged(
            outcomes=outcomes,
            findings=findings,
            retractions=retractions,
            known=total - outcomes - findings,
            missing_logs=self._missing_logs,
        )

    def _copy_outcomes(self, page: dict[str, str]) -> int:
        with self._ours.database.reading() as connection:
            known = known_ids(connection, tables.outcomes, list(page))
        new = [read_document(Outcome, text) for key, text in page.items() if key not in known]
        sizes = self._log_sizes({one.log_digest for one in new if one.log_digest})
        with self._ours.logs.held():
            for digest in sizes:
                self._copy_log(digest)
            with self._ours.database.writing() as connection:
                # a merge of the same at the same time may have been faster
                known = known_ids(connection, tables.outcomes, [one.id for one in new])
                new = [one for one in new if one.id not in known]
                insert_outcomes(connection, new, sizes, page)
        return len(new)

    def _log_sizes(self, digests: set[str]) -> dict[str, int]:
        if not digests:
            return {}
        logs = tables.logs.c
        query = select(logs.digest, logs.size_bytes).where(logs.digest.in_(digests))
        return {row.digest: row.size_bytes for row in self._source.execute(query)}

    def _copy_log(self, digest: str) -> None:
        ours = self._ours.logs
        if not ours.path(digest).exists() and not ours.adopt(self._other.logs.path(digest), digest):
            self._missing_logs += 1

    def _copy_all_findings(self, task: Task, done: int, total: int) -> int:
        copied, waiting = 0, list[Finding]()
        documents: dict[str, str] = {}
        if not _has_findings(self._other.database):
            return 0
        for page in _pages(self._source, tables.findings):
            with self._ours.database.reading() as connection:
                known = known_ids(connection, tables.findings, list(page))
            new = {key: text for key, text in page.items() if key not in known}
            documents |= new
            waiting += [read_document(Finding, text) for text in new.values()]
            before = len(waiting)
            waiting = self._copy_findings(waiting, documents)
            documents = {one.id: documents[one.id] for one in waiting}
            copied += before - len(waiting)
            done += len(page)
            task.update(done, total)
        return copied

    def _copy_retractions(self) -> int:
        """Copy why findings are no longer believed; of one that is retracted here, too, nothing."""
        if (self._other.database.version or 0) < _RETRACTIONS_SINCE:
            return 0
        table = tables.retractions
        rows = [row._asdict() for row in self._source.execute(select(table))]
        with self._ours.database.writing() as connection:
            known = set(connection.execute(select(table.c.finding_id)).scalars())
            new = [row for row in rows if row["finding_id"] not in known]
            insert_new(connection, table, sorted(new, key=itemgetter("finding_id")))
        return len(new)

    def _copy_findings(self, waiting: list[Finding], documents: dict[str, str]) -> list[Finding]:
        """Copy those whose predecessors are there; return the others."""
        table = tables.findings
        with self._ours.database.writing() as connection:
            known = known_ids(connection, table, [one.id for one in waiting])
            known |= known_ids(connection, table, [one.supersedes or "" for one in waiting])
            waiting = [one for one in waiting if one.id not in known]
            while ready := [one for one in waiting if (one.supersedes or "") in {"", *known}]:
                for one in ready:
                    insert_cases(connection, [one.case])
                    insert_finding(connection, one, documents[one.id])
                known |= {one.id for one in ready}
                waiting = [one for one in waiting if one.id not in known]
        return waiting


def _kinds(database: Database) -> list[tuple[type[Outcome | Finding], Table]]:
    outcomes = [(Outcome, tables.outcomes)]
    return [*outcomes, (Finding, tables.findings)] if _has_findings(database) else [*outcomes]


def _has_findings(database: Database) -> bool:
    return (database.version or 0) >= _FINDINGS_SINCE


def _count(source: Connection, database: Database) -> int:
    return sum(
        source.execute(select(func.count()).select_from(table)).scalar_one()
        for _, table in _kinds(database)
    )


def _pages(source: Connection, table: Table) -> Iterator[dict[str, str]]:
    """Iterate over documents by id, oldest first, some at a time."""
    query = select(table.c.id, table.c.document).order_by(table.c.recorded_at, table.c.id)
    rows = source.execute(query.execution_options(yield_per=_BATCH))
    for page in rows.partitions():
        yield {row.id: row.document for row in page}


def _noun(kind: type[Outcome | Finding]) -> str:
    return kind.__name__.lower()
