"""How outcomes and their logs get into a catalog."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from buildvm_nb.catalog import tables
from buildvm_nb.catalog.database import Database
from buildvm_nb.catalog.inserting import insert_outcomes, known_ids
from buildvm_nb.catalog.logs import LogStore
from buildvm_nb.catalog.unsent import Unsent
from buildvm_nb.errors import CatalogError, CatalogUnreachable
from buildvm_nb.model.finding import Finding
from buildvm_nb.model.outcome import Outcome

__all__ = ["Recording"]

_EMPTY = hashlib.sha256(b"").hexdigest()
_SHOWN = 5


class Recording:
    """What `Catalog` does with new outcomes, and with what a server cannot take now."""

    _database: Database
    _logs: LogStore
    _unsent: Unsent
    _tell: Callable[[str], None]
    _told = False

    def record(self, outcome: Outcome, log: bytes | Path = b"") -> Outcome:
        """Keep an outcome and its log, for good.

        Where the catalog's server cannot be reached, both are kept on this host until the catalog
        is opened the next time, and the user is told.

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
        return self.record_many([(outcome, log)])[0]

    def record_many(self, entries: Iterable[tuple[Outcome, bytes | Path]]) -> list[Outcome]:
        """Keep many outcomes and their logs at once: all of them, or none.

        This is many times faster than one after the other. Memory grows with their number, and
        other writers wait meanwhile: hand over some thousands at a time.

        Parameters
        ----------
        entries : iterable of (Outcome, bytes or Path)
            Outcomes and logs, as for `record`.

        Returns
        -------
        list of Outcome
            As recorded, in the same order.

        Raises
        ------
        CatalogError
            As for `record`; then none was recorded.
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

    def _insert_outcomes(self, outcomes: Sequence[Outcome], log_sizes: Mapping[str, int]) -> None:
        keys = [outcome.id for outcome in outcomes]
        if len(set(keys)) < len(keys):
            raise CatalogError(f"outcome is given twice: {_some(_repeated(keys))}")
        with self._database.writing() as connection:
            if known := known_ids(connection, tables.outcomes, keys):
                raise CatalogError(
                    f"outcome is recorded already: {_some(known)} in {self._database.name}"
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


def _repeated(keys: Iterable[str]) -> set[str]:
    return {key for key, count in Counter(keys).items() if count > 1}


def _some(keys: Iterable[str]) -> str:
    ordered = sorted(keys)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more
