"""What keeps a catalog whole: check, merge, removal of what nobody has."""

from collections.abc import Iterator
from pathlib import Path

import platformdirs

from buildvm_nb.catalog.checking import Trouble, check
from buildvm_nb.catalog.collecting import Collected, collect
from buildvm_nb.catalog.database import Database
from buildvm_nb.catalog.logs import LogStore
from buildvm_nb.catalog.merging import Merged, Side, merge
from buildvm_nb.catalog.unsent import Unsent
from buildvm_nb.errors import CatalogError
from buildvm_nb.host.progress import SILENT, Progress

__all__ = ["Care", "usual_logs"]


def usual_logs(database: Database) -> Path:
    """Return where a catalog's logs are when nobody says.

    Parameters
    ----------
    database : Database
        Of the catalog.

    Returns
    -------
    Path
        ``logs`` beside a SQLite file, or in the user's data directory for a server.
    """
    file = database.file
    beside = platformdirs.user_data_path("buildvm-nb") if file is None else file.parent
    return beside / "logs"


class Care:
    """What `Catalog` does to be and to stay whole."""

    _database: Database
    _logs: LogStore
    _unsent: Unsent

    def merge(
        self, other: str | Path, *, logs: Path | None = None, progress: Progress = SILENT
    ) -> Merged:
        """Add what another catalog has and this one has not; doing so again adds nothing.

        Parameters
        ----------
        other : str or Path
            Its file or URL. It is left as it is, also where its schema is older.
        logs : Path, optional
            Directory of its logs; by default as for `Catalog`.
        progress : Progress
            Told how far it is.

        Returns
        -------
        Merged
            How much was added.

        Raises
        ------
        UsageError
            If there is no such catalog.
        CatalogError
            If an id stands for different things in both, or something in the other one cannot be
            read: then nothing was added. Or if a catalog fails.
        """
        source = Database(other, is_reader=True)
        try:
            theirs = Side(database=source, logs=LogStore(logs or usual_logs(source)))
            return merge(Side(database=self._database, logs=self._logs), theirs, progress)
        finally:
            source.close()

    def check(self, progress: Progress = SILENT) -> Iterator[Trouble]:
        """Read everything and compare: database, documents, columns, references, logs.

        Parameters
        ----------
        progress : Progress
            Told how far it is.

        Returns
        -------
        iterator of Trouble
            Each thing that is wrong; nothing is changed.
        """
        return check(self._database, self._logs, self._unsent, progress)

    def collect(self, *, dry_run: bool = False) -> Collected:
        """Remove logs that no outcome has, and what killed writers left.

        Parameters
        ----------
        dry_run : bool
            Only tell what would be removed.

        Returns
        -------
        Collected
            What was removed, or would be.

        Raises
        ------
        CatalogError
            If the catalog is read-only, or another one that keeps its logs in the same directory
            cannot be read.
        """
        if self._database.read_only:
            raise CatalogError(f"the catalog is read-only: {self._database.name}")
        return collect(self._database, self._logs, dry_run=dry_run)
