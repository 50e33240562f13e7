"""Removal of logs that no outcome has, and of files that killed writers left."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from buildvm_nb.catalog import tables
from buildvm_nb.catalog.database import Database
from buildvm_nb.catalog.logs import LogStore
from buildvm_nb.catalog.unsent import unsent_logs
from buildvm_nb.errors import CatalogError

__all__ = ["Collected", "collect"]


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

    Parameters
    ----------
    database : Database
        Of the catalog.
    logs : LogStore
        Its logs.
    dry_run : bool
        Only tell what would be removed.

    Returns
    -------
    Collected
        What was removed, or would be.

    Raises
    ------
    CatalogError
        If another catalog that keeps its logs here cannot be read, or something cannot be removed.
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
