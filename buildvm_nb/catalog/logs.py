"""Files beside the database: compressed logs by digest, and records that a server could not take.

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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from pydantic import ValidationError
from ulid import ULID

from buildvm_nb.errors import CatalogError, CatalogUnreachable
from buildvm_nb.model.finding import Finding
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.model.value import read_document

__all__ = [
    "LogStore",
    "Unsent",
    "replacing",
    "replacing_path",
    "unsent_logs",
]

# Files that take their place only when all of them is written.


@contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """Open a text file that takes its place only when all of it is written."""
    with replacing_path(path) as beside, beside.open("x", encoding="utf-8", newline="") as stream:
        yield stream


@contextmanager
def replacing_path(path: Path) -> Iterator[Path]:
    """Name a file that takes its place only when all of it is written.

    Yields: in the same directory; the caller makes a file there.
    """
    beside = path.with_name(f".{path.name}.{ULID()}.partial")
    try:
        yield beside
        with beside.open("rb+") as stream:
            os.fsync(stream.fileno())
        beside.replace(path)
    except OSError as error:
        raise CatalogError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)


_CHUNK = 2**20


class LogStore:
    """The logs below one directory, which is made when the first log is kept.

    `user`: file or URL of the catalog that keeps logs here. A URL has no password.
    """

    def __init__(self, root: Path, user: Path | str | None = None) -> None:
        self.root = root
        # so that a directory that is moved or copied with its catalogs still knows them
        self._user = os.path.relpath(user, root) if isinstance(user, Path) else user
        self._is_listed = False

    def path(self, digest: str) -> Path:
        """Return where a log is or would be."""
        return self.root / digest[:2] / f"{digest}.gz"

    def add(self, log: bytes | Path) -> tuple[str, int]:
        """Keep a log.

        `log`: its text, or a file with it, which is read piece by piece.
        Returns: SHA-256 and size in bytes of the text.
        Raises `CatalogError` if it cannot be read or written, for example because the disk is full.
        """
        with (
            _in_our_words(self.root),
            log.open("rb") if isinstance(log, Path) else io.BytesIO(log) as text,
        ):
            return self._add(text)

    def stream(self, digest: str) -> Iterator[bytes]:
        """Read a log piece by piece; that it is whole is only known at its end.

        Yields: the text, in order.
        Raises `CatalogError` if the log is missing, or, at the latest after the last piece, if it
        is corrupt.
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
        """Keep a log of another directory as it is."""
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
        """Keep logs from being removed, from before one is added until it is referred to."""
        with _in_our_words(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            self.enlist()
        with self._lock(fcntl.LOCK_SH):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until nobody is adding a log and recording it, and let nobody begin to."""
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
        """Return the catalogs that keep logs here."""
        return [
            name if "://" in name else Path(os.path.normpath(self.root / name))
            for name in self._names()
        ]

    def unfinished(self) -> list[Path]:
        """Return what killed writers left."""
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
    """Make sure that the names in a directory survive the loss of power."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# What a server could not take: kept in files beside the logs until the catalog is opened again.
#
# ``logs/unsent-…/outcome-….json`` holds one outcome or finding as JSON. A file appears whole or not
# at all, and goes once the server has what is in it.

_PREFIX = "unsent-"
_KINDS: dict[str, type[Outcome | Finding]] = {"outcome": Outcome, "finding": Finding}
"""In the order in which they are sent: findings rest on outcomes."""


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What came of sending."""

    count: int
    """Outcomes and findings that are in the catalog now."""
    trouble: tuple[str, ...]
    """What is wrong with each of those that were refused; their files stay."""


class Unsent:
    """The outcomes and findings that wait for one catalog."""

    def __init__(self, logs: Path, name: str) -> None:
        self.root = logs / f"{_PREFIX}{hashlib.sha256(name.encode()).hexdigest()[:12]}"

    def keep(self, entry: Outcome | Finding) -> None:
        """Keep an entry for later."""
        name = f"{type(entry).__name__.lower()}-{ULID()}.json"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            beside = self.root / f".{name}.partial"
            with beside.open("xb") as stream:
                stream.write(entry.model_dump_json().encode())
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(self.root / name)
            sync_directory(self.root)
        except OSError as error:
            raise CatalogError(
                f"cannot keep {entry.id} in {self.root} until the server is back: {error.strerror}",
                hint="make room there",
            ) from error

    def waiting(self) -> list[Path]:
        """Return the files of what waits.

        Returns: in the order in which they are to be sent.
        """
        return [path for kind in _KINDS for path in sorted(self.root.glob(f"{kind}-*.json"))]

    def send(self, record: Callable[[Outcome | Finding], None]) -> Sent:
        """Hand over all that waits; two processes do not do so at the same time."""
        count, trouble = 0, []
        with self._alone() as is_alone:
            for path in self.waiting() if is_alone else ():
                try:
                    kind = _KINDS[path.name.partition("-")[0]]
                    record(read_document(kind, path.read_bytes()))
                except CatalogUnreachable:
                    break
                except (CatalogError, OSError, ValidationError) as error:
                    trouble.append(f"{path}: {error}")
                    continue
                path.unlink(missing_ok=True)
                count += 1
        return Sent(count=count, trouble=tuple(trouble))

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        if not self.root.is_dir():
            yield False
            return
        with (self.root / ".lock").open("ab") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True


def unsent_logs(logs: Path) -> set[str]:
    """Return the logs that waiting outcomes name."""
    digests = set()
    for path in logs.glob(f"{_PREFIX}*/outcome-*.json"):
        try:
            digests.add(read_document(Outcome, path.read_bytes()).log_digest)
        except FileNotFoundError:
            continue  # sent meanwhile
        except (OSError, ValidationError) as error:
            raise CatalogError(f"a waiting outcome cannot be read: {path}: {error}") from error
    return digests
