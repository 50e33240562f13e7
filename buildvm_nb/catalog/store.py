"""The catalog: outcomes and findings in a database, logs in files beside it. It only ever grows."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import pandas as pd
from sqlalchemy import select

from buildvm_nb.catalog import accessor as accessor  # noqa: PLC0414 - gives frames their .traps
from buildvm_nb.catalog import tables
from buildvm_nb.catalog.browsing import Browsing
from buildvm_nb.catalog.care import Care, usual_logs
from buildvm_nb.catalog.database import Database, default_place
from buildvm_nb.catalog.frames import make_frame
from buildvm_nb.catalog.inserting import is_same, stored_documents
from buildvm_nb.catalog.logs import LogStore
from buildvm_nb.catalog.queries import (
    filtered,
    find,
    names_of,
    newest_rows,
    oldest_first,
    stream,
)
from buildvm_nb.catalog.schema import OUTCOMES
from buildvm_nb.catalog.unsent import Unsent
from buildvm_nb.errors import CatalogError
from buildvm_nb.model.display import card
from buildvm_nb.model.finding import Finding
from buildvm_nb.model.outcome import Outcome, Verdict

__all__ = ["Catalog"]

_DIGEST_LENGTH = 64
_ENTRIES: tuple[type[Outcome | Finding], ...] = (Outcome, Finding)


class Catalog(Browsing, Care):
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

    def outcomes(
        self,
        *,
        case: str | Iterable[str] | None = None,
        package: str | Iterable[str] | None = None,
        verdict: Verdict | str | Iterable[Verdict | str] | None = None,
        study: str | Iterable[str] | None = None,
        since: datetime | str | None = None,
        limit: int | None = None,
    ) -> pd.DataFrame:
        """Return outcomes as a frame, oldest first.

        Parameters
        ----------
        case, package : str or several of them, optional
            Only those of the case with this id; of this package, however it is spelled.
        verdict : Verdict, str or several of them, optional
            Only those with one of these verdicts.
        study : str or several of them, optional
            Only those of this study.
        since : datetime or str, optional
            Aware, or text such as ``2026-11-24``; only those recorded at this instant or later.
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
        verdicts = names_of(verdict, Verdict, "verdict")
        wanted = {"case_id": case, "package": package, "study": study, "verdict": verdicts}
        query = filtered(select(*columns), tables.outcomes, wanted, since)
        return make_frame(newest_rows(self._database, tables.outcomes, query, limit), OUTCOMES)

    def documents(
        self, *, case: str | Iterable[str] | None = None, study: str | Iterable[str] | None = None
    ) -> Iterator[Outcome]:
        """Iterate over whole outcomes, oldest first.

        Parameters
        ----------
        case, study : str, optional
            As for `outcomes`.

        Returns
        -------
        iterator of Outcome
            Each as it was recorded.

        Raises
        ------
        CatalogError
            If the catalog cannot be read.
        """
        return self._whole({"case_id": case, "study": study})

    def answers(
        self, case_digest: str, *, study: str | Iterable[str] | None = None
    ) -> Iterator[Outcome]:
        """Iterate over the whole outcomes of all cases that build the same, oldest first.

        Parameters
        ----------
        case_digest : str
            As of `Case.build_digest`: a case may have got another id or title since.
        study : str or several of them, optional
            Only those of this study.

        Returns
        -------
        iterator of Outcome
            Each as it was recorded. The database has an index for them.

        Raises
        ------
        CatalogError
            If the catalog cannot be read.
        """
        return self._whole({"case_digest": case_digest, "study": study})

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

    def _whole(self, wanted: Mapping[str, str | Iterable[str] | None]) -> Iterator[Outcome]:
        whole = select(tables.outcomes.c.id, tables.outcomes.c.document)
        query = oldest_first(filtered(whole, tables.outcomes, wanted), tables.outcomes)
        return stream(self._database, Outcome, query)
