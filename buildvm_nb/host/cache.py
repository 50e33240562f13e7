"""A content-addressed cache of directories: atomic, locked, safe against killed builders.

An entry is a directory ``KIND/KEY`` that appears whole or not at all: it is made beside its place
and renamed. Two processes that want the same entry wait for each other on a lock that the kernel
frees when its holder dies, and what a killed builder left is cleared by the next one. An entry
that a process got is marked as in use until that process ends (see `buildvm_nb.host.care`).
"""

import fcntl
import hashlib
import json
import os
import shutil
import struct
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import platformdirs
from filelock import FileLock, Timeout

from buildvm_nb.errors import HostError, UsageError
from buildvm_nb.host.process import check_interruption
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.instants import now

__all__ = [
    "Cache",
    "Kept",
    "cache_key",
    "file_digest",
    "free_bytes",
    "prune",
    "survey",
    "tree_bytes",
]

# Marks on entries of a cache that are in use, which the kernel takes away when their holder dies.
#
# One file stands for all entries of a cache: each has a byte of it, chosen by its name. Whoever
# uses an entry has a shared lock on that byte until his process ends; whoever removes one needs it
# alone. So a process needs one descriptor, however many entries it uses.
#
# References: fcntl(2), "Open file description locks": they belong to the open file, not to the
# process, so the marks of this very process count as well.

_FILE = ".in-use"
_FLOCK = "@hhqqi0q"
"""struct flock: type, whence, start, length, and a process number that stays 0."""
_DIGITS = 15
_KEPT_OPEN = 32
"""Caches of one process whose marks last; more than a few are seen in tests alone."""


