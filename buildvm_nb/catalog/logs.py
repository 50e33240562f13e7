"""Logs as compressed files that are named by the digest of their text.

``logs/ab/abcdef….gz`` is a gzip file (``zcat`` reads it) whose text has the SHA-256 ``abcdef…``. It
appears whole or not at all. A writer holds a lock on its unfinished file, so that what a killed
one left behind can be told apart and is cleared. Whoever adds a log and then records what refers
to it holds ``.lock`` meanwhile, shared with others who do so; whoever removes logs holds it alone.
``.catalogs`` names all catalogs that keep logs here.
"""

import fcntl
import gzip
import hashlib
import io
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ulid import ULID

from buildvm_nb.errors import CatalogError

__all__ = ["LogStore", "sync_directory"]

_CHUNK = 2**20


class LogStore:
    """The logs below one directory, which is made when the first log is kept.

    Parameters
    ----------
    root : Path
        The directory.
    user : Path or str, optional
        File or URL of the catalog that keeps logs here. A URL has no password.
    """

    def __init__(self, root: Path, user: Path | str | None = None) -> None:
        self.root = root
        # so that a directory that is moved or copied with its catalogs still knows them
        self._user = os.path.relpath(user, root) if isinstance(user, Path) else user
        self._is_listed = False

    def path(self, digest: str) -> Path:
        """Return where a log is or would be.

        Parameters
        ----------
        digest : str
            SHA-256 of its text.

        Returns
        -------
        Path
            A gzip file; it may not exist.
        """
        return self.root / digest[:2] / f"{digest}.gz"

    def add(self, log: bytes | Path) -> tuple[str, int]:
        """Keep a log.

        Parameters
        ----------
        log : bytes or Path
            Its text, or a file with it, which is read piece by piece.

        Returns
        -------
        tuple of str and int
            SHA-256 and size in bytes of the text.

        Raises
        ------
        CatalogError
            If it cannot be read or written, for example because the disk is full.
        """
        with (
            _in_our_words(self.root),
            log.open("rb") if isinstance(log, Path) else io.BytesIO(log) as text,
        ):
            return self._add(text)

    def stream(self, digest: str) -> Iterator[bytes]:
        """Read a log piece by piece; that it is whole is only known at its end.

        Parameters
        ----------
        digest : str
            SHA-256 of its text.

        Yields
        ------
        bytes
            The text, in order.

        Raises
        ------
        CatalogError
            If the log is missing, or, at the latest after the last piece, if it is corrupt.
        """
        path = self.path(digest)
        seen = hashlib.sha256()
        try:
            with gzip.open(path, "rb") as text:
                while piece := text.read(_CHUNK):
                    seen.update(piece)
                    yield piece
        except FileNotFoundError as error:
            raise CatalogError(f"log is missing: {digest}; it should be at {path}") from error
        except (OSError, EOFError, zlib.error) as error:
            raise CatalogError(f"log is corrupt: {digest} at {path}: {error}") from error
        if seen.hexdigest() != digest:
            raise CatalogError(f"log is corrupt: {path} has a text with SHA-256 {seen.hexdigest()}")

    def adopt(self, path: Path, digest: str) -> bool:
        """Keep a log of another directory as it is.

        Parameters
        ----------
        path : Path
            A gzip file.
        digest : str
            SHA-256 of its text.

        Returns
        -------
        bool
            False where it is missing or corrupt; then nothing was kept.

        Raises
        ------
        CatalogError
            If it cannot be written here.
        """
        try:
            for _ in LogStore(path.parent.parent).stream(digest):
                pass
        except CatalogError:
            return False
        with _in_our_words(self.root), self._unfinished() as (beside, raw):
            with path.open("rb") as packed:
                shutil.copyfileobj(packed, raw)
            self._finish(beside, raw, digest)
        return True

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep logs from being removed, from before one is added until it is referred to.

        Yields
        ------
        None
            Nothing is removed meanwhile; others may hold them as well.

        Raises
        ------
        CatalogError
            If the directory cannot be made or written.
        """
        with _in_our_words(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            self.enlist()
        with self._lock(fcntl.LOCK_SH):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until nobody is adding a log and recording it, and let nobody begin to.

        Yields
        ------
        None
            What is not referred to now may be removed.
        """
        with self._lock(fcntl.LOCK_EX):
            yield

    def enlist(self) -> None:
        """Have the catalog named among those that keep logs here, if the directory is there."""
        if self._user and not self._is_listed and self.root.is_dir():
            if self._user not in self._names():
                with self.register.open("a", encoding="utf-8") as stream:
                    stream.write(f"{self._user}\n")
            self._is_listed = True

    @property
    def register(self) -> Path:
        """The file that names the catalogs that keep logs here."""
        return self.root / ".catalogs"

    def users(self) -> list[Path | str]:
        """Return the catalogs that keep logs here.

        Returns
        -------
        list of Path or str
            Absolute paths of SQLite files, and URLs without passwords.
        """
        return [
            name if "://" in name else Path(os.path.normpath(self.root / name))
            for name in self._names()
        ]

    def unfinished(self) -> list[Path]:
        """Return what killed writers left.

        Returns
        -------
        list of Path
            Files that no writer is at work on.
        """
        found = []
        for path in self.root.glob(".*.partial"):
            with suppress(OSError), path.open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found.append(path)
        return found

    def clear_unfinished(self) -> None:
        """Remove what writers left that were killed; those at work are left alone."""
        for path in self.root.glob(".*.partial"):
            # at work, gone meanwhile, or not ours to remove
            with suppress(OSError), path.open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()

    def _names(self) -> list[str]:
        try:
            lines = self.register.read_text(encoding="utf-8").split("\n")
        except FileNotFoundError:
            return []
        return list(dict.fromkeys(line for line in lines if line))

    def _add(self, text: BinaryIO) -> tuple[str, int]:
        seen = hashlib.sha256()
        size = 0
        self.root.mkdir(parents=True, exist_ok=True)
        with self._unfinished() as (beside, raw):
            with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
                while piece := text.read(_CHUNK):
                    seen.update(piece)
                    size += len(piece)
                    packed.write(piece)
            self._finish(beside, raw, seen.hexdigest())
        return seen.hexdigest(), size

    def _finish(self, beside: Path, raw: BinaryIO, digest: str) -> None:
        raw.flush()
        os.fsync(raw.fileno())
        place = self.path(digest)
        place.parent.mkdir(exist_ok=True)
        beside.replace(place)  # an older file of this name has the same text, or is corrupt
        sync_directory(place.parent)

    @contextmanager
    def _lock(self, how: int) -> Iterator[None]:
        with ExitStack() as stack:
            with _in_our_words(self.root):
                stream = stack.enter_context((self.root / ".lock").open("ab"))
                fcntl.flock(stream, how)
            yield

    @contextmanager
    def _unfinished(self) -> Iterator[tuple[Path, BinaryIO]]:
        beside, raw = self._locked_file()
        try:
            with raw:
                yield beside, raw
        finally:
            beside.unlink(missing_ok=True)

    def _locked_file(self) -> tuple[Path, BinaryIO]:
        while True:
            beside = self.root / f".{ULID()}.partial"
            raw = beside.open("xb")
            fcntl.flock(raw, fcntl.LOCK_EX)
            if os.fstat(raw.fileno()).st_nlink:
                return beside, raw
            raw.close()  # cleared by another process before it was locked


@contextmanager
def _in_our_words(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CatalogError(
            f"cannot keep a log in {root}: {error.strerror or error}",
            hint="make room or choose another catalog with BUILDVM_CATALOG",
        ) from error


def sync_directory(path: Path) -> None:
    """Make sure that the names in a directory survive the loss of power.

    Parameters
    ----------
    path : Path
        The directory.
    """
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
