"""The catalog: outcomes in a database, their logs in files beside it. It only ever grows."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pandas as pd
import platformdirs
from pydantic import ValidationError
from sqlalchemy import Connection, Select, Table, insert, select
from sqlalchemy.exc import IntegrityError

from buildvm_nb.catalog import tables
from buildvm_nb.catalog.database import Database, default_place
from buildvm_nb.catalog.frames import make_frame
from buildvm_nb.catalog.logs import LogStore
from buildvm_nb.catalog.rows import outcome_row
from buildvm_nb.catalog.schema import OUTCOMES
from buildvm_nb.errors import CatalogError, UsageError
from buildvm_nb.model.outcome import Outcome, Verdict

__all__ = ["Catalog"]

_DIGEST_LENGTH = 64
_EMPTY = hashlib.sha256(b"").hexdigest()
_FAILURES = (Verdict.FAILED, Verdict.CRASHED, Verdict.TIMEOUT)


class Catalog:
    """Outcomes and their logs; a context manager.

    Several processes and threads may use one catalog at once. What `record` has returned from is
    kept, whatever happens next.

    Parameters
    ----------
    place : str or Path, optional
        Path of a SQLite file, made if it is not there, or a SQLAlchemy URL. By default
        ``$BUILDVM_CATALOG``, else ``catalog.sqlite`` in the user's data directory.
    logs : Path, optional
        Directory of the logs. By default ``logs`` beside the SQLite file, or in the user's data
        directory for another database.

    Raises
    ------
    UsageError
        If the URL is none.
    CatalogError
        If it cannot be opened or made, or is no catalog.
    SchemaVersionError
        If it was written by a newer version.
    """

    def __init__(self, place: str | Path | None = None, *, logs: Path | None = None) -> None:
        self._database = Database(place or default_place())
        file = self._database.file
        beside = platformdirs.user_data_path("buildvm-nb") if file is None else file.parent
        self._logs = LogStore(logs or beside / "logs")
        if not self._database.read_only:
            self._logs.clear_unfinished()

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

    @property
    def name(self) -> str:
        """Path or URL; a password in it is hidden."""
        return self._database.name

    def close(self) -> None:
        """Close the catalog; closing twice is no error."""
        self._database.close()

    def record(self, outcome: Outcome, log: bytes | Path = b"") -> Outcome:
        """Keep an outcome and its log, for good.

        Parameters
        ----------
        outcome : Outcome
            Not recorded before. Its `log_digest` may be empty, else it must be the log's.
        log : bytes or Path
            The log's text or a file with it; empty: there is none, or the catalog has it.

        Returns
        -------
        Outcome
            As recorded: with the digest of its log.

        Raises
        ------
        CatalogError
            If the id is there already, the log does not match the digest, or the catalog cannot
            be written; then nothing was recorded.
        """
        if self._database.read_only:
            raise CatalogError(
                f"the catalog is read-only: {self.name}",
                hint="name another one with BUILDVM_CATALOG",
            )
        outcome, size = self._keep_log(outcome, log)
        row = outcome_row(outcome)
        with self._database.writing() as connection:
            known = tables.outcomes.c.id == outcome.id
            if connection.execute(select(tables.outcomes.c.id).where(known)).first():
                raise CatalogError(f"outcome is recorded already: {outcome.id} in {self.name}")
            if outcome.log_digest:
                _insert_once(
                    connection, tables.logs, {"digest": outcome.log_digest}, {"size_bytes": size}
                )
            _insert_once(
                connection,
                tables.cases,
                {"id": row["case_id"], "digest": row["case_digest"]},
                {"document": outcome.case.model_dump_json(by_alias=True)},
            )
            document = outcome.model_dump_json()
            connection.execute(insert(tables.outcomes).values(**row, document=document))
        return outcome

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
        ids = tables.outcomes.c.id
        query = select(ids, tables.outcomes.c.document)
        with self._database.reading() as connection:
            rows = connection.execute(query.where(ids == key)).all()
            if not rows and key:
                begins = ids.startswith(key.upper(), autoescape=True)
                rows = connection.execute(query.where(begins).order_by(ids).limit(5)).all()
        if not rows:
            raise UsageError(
                f"no such outcome: {key!r} in {self.name}", hint="`buildvm catalog list` shows them"
            )
        if len(rows) > 1:
            some = ", ".join(row.id for row in rows)
            raise UsageError(f"more than one outcome begins with {key!r}: {some}")
        return self._read(rows[0].id, rows[0].document)

    def outcomes(
        self,
        *,
        case: str | None = None,
        verdict: Verdict | str | Iterable[Verdict | str] | None = None,
        study: str | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> pd.DataFrame:
        """Return outcomes as a frame, oldest first.

        Parameters
        ----------
        case : str, optional
            Only those of the case with this id.
        verdict : Verdict, str or several of them, optional
            Only those with one of these verdicts.
        study : str, optional
            Only those of this study.
        since : datetime, optional
            Aware; only those recorded at this instant or later.
        limit : int, optional
            At most so many, the newest ones.

        Returns
        -------
        DataFrame
            One row each, with the columns and dtypes of ``schema.OUTCOMES.dtypes``.

        Raises
        ------
        UsageError
            If a filter is none: an unknown verdict, a naive instant, a negative limit.
        CatalogError
            If the catalog cannot be read.
        """
        columns = [tables.outcomes.c[column.name] for column in OUTCOMES.columns]
        query = _filtered(select(*columns), case, study, _verdicts(verdict), since)
        return make_frame(self._newest(query, limit), OUTCOMES)

    def failures(
        self,
        *,
        case: str | None = None,
        study: str | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> pd.DataFrame:
        """Return the outcomes in which the case itself did not pass.

        Parameters
        ----------
        case, study, since, limit
            As for `outcomes`.

        Returns
        -------
        DataFrame
            As of `outcomes`, with verdict ``failed``, ``crashed`` or ``timeout``.

        Raises
        ------
        UsageError
            If a filter is none.
        CatalogError
            If the catalog cannot be read.
        """
        return self.outcomes(case=case, verdict=_FAILURES, study=study, since=since, limit=limit)

    def documents(self, *, case: str | None = None, study: str | None = None) -> Iterator[Outcome]:
        """Iterate over whole outcomes, oldest first.

        Parameters
        ----------
        case, study : str, optional
            As for `outcomes`.

        Yields
        ------
        Outcome
            As it was recorded.

        Raises
        ------
        CatalogError
            If the catalog cannot be read.
        """
        query = select(tables.outcomes.c.id, tables.outcomes.c.document)
        order = (tables.outcomes.c.recorded_at, tables.outcomes.c.id)
        query = _filtered(query, case, study, None, None).order_by(*order)
        with self._database.reading() as connection:
            for row in connection.execute(query.execution_options(yield_per=1000)):
                yield self._read(row.id, row.document)

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

    def _keep_log(self, outcome: Outcome, log: bytes | Path) -> tuple[Outcome, int]:
        wanted = outcome.log_digest
        if log == b"" and wanted != _EMPTY:
            return outcome, sum(map(len, self._logs.stream(wanted))) if wanted else 0
        digest, size = self._logs.add(log)
        if wanted and wanted != digest:
            raise CatalogError(
                f"the log is not that of outcome {outcome.id}: it has SHA-256 {digest}; "
                f"the outcome says {wanted}"
            )
        return outcome.model_copy(update={"log_digest": digest}), size

    def _newest(self, query: Select[Any], limit: int | None) -> list[Any]:
        if limit is not None and limit < 0:
            raise UsageError(f"limit is negative: {limit}; allowed: 0 and more")
        moment, ulid = tables.outcomes.c.recorded_at, tables.outcomes.c.id
        newest_first = query.order_by(moment.desc(), ulid.desc()).limit(limit)
        with self._database.reading() as connection:
            return list(reversed(connection.execute(newest_first).all()))

    def _read(self, key: str, document: str) -> Outcome:
        try:
            return Outcome.model_validate_json(document)
        except ValidationError as error:
            raise CatalogError(
                f"outcome {key} in {self.name} cannot be read: {error.error_count()} fields are "
                "not as this buildvm-nb knows them",
                hint="it was written by another version, or changed by hand",
            ) from error


def _insert_once(
    connection: Connection, table: Table, key: dict[str, Any], values: dict[str, Any]
) -> None:
    """Insert a row if its key is new, also when another process does so at the same moment."""
    same = [table.c[name] == value for name, value in key.items()]
    if connection.execute(select(*(table.c[name] for name in key)).where(*same)).first():
        return
    with suppress(IntegrityError), connection.begin_nested():
        connection.execute(insert(table).values(**key, **values))


def _verdicts(verdict: Verdict | str | Iterable[Verdict | str] | None) -> tuple[str, ...] | None:
    if verdict is None:
        return None
    given = [verdict] if isinstance(verdict, str) else list(verdict)
    for name in given:
        if name not in set(Verdict):
            raise UsageError(f"unknown verdict: {name!r}; allowed: {', '.join(Verdict)}")
    return tuple(Verdict(name).value for name in given)


def _filtered(
    query: Select[Any],
    case: str | None,
    study: str | None,
    verdicts: tuple[str, ...] | None,
    since: datetime | None,
) -> Select[Any]:
    column = tables.outcomes.c
    if case is not None:
        query = query.where(column.case_id == case)
    if study is not None:
        query = query.where(column.study == study)
    if verdicts is not None:
        query = query.where(column.verdict.in_(verdicts))
    if since is not None:
        if since.tzinfo is None:
            raise UsageError(f"an instant needs a zone: {since.isoformat()}")
        query = query.where(column.recorded_at >= since)
    return query