class _Marks:
    """The open file of one cache; closing it takes all marks of this process away."""

    def __init__(self, root: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self.descriptor = os.open(root / _FILE, flags, 0o666)
        weakref.finalize(self, os.close, self.descriptor)

    def lock(self, command: int, kind: int, name: str) -> None:
        place = int(hashlib.sha256(name.encode()).hexdigest()[:_DIGITS], 16)
        fcntl.fcntl(self.descriptor, command, struct.pack(_FLOCK, kind, 0, place, 1, 0))


@lru_cache(maxsize=_KEPT_OPEN)
def _marks(root: Path) -> _Marks:
    return _Marks(root)


def hold(root: Path, name: str) -> None:
    """Mark an entry as in use until this process ends.

    A cache that may not be written is used without marks.
    """
    with suppress(OSError):
        _marks(root).lock(fcntl.F_OFD_SETLKW, fcntl.F_RDLCK, name)


@contextmanager
def sole_hold(root: Path, name: str) -> Iterator[bool]:
    """Keep others from beginning to use an entry."""
    mine = _Marks(root)
    try:
        mine.lock(fcntl.F_OFD_SETLK, fcntl.F_WRLCK, name)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        mine.lock(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, name)


# Directories with whatever is in them.

_ENTRY_BYTES = 512
"""What an entry takes beside its content in an archive; so many small files are large, too."""


def tree_bytes(tree: Path, *, without: Collection[Path] = (), enough: float = float("inf")) -> int:
    """Return about how much a copy of a directory takes.

    Returns: bytes; where that is more than `enough`, at least so many.
    """
    size, todo, skipped = 0, [str(tree)], set(map(str, without))
    while todo and size <= enough:
        with suppress(OSError), os.scandir(todo.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    size += _ENTRY_BYTES
                    if entry.is_dir(follow_symlinks=False):
                        if entry.path not in skipped:
                            todo.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        size += entry.stat(follow_symlinks=False).st_size
                if size > enough:
                    break
    return size


def delete_tree(tree: Path) -> None:
    """Delete a directory with all that is in it, also where its modes keep its owner out."""
    if not tree.exists():
        return
    tree.chmod(0o700)
    for directory, names, _ in os.walk(tree):
        for path in (Path(directory, name) for name in names):
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(tree)


PARTIAL = ".partial"
"""How the name of a directory ends that is being made or removed; it begins with a dot."""
RECORD = "entry.json"
"""The file that makes a directory a whole entry."""
_POLL_S = 0.5


def cache_key(recipe: dict[str, Any]) -> str:
    """Return the key of whatever a recipe makes."""
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return a file's SHA-256."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def free_bytes(path: Path) -> int:
    """Return how much an ordinary user may still write to a path's file system."""
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


# What a cache holds, and what of it may go: the longest unused first, never what is in use.

_LOCKS = ".locks"
_BLOCK = 512


@dataclass(frozen=True, kw_only=True)
class Kept:
    """One entry of a cache, or what a killed maker left of one."""

    kind: str
    key: str
    size_bytes: int
    """What it occupies on the disk."""
    used_at: datetime
    """When it was made or asked for last."""
    is_partial: bool
    """Whether it was never finished, or is being made or removed now."""


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What came of a clean-up."""

    removed: tuple[Kept, ...]
    in_use: tuple[Kept, ...]
    """What would have gone if nobody used it."""
    left_bytes: int
    """Size of what is left of the kinds in question."""


def survey(cache: Cache, kinds: Collection[str] = ()) -> tuple[Kept, ...]:
    """List what a cache holds.

    `cache`: it is only read.
    """
    known = sorted(path.parent.name for path in cache.root.glob(f"*/{_LOCKS}"))
    if unknown := sorted(set(kinds) - set(known)):
        raise UsageError(
            f"the cache has no {', '.join(unknown)}; it has {', '.join(known) or 'nothing'}"
        )
    found = [each for kind in kinds or known for each in _kept(cache, kind)]
    return tuple(sorted(found, key=lambda each: (each.used_at, each.kind, each.key)))


def prune(
    cache: Cache,
    *,
    kinds: Collection[str] = (),
    unused_for: timedelta | None = None,
    most_bytes: int | None = None,
    dry_run: bool = False,
) -> Pruned:
    """Remove what killed makers left, what was not used for long, and more until the rest fits.

    Everything can be made or fetched again, for as long as its origin gives it.

    `dry_run`: remove nothing, and only tell.
    """
    found = survey(cache, kinds)
    oldest = now() - unused_for if unused_for is not None else None
    left = sum(each.size_bytes for each in found)
    removed, in_use = [], []
    for each in _partial_first(found):
        is_too_old = oldest is not None and each.used_at <= oldest
        is_too_much = most_bytes is not None and left > most_bytes
        if not (each.is_partial or is_too_old or is_too_much):
            continue
        if cache.remove_unused(each.kind, each.key, partial=each.is_partial, dry_run=dry_run):
            removed.append(each)
            left -= each.size_bytes
        else:
            in_use.append(each)
    return Pruned(removed=tuple(removed), in_use=tuple(in_use), left_bytes=left)


def _partial_first(found: Sequence[Kept]) -> list[Kept]:
    return sorted(found, key=lambda each: not each.is_partial)


def _kept(cache: Cache, kind: str) -> Iterator[Kept]:
    for place in (cache.root / kind).iterdir():
        is_partial = place.name.startswith(".") and place.name.endswith(PARTIAL)
        if place.name.startswith(".") and not is_partial:
            continue
        yield Kept(
            kind=kind,
            key=place.name[1 : -len(PARTIAL)] if is_partial else place.name,
            size_bytes=_occupied(place),
            used_at=_used_at(place),
            is_partial=is_partial,
        )


def _used_at(place: Path) -> datetime:
    """Return when an entry was used last: its directory or its record is touched then."""
    times = [0.0]
    for path in (place, place / RECORD):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return datetime.fromtimestamp(max(times), UTC)


def _occupied(place: Path) -> int:
    """Return what a directory occupies; what vanishes meanwhile counts as nothing."""
    sizes = {}  # by inode: a source may hold one file under several names
    for directory, _, names in os.walk(place):
        for path in (Path(directory), *(Path(directory, name) for name in names)):
            with suppress(OSError):
                status = path.lstat()
                sizes[status.st_dev, status.st_ino] = status.st_blocks * _BLOCK
    return sum(sizes.values())
