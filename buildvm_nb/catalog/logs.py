"""Logs as compressed files that are named by the digest of their text.

``logs/ab/abcdef….gz`` is a gzip file (``zcat`` reads it) whose text has the SHA-256 ``abcdef…``. It
appears whole or not at all. A writer holds a lock on its unfinished file, so that what a killed
one left behind can be told apart and is cleared.
"""

import fcntl
import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ulid import ULID

from buildvm_nb.errors import CatalogError

__all__ = ["LogStore"]

_CHUNK = 2**20


class LogStore:
    """The logs below one directory, which is made when the first log is kept.

    Parameters
    ----------
    root : Path
        The directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

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
        try:
            with log.open("rb") if isinstance(log, Path) else io.BytesIO(log) as text:
                return self._add(text)
        except OSError as error:
            raise CatalogError(
                f"cannot keep a log in {self.root}: {error.strerror or error}",
                hint="make room or choose another catalog with BUILDVM_CATALOG",
            ) from error

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

    def clear_unfinished(self) -> None:
        """Remove what writers left that were killed; those at work are left alone."""
        for path in self.root.glob(".*.partial"):
            try:
                with path.open("rb") as stream:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
            except OSError:
                continue  # at work, gone meanwhile, or not ours to remove

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
            raw.flush()
            os.fsync(raw.fileno())
            place = self.path(seen.hexdigest())
            place.parent.mkdir(exist_ok=True)
            beside.replace(place)  # an older file of this name has the same text, or is corrupt
            _sync_directory(place.parent)
        return seen.hexdigest(), size

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


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
