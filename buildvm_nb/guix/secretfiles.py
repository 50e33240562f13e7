"""The files of a secret transfer: gathered from a directory, and put below one, all or none."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from buildvm_nb.errors import HostError, MachineError, UsageError

__all__ = ["LARGEST_FILES", "MOST_FILES", "SecretFile", "SecretPlace", "gather", "name_parts"]

MOST_FILES = 1000
"""In one transfer; Guix itself sends about ten."""

LARGEST_FILES = 64 * 2**20
"""Bytes of all files of a transfer together; Guix itself sends a few thousand."""

_LONGEST_NAME = 4096
_LONGEST_PART = 255
_DEEPEST = 64
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE_BITS = 0o7777


@dataclass(frozen=True, kw_only=True)
class SecretFile:
    """A file as it is announced."""

    name: str
    """Absolute: what the path is where the directory is the root directory."""
    size: int
    """Bytes."""
    mode: int
    """Type and permissions, as stat(2) has them."""


def gather(directory: Path, *, limit: int = LARGEST_FILES) -> list[tuple[SecretFile, bytes]]:
    """Read the files of a directory.

    Parameters
    ----------
    directory : Path
        It is what the other side's root directory is.
    limit : int
        Bytes of all files together.

    Returns
    -------
    list of (SecretFile, bytes)
        Sorted by name.

    Raises
    ------
    UsageError
        If there is no such directory, or in it is what is no file or directory, too much, or a
        name with control characters.
    HostError
        If a file cannot be read.
    """
    if not directory.is_dir():
        raise UsageError(f"no directory of secrets: {directory}")
    found: list[tuple[SecretFile, bytes]] = []
    left = limit
    try:
        for path in _leaves(directory):
            name = "/" + os.fsdecode(path.relative_to(directory))
            if not name.isprintable():
                raise UsageError(f"a secret's name has control characters: {name!r}")
            with open(path, "rb", opener=_open_plain) as stream:
                content = stream.read(left + 1)
                mode = os.fstat(stream.fileno()).st_mode
            left -= len(content)
            if left < 0 or len(found) == MOST_FILES:
                raise UsageError(
                    f"too many secrets in {directory}; allowed: {MOST_FILES} files of "
                    f"{limit} bytes in all"
                )
            found.append((SecretFile(name=name, size=len(content), mode=mode), content))
    except OSError as error:
        raise HostError(f"cannot read a secret: {error.strerror}: {error.filename}") from error
    return found


def _leaves(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.rglob("*")):
        kind = path.lstat().st_mode
        if stat.S_ISREG(kind):
            yield path
        elif not stat.S_ISDIR(kind):
            raise UsageError(
                f"a secret must be a plain file: {path}; links are not followed",
                hint="put a copy in its place",
            )


def _open_plain(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


def name_parts(name: str) -> tuple[str, ...]:
    """Split the name of an announced file.

    Parameters
    ----------
    name : str
        As it was announced; a leading slash says nothing.

    Returns
    -------
    tuple of str
        Directories and the file, below whatever stands for the root directory.

    Raises
    ------
    MachineError
        If it leads elsewhere, or is no name.
    """
    parts = tuple(name.removeprefix("/").split("/"))
    if {"", ".", ".."} & set(parts) or not name.isprintable():
        raise MachineError(
            f"a secret with an unsafe name was announced: {name!r:.200}; allowed: a path without "
            "'..', '.', empty parts and control characters"
        )
    if len(parts) > _DEEPEST:
        raise MachineError(
            f"a secret in too many directories was announced: {len(parts) - 1}; "
            f"allowed: {_DEEPEST - 1}"
        )
    if len(name.encode()) > _LONGEST_NAME or max(map(len, map(str.encode, parts))) > _LONGEST_PART:
        raise MachineError(f"a secret with too long a name was announced: {name!r:.200}")
    return parts


class SecretPlace:
    """Where secrets are put: below one directory, under other names until all are there.

    Parameters
    ----------
    root : Path
        Stands for the root directory; made if it is not there.

    Raises
    ------
    HostError
        If it cannot be made or opened.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._made: list[tuple[int, str]] = []
        self._written: list[tuple[int, str, str]] = []
        self._open: dict[tuple[str, ...], int] = {}
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._open[()] = os.open(root, _DIRECTORY & ~os.O_NOFOLLOW)
        except OSError as error:
            raise self._unwritable(error, "") from error

    def add(self, file: SecretFile) -> BinaryIO:
        """Make room for a file, beside the place where it will be.

        Parameters
        ----------
        file : SecretFile
            As announced; its name is checked.

        Returns
        -------
        binary file
            For its content; the caller closes it. It has its mode already.

        Raises
        ------
        MachineError
            If the name is not safe.
        HostError
            If a link or something else is in the way, or the file system refuses.
        """
        *parents, name = name_parts(file.name)
        try:
            directory = self._enter(tuple(parents))
            self._check_free(directory, name)
            hidden = f".buildvm-secret-{token_hex(8)}"
            stream = os.fdopen(os.open(hidden, _NEW_FILE, 0o600, dir_fd=directory), "wb")
            self._written.append((directory, hidden, name))
            os.fchmod(stream.fileno(), file.mode & _MODE_BITS)
        except OSError as error:
            raise self._unwritable(error, file.name) from error
        return stream

    def commit(self) -> None:
        """Give all files their names; what had such a name before is replaced, never followed.

        Raises
        ------
        HostError
            If the file system refuses.
        """
        try:
            while self._written:
                directory, hidden, name = self._written[0]
                os.rename(hidden, name, src_dir_fd=directory, dst_dir_fd=directory)
                del self._written[0]
        except OSError as error:
            raise self._unwritable(error, name) from error
        self._made.clear()

    def close(self) -> None:
        """Take away what was not committed; calling it twice does no harm."""
        for directory, hidden, _ in self._written:
            with suppress(OSError):
                os.unlink(hidden, dir_fd=directory)
        for directory, name in reversed(self._made):
            with suppress(OSError):  # somebody else may have put something in
                os.rmdir(name, dir_fd=directory)
        for descriptor in self._open.values():
            os.close(descriptor)
        self._written, self._made, self._open = [], [], {}

    def _enter(self, parents: tuple[str, ...]) -> int:
        """Open a directory step by step, so that no link is ever followed; make what is missing."""
        if parents in self._open:
            return self._open[parents]
        above, name = self._enter(parents[:-1]), parents[-1]
        try:
            os.mkdir(name, 0o755, dir_fd=above)
            self._made.append((above, name))
        except FileExistsError:
            pass
        self._open[parents] = os.open(name, _DIRECTORY, dir_fd=above)
        return self._open[parents]

    @staticmethod
    def _check_free(directory: int, name: str) -> None:
        with suppress(FileNotFoundError):
            kind = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
            if stat.S_ISDIR(kind):
                raise IsADirectoryError(errno.EISDIR, "a directory is in the way")

    def _unwritable(self, error: OSError, name: str) -> HostError:
        reason = error.strerror
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            reason = "a link or file is in the way, and links are not followed"
        path = f"{self.root}/{name.lstrip('/')}" if name else str(self.root)
        return HostError(f"cannot put a secret into place: {path}: {reason}")
