"""A content-addressed cache of directories: atomic, locked, safe against killed builders.

An entry is a directory ``KIND/KEY`` that appears whole or not at all: it is made beside its place
and renamed. Two processes that want the same entry wait for each other on a lock that the kernel
frees when its holder dies, and what a killed builder left is cleared by the next one. An entry
that a process got is marked as in use until that process ends (see `buildvm_nb.host.care`).
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import platformdirs
from filelock import FileLock, Timeout

from buildvm_nb.errors import HostError, UsageError
from buildvm_nb.host.holding import hold, sole_hold
from buildvm_nb.host.interruption import check_interruption
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.host.trees import delete_tree

__all__ = ["PARTIAL", "RECORD", "Cache", "cache_key", "file_digest", "free_bytes"]

PARTIAL = ".partial"
"""How the name of a directory ends that is being made or removed; it begins with a dot."""
RECORD = "entry.json"
"""The file that makes a directory a whole entry."""
_POLL_S = 0.5


def cache_key(recipe: dict[str, Any]) -> str:
    """Return the key of whatever a recipe makes.

    Parameters
    ----------
    recipe : dict
        Everything that goes in, as plain JSON.

    Returns
    -------
    str
        SHA-256 of its canonical JSON, 64 hexadecimal digits.
    """
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return a file's SHA-256.

    Parameters
    ----------
    path : Path
        An existing file.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def free_bytes(path: Path) -> int:
    """Return how much an ordinary user may still write to a path's file system.

    Parameters
    ----------
    path : Path
        An existing path.

    Returns
    -------
    int
        Bytes.
    """
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


class Cache:
    """The cache below one directory.

    Parameters
    ----------
    root : Path, optional
        Its directory; by default ``$BUILDVM_CACHE``, else the user's cache directory.

    Raises
    ------
    UsageError
        If the directory is there and is no directory.
    HostError
        If it cannot be made or written.
    """

    def __init__(self, root: Path | None = None) -> None:
        chosen = (
            root or os.environ.get("BUILDVM_CACHE") or platformdirs.user_cache_path("buildvm-nb")
        )
        self.root = Path(chosen).absolute()
        if self.root.exists() and not self.root.is_dir():
            raise UsageError(
                f"the cache is no directory: {self.root}", hint="choose another --cache"
            )
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HostError(
                f"the cache cannot be made: {self.root}: {error.strerror}",
                hint="choose another directory with --cache or BUILDVM_CACHE",
            ) from error

    def path(self, kind: str, key: str) -> Path:
        """Return where an entry is or would be.

        Parameters
        ----------
        kind : str
            Family of entries, for example ``images``.
        key : str
            The entry's key.

        Returns
        -------
        Path
            A directory; it exists only when the entry does.
        """
        return self.root / kind / key

    def entry(
        self,
        kind: str,
        recipe: dict[str, Any],
        make: Callable[[Path], dict[str, Any] | None],
        *,
        label: str = "",
        progress: Progress = SILENT,
    ) -> Path:
        """Return an entry, made now if it is not there yet.

        Parameters
        ----------
        kind : str
            Family of entries.
        recipe : dict
            Everything that goes in; its digest is the key.
        make : callable
            Gets an empty directory, fills it, and may return facts to record about it.
        label : str
            What is being made, for progress; default: kind and key.
        progress : Progress
            Shows it.

        Returns
        -------
        Path
            The entry's directory, complete.

        Raises
        ------
        HostError
            If the disk is full or the cache cannot be written.
        """
        key = cache_key(recipe)
        place = self.path(kind, key)
        if self.hold(kind, key):
            return place
        with self.lock(kind, key), progress.task(label or f"{kind} {key[:12]}"):
            if not self._is_whole(place):
                self._make(place, recipe, make)
        return place

    def hold(self, kind: str, key: str) -> bool:
        """Mark an entry as in use until this process ends, and its use as the latest.

        Parameters
        ----------
        kind, key : str
            The entry; it need not be there yet.

        Returns
        -------
        bool
            Whether it is there, complete.
        """
        place = self.path(kind, key)
        hold(self.root, f"{kind}/{key}")
        record = place / RECORD
        with suppress(OSError):  # a cache that may not be written
            os.utime(record if record.exists() else place)
        return self._is_whole(place)

    def is_sound(
        self,
        kind: str,
        key: str,
        digests: Mapping[str, str] = MappingProxyType({}),
        *,
        progress: Progress = SILENT,
    ) -> bool:
        """Tell whether the files of an entry are what they were; if not, it is removed, and told.

        A file is read again only when it is another one, or of another size or time, than when it
        was read last. Where nobody knows its digest, the first reading counts.

        Parameters
        ----------
        kind, key : str
            The entry; it is there.
        digests : mapping of str to str
            SHA-256 of files, as far as they were recorded when the entry was made.
        progress : Progress
            Shows what is damaged.

        Returns
        -------
        bool
            False: the entry has to be made anew.

        Raises
        ------
        HostError
            If it is damaged and the cache cannot be written.
        """
        place = self.path(kind, key)
        try:
            if self._read_again(place, digests, only_look=True) is None:
                return True
            if not os.access(self.root, os.W_OK):
                damaged = self._read_again(place, digests)
                if damaged is None:
                    return True
                raise HostError(
                    f"{place / damaged} is damaged", hint="the cache cannot be written; use another"
                )
            with self.lock(kind, key):  # who else reads it may have made it anew meanwhile
                if not self._is_whole(place):
                    return False
                damaged = self._read_again(place, digests)
                if damaged is None:
                    return True
                with progress.task(f"{place / damaged} is damaged; it is made anew"):
                    delete_tree(self._put_away(place))
        except OSError as error:
            raise self.unwritable(error.strerror or str(error), place) from error
        return False

    def _read_again(
        self, place: Path, digests: Mapping[str, str], *, only_look: bool = False
    ) -> str | None:
        """Return the name of a damaged file; to look only, of one that has to be read."""
        memo = self._memo(place)
        try:
            known = dict(json.loads(memo.read_bytes()))
        except (OSError, ValueError, TypeError):
            known = {}
        seen = {}
        for name in self.record(place)["files"]:
            status = (place / name).stat()
            stamp = [status.st_ino, status.st_size, status.st_mtime_ns]
            *old_stamp, old_digest = known.get(name, [None])
            if stamp != old_stamp and only_look:
                return str(name)
            digest = old_digest if stamp == old_stamp else file_digest(place / name)
            if digest != digests.get(name, old_digest or digest):
                return str(name)
            seen[name] = [*stamp, digest]
        if seen != known:
            with suppress(OSError):  # it only saves time
                memo.parent.mkdir(exist_ok=True)
                memo.write_text(json.dumps(seen))
        return None

    def record(self, place: Path) -> dict[str, Any]:
        """Return what was recorded about an entry: ``recipe``, ``facts`` and ``files``.

        Parameters
        ----------
        place : Path
            An entry's directory.

        Returns
        -------
        dict
            Plain JSON.
        """
        record: dict[str, Any] = json.loads((place / RECORD).read_bytes())
        return record

    def entries(self, kind: str) -> Iterator[tuple[str, Path]]:
        """Iterate over the whole entries of a kind.

        Parameters
        ----------
        kind : str
            Family of entries.

        Yields
        ------
        tuple of str and Path
            Key and directory, sorted by key.
        """
        for place in sorted((self.root / kind).glob("[!.]*")):  # not what is being made or removed
            if self._is_whole(place):
                yield place.name, place

    def remove(self, kind: str, key: str) -> bool:
        """Remove an entry, at once as others see it.

        Parameters
        ----------
        kind, key : str
            The entry.

        Returns
        -------
        bool
            Whether it was there.
        """
        place = self.path(kind, key)
        with self.lock(kind, key):
            if not place.exists():
                return False
            delete_tree(self._put_away(place))
            return True

    def remove_unused(
        self, kind: str, key: str, *, partial: bool = False, dry_run: bool = False
    ) -> bool:
        """Remove an entry unless somebody makes or uses it now.

        Parameters
        ----------
        kind, key : str
            The entry.
        partial : bool
            Remove only what a killed process left of its making or removal.
        dry_run : bool
            Leave it, and only tell.

        Returns
        -------
        bool
            Whether nobody makes or uses it.

        Raises
        ------
        HostError
            If the cache cannot be written.
        """
        place = self.path(kind, key)
        lock = FileLock(self._locks(kind) / f"{key}.lock", timeout=0)
        try:
            with lock:
                with sole_hold(self.root, f"{kind}/{key}") as is_free:
                    if dry_run or not is_free:
                        return is_free
                    doomed = self._beside(place) if partial else self._put_away(place)
                delete_tree(doomed)
        except Timeout:
            return False
        except OSError as error:
            raise self.unwritable(error.strerror or str(error), place) from error
        return True

    @contextmanager
    def lock(self, kind: str, key: str) -> Iterator[None]:
        """Hold the lock of an entry; the kernel frees it when this process dies.

        Parameters
        ----------
        kind, key : str
            The entry.

        Yields
        ------
        None
            While the lock is held.

        Raises
        ------
        HostError
            If the cache cannot be written.
        """
        locks = self._locks(kind)
        lock = FileLock(locks / f"{key}.lock")
        try:
            locks.mkdir(parents=True, exist_ok=True)
            _acquire(lock)
        except OSError as error:
            raise self.unwritable(error.strerror or str(error), locks) from error
        try:
            yield
        finally:
            lock.release()

    def _make(
        self,
        place: Path,
        recipe: dict[str, Any],
        make: Callable[[Path], dict[str, Any] | None],
    ) -> None:
        work = self._beside(place)
        try:
            delete_tree(place)
            delete_tree(work)  # what a killed builder left: we hold its lock
            work.mkdir()
            facts = make(work) or {}
            files = {
                str(path.relative_to(work)): path.stat().st_size
                for path in sorted(work.glob("*"))
                if path.is_file()
            }
            record = {"recipe": recipe, "facts": facts, "files": files}
            (work / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True))
            self._memo(place).unlink(missing_ok=True)
            work.rename(place)
        except OSError as error:
            raise self.unwritable(error.strerror or str(error), place) from error
        finally:
            with suppress(OSError):
                delete_tree(work)

    def unwritable(self, reason: str, place: Path) -> HostError:
        """Word the error for a cache that cannot be written.

        Parameters
        ----------
        reason : str
            What the system says.
        place : Path
            Where.

        Returns
        -------
        HostError
            To be raised; it tells how much room there is, and how to make some.
        """
        return HostError(
            f"cannot write to the cache: {reason}: {place}",
            hint=f"{free_bytes(self.root) // 2**20} MiB are free there; make room with "
            "`buildvm cache prune` or choose another --cache",
        )

    def _locks(self, kind: str) -> Path:
        return self.root / kind / ".locks"

    def _memo(self, place: Path) -> Path:
        """Return the file that tells what an entry's files were when they were read last."""
        return place.parent / ".read" / f"{place.name}.json"

    def _beside(self, place: Path) -> Path:
        return place.with_name(f".{place.name}{PARTIAL}")

    def _put_away(self, place: Path) -> Path:
        """Rename an entry, which takes it away at once."""
        doomed = self._beside(place)
        delete_tree(doomed)
        with suppress(FileNotFoundError):
            place.rename(doomed)
        return doomed

    def _is_whole(self, place: Path) -> bool:
        """Tell whether an entry is there with all its files at their sizes."""
        try:
            files = self.record(place)["files"]
            return all((place / name).stat().st_size == size for name, size in files.items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False


def _acquire(lock: FileLock) -> None:
    """Wait for a lock for as long as this thread's work is wanted."""
    while True:
        check_interruption()
        try:
            lock.acquire(timeout=_POLL_S)
        except Timeout:
            continue
        return
