"""Outcomes and findings of another catalog: all of them, once, or none where one contradicts.

The other catalog is read twice in one transaction: first everything is compared with what is here,
then what is new is copied in batches, so that memory stays small and other writers get their turn.
What was copied before a failure is whole and stays; merging again copies the rest.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter

from pydantic import ValidationError
from sqlalchemy import Connection, Table, func, select

from buildvm_nb.catalog import tables
from buildvm_nb.catalog.database import Database
from buildvm_nb.catalog.inserting import (
    insert_cases,
    insert_finding,
    insert_new,
    insert_outcomes,
    is_same,
    known_ids,
    stored_documents,
)
from buildvm_nb.catalog.logs import LogStore
from buildvm_nb.errors import CatalogError, SchemaVersionError
from buildvm_nb.host.progress import Progress, Task
from buildvm_nb.model.documents import read_document
from buildvm_nb.model.finding import Finding
from buildvm_nb.model.outcome import Outcome

__all__ = ["Merged", "Side", "merge"]

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

    Parameters
    ----------
    ours : Side
        Is written to.
    other : Side
        Is left as it is; its schema may be older.
    progress : Progress
        Gets two tasks: comparing and copying.

    Returns
    -------
    Merged
        What was added.

    Raises
    ------
    CatalogError
        If an id stands for different things in both, or something in the other one cannot be
        read: then nothing was added. Or if a catalog fails.
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
