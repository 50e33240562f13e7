"""The catalog: outcomes and findings in a database, logs in files beside it. It only ever grows."""

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, Unpack

import pandas as pd
import platformdirs
from sqlalchemy import Select, func, select

from buildvm_nb.catalog import database as tables
from buildvm_nb.catalog.database import Database, default_place
from buildvm_nb.catalog.frames import make_frame
from buildvm_nb.catalog.logs import LogStore, Unsent
from buildvm_nb.catalog.maintenance import Collected, Merged, Side, Trouble, check, collect, merge
from buildvm_nb.catalog.query import (
    Filters,
    Names,
    Query,
    Retraction,
    documents,
    find,
    find_retraction,
    find_successors,
    insert_cases,
    insert_finding,
    insert_outcomes,
    insert_retraction,
    is_current,
    is_same,
    known_ids,
    names_of,
    newest_case,
    newest_rows,
    oldest_first,
    pages,
    refuse_finding,
    some,
    stored_documents,
    stream,
    uncollected,
)
from buildvm_nb.catalog.schema import FAILURES, FINDINGS, HINTS, OUTCOMES
from buildvm_nb.catalog.tablefiles import form_of, write_jsonl, write_table
from buildvm_nb.catalog.traps import failures_frame, failures_query, hint_rows, hints_query
from buildvm_nb.errors import CatalogError, CatalogUnreachable, UsageError
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.case import Case
from buildvm_nb.model.display import card
from buildvm_nb.model.finding import Axis, Finding, HintKind
from buildvm_nb.model.outcome import Outcome

__all__ = [
    "Catalog",
    "usual_logs",
]

_EMPTY = hashlib.sha256(b"").hexdigest()
_ROWS = 2_000
"""How many rows are held in memory at once."""
_DIGEST_LENGTH = 64
_ENTRIES: tuple[type[Outcome | Finding], ...] = (Outcome, Finding)


def usual_logs(database: Database) -> Path:
    """Return where a catalog's logs are when nobody says.

    Returns: ``logs`` beside a SQLite file, or in the user's data directory for a server.
    """
    file = database.file
    beside = platformdirs.user_data_path("buildvm-nb") if file is None else file.parent
    return beside / "logs"


