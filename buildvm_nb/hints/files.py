"""Everything that lies below a path, also in archives, as pieces of bytes in a fixed order."""

import io
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from buildvm_nb.errors import UsageError
from buildvm_nb.hints.archives import BROKEN, HEAD_BYTES, SEEKING, archive_members, foreign_format
from buildvm_nb.hints.limits import ScanLimits
from buildvm_nb.hints.streams import Meter, Readable, Spent, rejoined, unpacked

__all__ = ["FileReader", "Piece", "Skipped"]

Skipped = Callable[[str, str], None]
"""Takes the path of what is not read, and why."""

_VERSION_CONTROL = frozenset({".git", ".hg", ".svn", ".bzr"})
_OVERLAP = 2**20
_SEARCHED_FOR_A_BREAK = 2**16
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A file, or a part of a long one."""

    path: str
    """Relative to what is scanned; members of archives after ``!``."""
    data: bytes
    end: int
    """What begins from here on belongs to the next piece, which has it again."""
    line: int = 1
    """Number of the line that the piece begins with."""
    is_first: bool = True


class FileReader:
    """Reads whatever lies below a path.

    Parameters
    ----------
    limits : ScanLimits
        How much is read.
    skipped : callable
        Is told what is not read, and why.
    """

    def __init__(self, limits: ScanLimits, skipped: Skipped) -> None:
        self._limits = limits
        self._skipped = skipped
        self._meter = Meter(limits)

    def pieces(self, path: Path) -> Iterator[Piece]:
        """Iterate over the pieces of all files.

        Parameters
        ----------
        path : Path
            A file or a directory; if it is a symbolic link, then where it leads to.

        Yields
        ------
        Piece
            Sorted by the names' bytes; those of one file one after the other.

        Raises
        ------
        UsageError
            If there is nothing at `path`.
        """
        try:
            path = path.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise UsageError(f"nothing to scan: no such file or directory: {path}") from error
        if path.is_dir():
            yield from self._directory(path)
        else:
            yield from self._file(str(path), path.name)

    def _directory(self, root: Path) -> Iterator[Piece]:
        stack = [(str(root), "", True)]
        while stack:
            place, name, is_directory = stack.pop()
            if is_directory:
                stack += self._children(place, name)
            else:
                yield from self._file(place, name)

    def _children(self, place: str, name: str) -> Iterator[tuple[str, str, bool]]:
        """Iterate over the files and directories in a directory, last one first."""
        try:
            with os.scandir(place) as entries:
                found = sorted(entries, key=lambda entry: os.fsencode(entry.name), reverse=True)
            for entry in found:
                child = f"{name}/{entry.name}" if name else entry.name
                is_directory = entry.is_dir(follow_symlinks=False)
                if is_directory and entry.name in _VERSION_CONTROL:
                    self._skipped(_shown(child), "it belongs to version control")
                elif is_directory or entry.is_file(follow_symlinks=False):
                    yield entry.path, child, is_directory
                else:
                    kind = stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
                    self._skipped(_shown(child), f"it is {_KINDS.get(kind, 'no file')}")
        except OSError as error:
            self._skipped(_shown(name) or ".", f"cannot be read: {error.strerror}")

    def _file(self, place: str, name: str) -> Iterator[Piece]:
        shown = _shown(name)
        try:
            descriptor = os.open(place, _FLAGS)
            with open(descriptor, "rb") as stream:  # noqa: PTH123 - a descriptor, and no link
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    self._skipped(
                        shown, f"it is {_KINDS.get(stat.S_IFMT(status.st_mode), 'no file')}"
                    )
                else:
                    self._meter.start(status.st_size)
                    yield from self._open(shown, stream, 0)
        except OSError as error:
            self._skipped(shown, f"cannot be read: {error.strerror}")
        except Spent as spent:
            self._skipped(shown, str(spent))

    def _open(self, name: str, stream: BinaryIO, depth: int) -> Iterator[Piece]:
        """Look into a file or member; damage to it is told, and ends with it."""
        try:
            yield from self._look_into(name, stream, depth)
        except BROKEN as error:
            self._skipped(name, f"damaged: {error}")

    def _look_into(
        self, name: str, stream: BinaryIO, depth: int, *, is_unpacked: bool = False
    ) -> Iterator[Piece]:
        """Tell what a file is; a compression and the tar archive in it count as one level."""
        head = stream.read(HEAD_BYTES)
        whole = _again(stream, head)
        inner = unpacked(whole, head, self._meter)
        members = archive_members(head, name)
        foreign = foreign_format(head)
        level = depth if is_unpacked and members and not inner else depth + 1
        if foreign or ((members or inner) and level > self._limits.depth):
            reason = f"its format is not supported: {foreign}" if foreign else "archives too deep"
            self._skipped(name, reason)
        elif inner is not None:
            yield from self._look_into(name, inner, level, is_unpacked=True)
        elif members is not None:
            source = whole if members not in SEEKING else self._seekable(name, whole)
            if source is not None:
                yield from self._members(name, members(source, self._meter), level)
        else:
            yield from self._plain(name, whole)

    def _members(
        self, name: str, members: Iterator[tuple[str, BinaryIO | str]], depth: int
    ) -> Iterator[Piece]:
        for member, content in members:
            path = f"{name}!{_shown(member.removeprefix('./'))}"
            if isinstance(content, str):
                self._skipped(path, content)
            else:
                yield from self._open(path, content, depth)

    def _seekable(self, name: str, stream: BinaryIO) -> BinaryIO | None:
        if _is_on_disk(stream):
            return stream
        data, most = stream.read(self._limits.member_bytes + 1), self._limits.member_bytes
        if len(data) > most:
            self._skipped(name, f"a zip file of over {most} bytes inside an archive")
            return None
        return io.BytesIO(data)

    def _plain(self, name: str, stream: Readable) -> Iterator[Piece]:
        window, kept, line, is_first = self._limits.member_bytes, b"", 1, True
        while True:
            data = kept + stream.read(window - len(kept))
            if len(data) < window:
                yield Piece(path=name, data=data, end=len(data), line=line, is_first=is_first)
                return
            end = len(data) - min(_OVERLAP, window // 4)
            end = data.rfind(b"\n", end - min(_SEARCHED_FOR_A_BREAK, end), end) + 1 or end
            yield Piece(path=name, data=data, end=end, line=line, is_first=is_first)
            line, kept, is_first = line + data.count(b"\n", 0, end), data[end:], False


def _again(stream: BinaryIO, head: bytes) -> BinaryIO:
    if _is_on_disk(stream):
        stream.seek(0)
        return stream
    return rejoined(head, stream)


def _is_on_disk(stream: BinaryIO) -> bool:
    return isinstance(stream, io.BufferedReader) and isinstance(stream.raw, io.FileIO)


def _shown(name: str) -> str:
    """Return a name as text that any output can hold."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