class Catalog:
    """Outcomes with their logs, and findings; a context manager.

    Several processes and threads may use one catalog at once. What `record` or `record_finding`
    has returned is kept, whatever happens next.

    Parameters
    ----------
    place : str or Path, optional
        Path of a SQLite file, made if it is not there, or a SQLAlchemy URL. By default
        ``$BUILDVM_CATALOG``, else ``catalog.sqlite`` in the user's data directory.
    logs : Path, optional
        Directory of the logs. By default ``logs`` beside the SQLite file, or in the user's data
        directory for another database.
    tell : callable, optional
        Takes a sentence for the user: that a server is gone, and that what was kept meanwhile has
        been sent. By default it becomes a warning.

    Raises
    ------
    UsageError
        If the URL is none.
    CatalogError
        If it cannot be opened or made, or is no catalog.
    SchemaVersionError
        If it was written by a newer version.
    """

    def __init__(
        self,
        place: str | Path | None = None,
        *,
        logs: Path | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self._database = Database(place or default_place())
        self._tell = tell or warnings.warn
        self._told = False
        address = self._database.address
        self._logs = LogStore(logs or usual_logs(self._database), address)
        self._unsent = Unsent(self._logs.root, str(address))
        if not self._database.read_only:
            self._logs.clear_unfinished()
            with suppress(OSError):  # whoever adds a log tries again
                self._logs.enlist()
            self._send_unsent()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Catalog({self.name!r})"

    def _repr_html_(self) -> str:
        try:
            counts = self.counts()
        except CatalogError as error:
            return card(f"Catalog {self.name}", [("trouble", str(error))])
        rows = [
            (name, ", ".join(f"{n} {what}" for what, n in of.items()) or "none")
            for name, of in counts.items()
        ]
        return card(f"Catalog {self.name}", rows)

    @property
    def name(self) -> str:
        """Path or URL; a password in it is hidden."""
        return self._database.name

    def close(self) -> None:
        """Close the catalog; closing twice is no error."""
        self._database.close()

    def record(self, outcome: Outcome, log: bytes | Path = b"") -> Outcome:
        """Keep an outcome and its log, for good.

        Where the catalog's server cannot be reached, both are kept on this host until the catalog
        is opened the next time, and the user is told.

        `outcome`: not recorded before. Its `log_digest` may be empty, else it must be the log's.
        `log`: the log's text or a file with it; empty: there is none, or the catalog has it.
        Raises `CatalogError` if the id is there already, the log does not match the digest, or the
        catalog cannot be written; then nothing was recorded.
        """
        return self.record_many([(outcome, log)])[0]

    def record_many(self, entries: Iterable[tuple[Outcome, bytes | Path]]) -> list[Outcome]:
        """Keep many outcomes and their logs at once: all of them, or none.

        This is many times faster than one after the other. Memory grows with their number, and
        other writers wait meanwhile: hand over some thousands at a time.

        Returns: as recorded, in the same order.
        """
        if self._database.read_only:
            raise CatalogError(
                f"the catalog is read-only: {self._database.name}",
                hint="name another one with BUILDVM_CATALOG",
            )
        given = list(entries)
        has_logs = any(log != b"" or outcome.log_digest for outcome, log in given)
        with self._logs.held() if has_logs else nullcontext():
            sizes: dict[str, int] = {}
            outcomes = [self._keep_log(outcome, log, sizes) for outcome, log in given]
            try:
                self._insert_outcomes(outcomes, sizes)
            except CatalogUnreachable as error:
                self._keep_unsent(outcomes, error)
        return outcomes

    def record_finding(self, finding: Finding) -> Finding:
        """Keep a finding, for good; an earlier one is superseded, never changed.

        Where the catalog's server cannot be reached, the finding is kept on this host, as it is,
        until the catalog is opened the next time, and the user is told.

        `finding`: not recorded before. What it replaces need not be said: see `findings`.
        Raises `CatalogError` if the id is there already, its evidence or the finding that it
        supersedes is not in this catalog, or the catalog cannot be written; then nothing was
        recorded.
        """
        try:
            return self._conclude(finding)
        except CatalogUnreachable as error:
            self._keep_unsent([finding], error)
            return finding

    def retract(self, key: str, because: str) -> Retraction:
        """Say that a finding is no longer believed; it stays, and is never current again.

        Raises `UsageError` if there is no such finding, it is retracted already, or no reason is
        given.
        """
        if not because.strip():
            raise UsageError(
                "a finding is retracted for a reason", hint="say why it is not believed"
            )
        finding = self.finding(key)
        with self._database.writing() as connection:
            return insert_retraction(connection, finding.id, because.strip())

    def outcome(self, key: str) -> Outcome:
        """Return one outcome, without loss.

        Parameters
        ----------
        key : str
            Its id, or a beginning that no other id has.

        Returns
        -------
        Outcome
            As it was recorded.

        Raises
        ------
        UsageError
            If there is none, or more than one.
        CatalogError
            If the catalog cannot be read.
        """
        return find(self._database, key, Outcome)

    def entry(self, key: str) -> Outcome | Finding:
        """Return an outcome or a finding, whichever has an id.

        Parameters
        ----------
        key : str
            The id, or a beginning that no other id of either has.

        Returns
        -------
        Outcome or Finding
            As it was recorded.

        Raises
        ------
        UsageError
            If there is none, or more than one.
        CatalogError
            If the catalog cannot be read.
        """
        return find(self._database, key, *_ENTRIES)

    def finding(self, key: str) -> Finding:
        """Return one finding, without loss; as for `outcome`."""
        return find(self._database, key, Finding)

    def newest_case(self, case_id: str) -> Case | None:
        """Return the case of this id that was run last; None: none was."""
        return newest_case(self._database, case_id)

    def retraction(self, key: str) -> Retraction | None:
        """Tell whether a finding is no longer believed, and why; None: it is not retracted."""
        with self._database.reading() as connection:
            return find_retraction(connection, key)

    def successors(self, key: str) -> list[str]:
        """Return the later findings that leave nothing of one."""
        with self._database.reading() as connection:
            return find_successors(connection, key)

    def log(self, key: str) -> bytes:
        """Return the text of a log, verified.

        Parameters
        ----------
        key : str
            Digest of the log, or id of an outcome or a beginning of it.

        Returns
        -------
        bytes
            Its text.

        Raises
        ------
        UsageError
            If there is no such outcome.
        CatalogError
            If the outcome has no log, or the log is missing or corrupt.
        """
        return b"".join(self.log_pieces(key))

    def log_pieces(self, key: str) -> Iterator[bytes]:
        """Read a log piece by piece, verified at its end.

        Parameters
        ----------
        key : str
            As for `log`.

        Yields
        ------
        bytes
            Its text, in order.

        Raises
        ------
        UsageError
            If there is no such outcome.
        CatalogError
            If the outcome has no log, or the log is missing or corrupt.
        """
        digest = key if len(key) == _DIGEST_LENGTH else self.outcome(key).log_digest
        if not digest:
            raise CatalogError(f"outcome has no log: {key}")
        yield from self._logs.stream(digest)

    def outcomes(self, *, limit: int | None = None, **wanted: Unpack[Filters]) -> pd.DataFrame:
        """Return outcomes as a frame, oldest first.

        Parameters
        ----------
        limit : int, optional
            At most so many, the newest ones.
        **wanted
            ``case``, ``package``, ``verdict``, ``study``, ``cpu``, ``kernel``: only those with this
            id, name or verdict, or one of several; a package however it is spelled. ``since``,
            ``until``: only those recorded at this instant (aware, or text such as ``2026-11-24``)
            or later, and before that one. ``columns``: only these.

        Returns
        -------
        DataFrame
            One row each, with the columns and dtypes of ``schema.OUTCOMES.dtypes``.

        Raises
        ------
        UsageError
            If a filter is invalid: an unknown verdict, a naive instant, a negative limit.
        CatalogError
            If the catalog cannot be read.
        """
        return self._newest(Query.of(OUTCOMES.name, wanted), limit)

    def findings(self, *, limit: int | None = None, **wanted: Unpack[Filters]) -> pd.DataFrame:
        """Return findings as a frame, oldest first.

        Parameters
        ----------
        limit : int, optional
            At most so many, the newest ones.
        **wanted
            ``kind``, ``axis``: only those of one of these kinds, on one of these axes.
            ``current=False``: also those that are retracted or that a later one replaces; see
            `buildvm_nb.catalog.query.Query`. ``case``, ``package``, ``study``, ``since``,
            ``until``, ``columns``: as for `outcomes`.

        Returns
        -------
        DataFrame
            One row each, with the columns and dtypes of ``schema.FINDINGS.dtypes``.

        Raises
        ------
        UsageError
            If a filter is invalid: an unknown kind, a naive instant, a negative limit.
        CatalogError
            If the catalog cannot be read.
        """
        return self._newest(Query.of(FINDINGS.name, wanted), limit)

    def failures(self, *, limit: int | None = None, **wanted: Unpack[Filters]) -> pd.DataFrame:
        """Return the current findings that tell of a failure, oldest first.

        The runs in which a case did not pass are
        ``outcomes(verdict=["failed", "crashed", "timeout"])``.

        Parameters
        ----------
        limit : int, optional
            At most so many, the newest ones.
        **wanted
            ``kind``: only those of one of these kinds; by default of all but ``sound`` and
            ``undetermined``. ``springs_before``: only time traps that spring, or may spring, before
            this instant, aware or text such as ``2028-01-01``. ``axis``, ``case``, ``package``,
            ``since``, ``until``, ``columns``: as for `findings`.

        Returns
        -------
        DataFrame
            One row each, with the columns and dtypes of ``schema.FAILURES.dtypes``.

        Raises
        ------
        UsageError
            If a filter is invalid: an unknown kind, a naive instant, a negative limit.
        CatalogError
            If the catalog cannot be read.
        """
        return self._newest(Query.of(FAILURES.name, wanted), limit)

    def hints(self, *, limit: int | None = None, **wanted: Unpack[Filters]) -> pd.DataFrame:
        """Return the hints that current findings name as the cause of a boundary, oldest first.

        Parameters
        ----------
        limit : int, optional
            Those of at most so many findings, the newest ones.
        **wanted
            ``kind``, ``axis``: only hints of one of these kinds, and of boundaries on one of these
            axes. ``case``, ``package``, ``since``, ``until``: those of findings as for `findings`.

        Returns
        -------
        DataFrame
            One row for each boundary with a cause, with the columns and dtypes of
            ``schema.HINTS.dtypes``.

        Raises
        ------
        UsageError
            If a filter is invalid: an unknown kind, a naive instant, a negative limit.
        CatalogError
            If the catalog cannot be read.
        """
        fits = partial(
            _fits,
            kinds=names_of(wanted.pop("kind", None), HintKind, "kind of hint"),
            axes=names_of(wanted.pop("axis", None), Axis, "axis"),
        )
        rows = newest_rows(
            self._database,
            tables.findings,
            Query.of(FINDINGS.name, wanted).narrow(hints_query()),
            limit,
            lambda row: any(map(fits, hint_rows(row))),
        )
        return make_frame((hint for row in rows for hint in hint_rows(row) if fits(hint)), HINTS)

    def page(
        self,
        table: str | Query,
        *,
        sort: str = "recorded_at",
        descending: bool = True,
        offset: int = 0,
        size: int = 20,
        **wanted: Unpack[Filters],
    ) -> pd.DataFrame:
        """Return a page of outcomes or findings: SQL filters, sorts and cuts.

        Raises `UsageError` if there is no such table or column, or a filter is invalid.
        """
        query = Query.of(table, wanted)
        if query.table == FAILURES.name:
            raise UsageError("failures have no pages; take findings of their kinds")
        if sort not in query.schema.dtypes:
            known = ", ".join(query.schema.dtypes)
            raise UsageError(f"no such column of {query.table}: {sort!r}", hint=known)
        if offset < 0 or size < 1:
            raise UsageError(f"no such page: {size} rows after {offset}")
        keys = (query.source.c[sort], query.source.c.id)
        order = [key.desc() if descending else key.asc() for key in keys]
        chosen = query.rows().order_by(order[0].nulls_last(), order[1])
        with self._database.reading() as connection:
            rows = connection.execute(chosen.offset(offset).limit(size)).all()
        return make_frame(rows, query.schema)

    def pieces(
        self, table: str | Query, *, size: int = _ROWS, **wanted: Unpack[Filters]
    ) -> Iterator[pd.DataFrame]:
        """Return a table frame by frame, oldest first, in bounded memory.

        `table`: ``outcomes``, ``findings`` (superseded ones, too) or ``failures``.
        `wanted`: as for `outcomes` and `findings`; ``only``: verdicts or kinds.
        `size`: rows of a frame, at most.
        Returns: none of them empty; the index goes on from one to the next.
        """
        query = _whole_table(table, wanted)
        return self._frames(query, oldest_first(_asked(query), query.source), size)

    def export(
        self,
        target: Path | IO[str],
        table: str | Query = FAILURES.name,
        *,
        form: str | None = None,
        partition: str | None = None,
        **wanted: Unpack[Filters],
    ) -> None:
        """Write a table to a file, in bounded memory and without loss.

        Parameters
        ----------
        target : Path or text stream
            A path is replaced at once, when all is written. A stream takes CSV and JSON Lines.
        table : str
            ``outcomes``, ``findings`` (superseded ones, too) or ``failures``.
        form : str, optional
            ``csv``, ``jsonl`` or ``parquet``; by default by the name of the file, else CSV. JSON
            Lines of outcomes and findings hold them whole, as `read_jsonl` reads them.
        partition : str, optional
            For Parquet: ``year`` (of ``recorded_at``), ``kind``, ``axis`` or ``verdict``; `target`
            becomes a directory.
        **wanted
            As for `outcomes` and `findings`; ``only``: verdicts of outcomes, kinds of the others.

        Raises
        ------
        UsageError
            If there is no such table or format, or a filter is invalid.
        CatalogError
            If the catalog cannot be read or the file cannot be written.
        """
        query = _whole_table(table, wanted)
        chosen = form_of(target if isinstance(target, Path) else Path(), form)
        if chosen == "jsonl" and query.table != FAILURES.name and partition is None:
            # as they are: a newer version may tell more there
            kind = _ENTRIES[query.table == FINDINGS.name]
            write_jsonl(documents(self._database, kind, query.documents()), target)
            return
        write_table(self.pieces(query), target, query.schema, form=chosen, partition=partition)

    def documents(self, **wanted: Unpack[Filters]) -> Iterator[Outcome]:
        """Iterate over whole outcomes, oldest first; filters as for `outcomes`."""
        query = Query.of(OUTCOMES.name, wanted)
        return stream(self._database, Outcome, query.documents())

    def answers(self, case_digest: str, *, study: Names | None = None) -> Iterator[Outcome]:
        """Iterate over the whole outcomes of all cases that build the same, oldest first.

        `case_digest`: as of `Case.build_digest`: a case may have got another id or title since.
        """
        return self.documents(case_digest=case_digest, study=study)

    def finding_documents(self, **wanted: Unpack[Filters]) -> Iterator[Finding]:
        """Iterate over whole findings, oldest first; filters as for `findings`."""
        query = Query.of(FINDINGS.name, wanted)
        return stream(self._database, Finding, query.documents())

    def counts(self) -> dict[str, dict[str, int]]:
        """Count what is there.

        Returns: for ``outcomes`` how many have which verdict, for ``findings`` how many current
        ones are of which kind.
        """
        verdict, kind = tables.outcomes.c.verdict, tables.findings.c.kind
        of_outcomes = select(verdict, func.count()).group_by(verdict).order_by(verdict)
        of_findings = select(kind, func.count()).where(is_current()).group_by(kind).order_by(kind)
        with self._database.reading() as connection:
            return {
                name: {str(what): int(count) for what, count in connection.execute(query)}
                for name, query in ((OUTCOMES.name, of_outcomes), (FINDINGS.name, of_findings))
            }

    def count(self, table: str | Query, **wanted: Unpack[Filters]) -> int:
        """Count rows; filters as for `outcomes` and `findings`."""
        query = Query.of(table, wanted)
        counted = query.narrow(select(func.count()).select_from(query.source))
        with self._database.reading() as connection:
            return int(connection.execute(counted).scalar_one())

    def merge(
        self, other: str | Path, *, logs: Path | None = None, progress: Progress = SILENT
    ) -> Merged:
        """Add what another catalog has and this one has not; doing so again adds nothing.

        `other`: its file or URL. It is left as it is, also where its schema is older.
        `logs`: directory of its logs; by default as for `Catalog`.
        Raises `CatalogError` if an id stands for different things in both, or something in the
        other one cannot be read: then nothing was added. Or if a catalog fails.
        """
        source = Database(other, is_reader=True)
        try:
            theirs = Side(database=source, logs=LogStore(logs or usual_logs(source)))
            return merge(Side(database=self._database, logs=self._logs), theirs, progress)
        finally:
            source.close()

    def check(self, progress: Progress = SILENT) -> Iterator[Trouble]:
        """Read everything and compare: database, documents, columns, references, logs.

        Returns: each thing that is wrong; nothing is changed.
        """
        return check(self._database, self._logs, self._unsent, progress)

    def collect(self, *, dry_run: bool = False) -> Collected:
        """Remove logs that no outcome has, and what killed writers left.

        Raises `CatalogError` if the catalog is read-only, or another one that keeps its logs in the
        same directory cannot be read.
        """
        if self._database.read_only:
            raise CatalogError(f"the catalog is read-only: {self._database.name}")
        return collect(self._database, self._logs, dry_run=dry_run)

    def _newest(self, query: Query, limit: int | None) -> pd.DataFrame:
        rows = newest_rows(self._database, query.source, _asked(query), limit)
        with uncollected():
            return _framed(query, rows)

    def _frames(self, query: Query, chosen: Select[Any], size: int) -> Iterator[pd.DataFrame]:
        done = 0
        for page in pages(self._database, chosen, size):
            frame = _framed(query, page)
            frame.index = pd.RangeIndex(done, done + len(frame))
            done += len(frame)
            yield frame

    def _insert_outcomes(self, outcomes: Sequence[Outcome], log_sizes: Mapping[str, int]) -> None:
        keys = [outcome.id for outcome in outcomes]
        if len(set(keys)) < len(keys):
            raise CatalogError(f"outcome is given twice: {some(sorted(_repeated(keys)))}")
        with self._database.writing() as connection:
            if known := known_ids(connection, tables.outcomes, keys):
                raise CatalogError(
                    f"outcome is recorded already: {some(sorted(known))} in {self._database.name}"
                )
            insert_outcomes(connection, outcomes, log_sizes)

    def _keep_log(self, outcome: Outcome, log: bytes | Path, sizes: dict[str, int]) -> Outcome:
        wanted = outcome.log_digest
        if log == b"" and wanted != _EMPTY:
            if wanted and wanted not in sizes:
                sizes[wanted] = sum(map(len, self._logs.stream(wanted)))
            return outcome
        digest, size = self._logs.add(log)
        if wanted and wanted != digest:
            raise CatalogError(
                f"the log is not that of outcome {outcome.id}: it has SHA-256 {digest}; "
                f"the outcome says {wanted}"
            )
        sizes[digest] = size
        return outcome if wanted else outcome.model_copy(update={"log_digest": digest})

    def _conclude(self, finding: Finding) -> Finding:
        with self._database.writing() as connection:
            refuse_finding(connection, finding, self.name)
            insert_cases(connection, [finding.case])
            insert_finding(connection, finding)
        return finding

    def _keep_unsent(self, entries: Iterable[Outcome | Finding], error: CatalogUnreachable) -> None:
        """Keep on this host what the server cannot take, and say so once."""
        for entry in entries:
            self._unsent.keep(entry)
        if not self._told:
            self._told = True
            self._tell(
                f"{error.message}; what is recorded from here on is kept in {self._unsent.root} "
                "and goes to the catalog when it is opened the next time"
            )

    def _send_unsent(self) -> None:
        """Record what waits since the server could not be reached, and say so."""
        sent = self._unsent.send(self._record_once)
        if sent.count:
            self._tell(
                f"{sent.count} outcomes and findings that were kept in {self._unsent.root} while "
                f"the server could not be reached are in {self.name} now"
            )
        for trouble in sent.trouble:
            self._tell(f"what was kept while the server could not be reached is refused: {trouble}")

    def _record_once(self, entry: Outcome | Finding) -> None:
        """Record an entry unless it is there: the connection may have broken after all was kept."""
        table = tables.outcomes if isinstance(entry, Outcome) else tables.findings
        with self._database.reading() as connection:
            known = stored_documents(connection, table, [entry.id]).get(entry.id)
        if known is not None:
            if not is_same(entry, known):
                raise CatalogError(f"recorded already, with another content: {entry.id}")
        elif isinstance(entry, Outcome):
            with self._logs.held():
                sizes: dict[str, int] = {}
                self._insert_outcomes([self._keep_log(entry, b"", sizes)], sizes)
        else:
            self._conclude(entry)


def _repeated(keys: Iterable[str]) -> set[str]:
    return {key for key, count in Counter(keys).items() if count > 1}


def _whole_table(table: str | Query, wanted: Filters) -> Query:
    """Return a query that has superseded findings as well."""
    if isinstance(table, Query):
        return table
    wanted.setdefault("current", table == FAILURES.name)
    return Query.of(table, wanted)


def _asked(query: Query) -> Select[Any]:
    is_derived = query.table == FAILURES.name
    return query.narrow(failures_query()) if is_derived else query.rows()


def _framed(query: Query, rows: Sequence[Sequence[Any]]) -> pd.DataFrame:
    if query.table == FAILURES.name:
        return failures_frame(rows)[list(query.schema.dtypes)]
    return make_frame(rows, query.schema)


_KIND, _AXIS = (list(HINTS.dtypes).index(name) for name in ("kind", "axis"))


def _fits(hint: list[Any], kinds: tuple[str, ...] | None, axes: tuple[str, ...] | None) -> bool:
    return (kinds is None or hint[_KIND] in kinds) and (axes is None or hint[_AXIS] in axes)
