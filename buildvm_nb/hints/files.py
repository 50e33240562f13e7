"""Everything that lies below a path, also in archives, as pieces of bytes in a fixed order."""

import bz2
import io
import lzma
import os
import stat
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, Self

from buildvm_nb.errors import UsageError
from buildvm_nb.hints.found import ScanLimits

__all__ = [
    "FileReader",
    "Piece",
    "Skipped",
]

# Streams out of compressed files, metered, so that a small file cannot unpack without end.

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdError
else:
    from backports.zstd import ZstdDecompressor, ZstdError


BROKEN_STREAM = (zlib.error, lzma.LZMAError, ZstdError, EOFError, OSError)
"""What damaged data makes the decoders raise; bz2 raises `OSError`."""

_CHUNK = 2**16
_LZMA_MEMORY = 192 * 2**20
"""xz -9 needs 65 MiB."""


class Readable(Protocol):
    """What can be read from."""

    def read(self, size: int, /) -> bytes:
        """Read up to so many bytes; none: it is at its end."""
        ...


class Spent(Exception):
    """An allowance is used up; its text says which one."""


class Meter:
    """Counts what comes out of archives."""

    def __init__(self, limits: ScanLimits) -> None:
        self._limits = limits
        self._total = limits.total_bytes
        self._members = limits.members
        self._room = 0

    def start(self, size: int) -> None:
        """Begin with another file that is not inside an archive."""
        self._room = max(self._limits.small_bytes, size * self._limits.ratio)

    def take(self, size: int) -> None:
        """Count bytes that came out."""
        self._total -= size
        self._room -= size
        if self._total < 0:
            raise Spent(f"all archives together unpack to over {self._limits.total_bytes} bytes")
        if self._room < 0:
            raise Spent(f"unpacks to over {self._limits.ratio} times its size")

    def member(self) -> None:
        """Count a member."""
        self._members -= 1
        if self._members < 0:
            raise Spent(f"all archives together have over {self._limits.members} members")


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gunzip:
    """Gives zlib's decoder the shape of the others."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def needs_input(self) -> bool:
        return not self._decoder.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._decoder.decompress(self._decoder.unconsumed_tail + data, max_length)


def _unxz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)


_DECODERS: dict[bytes, Callable[[], _Decoder]] = {
    b"\x1f\x8b": _Gunzip,
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\x00": _unxz,
    b"\x5d\x00\x00\x80\x00": _unxz,
    b"\x28\xb5\x2f\xfd": ZstdDecompressor,
}


class _Unpacked(io.RawIOBase):
    def __init__(self, packed: Readable, magic: bytes, meter: Meter) -> None:
        super().__init__()
        self._packed = packed
        self._magic = magic
        self._meter = meter
        self._decoder = _DECODERS[magic]()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # io's own hands one over
        data = self._some(len(buffer))
        buffer[: len(data)] = data
        self._meter.take(len(data))
        return len(data)

    def _some(self, size: int) -> bytes:
        while True:
            fed = b""
            if self._decoder.eof:
                fed = self._decoder.unused_data or self._packed.read(_CHUNK)
                if not fed.startswith(self._magic):  # the end, or padding behind it
                    return b""
                self._decoder = _DECODERS[self._magic]()
            elif self._decoder.needs_input:
                fed = self._packed.read(_CHUNK)
            data = self._decoder.decompress(fed, size)
            if data:
                return data
            if not fed and not self._decoder.eof:
                raise EOFError("it ends too early")


def unpacked(packed: Readable, head: bytes, meter: Meter) -> BinaryIO | None:
    """Open a compressed stream.

    Returns: None: it is not compressed in a way that is known here. Reading raises one of
    `BROKEN_STREAM` where the data is damaged, and `Spent`.
    """
    for magic in _DECODERS:
        if head.startswith(magic):
            return io.BufferedReader(_Unpacked(packed, magic, meter), _CHUNK)
    return None


class _Rejoined(io.RawIOBase):
    def __init__(self, head: bytes, rest: Readable) -> None:
        super().__init__()
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # io's own hands one over
        data = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(data) :]
        buffer[: len(data)] = data
        return len(data)


def rejoined(head: bytes, rest: Readable) -> BinaryIO:
    """Put back what was read from a stream that cannot go back."""
    return io.BufferedReader(_Rejoined(head, rest), _CHUNK)


# Members of archives that strangers made, as streams; nothing is written anywhere.
#
# References: ar(5); deb(5); POSIX.1-2024, pax, for ustar; APPNOTE.TXT of the ZIP format.

BROKEN = (
    *BROKEN_STREAM,
    tarfile.TarError,
    zipfile.BadZipFile,
    ValueError,  # numbers and names that are none
    NotImplementedError,  # an unknown compression in a zip file
    RuntimeError,  # an encrypted one
)
"""What damaged archives make their readers raise."""

HEAD_BYTES = 512
"""How much of a file tells its format."""

Members = Iterator[tuple[str, BinaryIO | str]]
"""Names with a stream to be read before the next one is asked for, or why there is none."""

_LONGEST_HEADER = 2**14
_AR_HEADER = 60
_ENCRYPTED = 1
_ARCHIVE_KINDS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2}
_FOREIGN = {
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "RAR",
    b"\xed\xab\xee\xdb": "RPM",
    b"MSCF": "cabinet",
    b"\x1f\x9d": "compress",
    b"hsqs": "squashfs",
}


def archive_members(head: bytes, name: str) -> Callable[[BinaryIO, Meter], Members] | None:
    """Return what reads an archive's members.

    Returns: None: it is no archive that is known here. The callable may raise one of `BROKEN`.
    """
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_members
    if head.startswith(b"!<arch>\n"):
        return _ar_members
    if head[257:262] == b"ustar" or name.endswith(".tar"):
        return _tar_members
    return None


def foreign_format(head: bytes) -> str | None:
    """Return the format of an archive that is known by name only.

    `head`: the file's first bytes.
    """
    return next((name for magic, name in _FOREIGN.items() if head.startswith(magic)), None)


def _zip_members(stream: BinaryIO, meter: Meter) -> Members:
    with zipfile.ZipFile(stream) as packed:
        for info in packed.infolist():
            meter.member()
            if info.filename.endswith("/"):  # is_dir() stumbles over an empty name
                continue
            if info.flag_bits & _ENCRYPTED:
                yield info.filename, "it is encrypted"
            elif info.compress_type not in _ARCHIVE_KINDS:
                yield info.filename, f"compression {info.compress_type} is not supported"
            else:
                yield info.filename, _zip_member(packed, info, meter)


def _zip_member(packed: zipfile.ZipFile, info: zipfile.ZipInfo, meter: Meter) -> BinaryIO | str:
    try:
        return io.BufferedReader(_Metered(packed.open(info), meter))
    except BROKEN as error:
        return f"damaged: {error}"


SEEKING = frozenset({_zip_members})
"""Readers whose stream must be able to go back."""


class _Metered(io.RawIOBase):
    def __init__(self, stream: Readable, meter: Meter) -> None:
        super().__init__()
        self._stream = stream
        self._meter = meter

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # io's own hands one over
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._meter.take(len(data))
        return len(data)


class _Header(tarfile.TarInfo):
    """A header whose additions are short: `tarfile` holds them in memory, however long they are.

    Before 3.11.10 it also takes quadratic time to read them (CVE-2024-6232).
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.type in _ADDITIONS and header.size > _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {header.size} bytes")
        return header


_ADDITIONS = {
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
}


def _tar_members(stream: BinaryIO, meter: Meter) -> Members:
    with tarfile.open(
        fileobj=stream, mode="r|", tarinfo=_Header, errors="surrogateescape"
    ) as packed:
        while (member := packed.next()) is not None:
            packed.members.clear()  # type: ignore[attr-defined]  # it keeps each one, and there may be many
            meter.member()
            if member.issparse():
                yield member.name, "it is a sparse file"
            elif member.isreg() and (content := packed.extractfile(member)) is not None:
                yield member.name, content  # type: ignore[misc]  # typeshed: any IO[bytes]


def _ar_members(stream: BinaryIO, meter: Meter) -> Members:
    stream.read(8)
    while header := stream.read(_AR_HEADER):
        meter.member()
        if len(header) < _AR_HEADER or header[58:] != b"`\n":
            raise ValueError("a member of an ar archive has no header")
        size = int(header[48:58])
        if size < 0:
            raise ValueError("a member of an ar archive has a negative size")
        part = _Part(stream, size)
        name = header[:16].decode("ascii", "backslashreplace").strip().rstrip("/")
        yield name or "/", io.BufferedReader(part)
        part.finish()
        stream.read(size % 2)


class _Part(io.RawIOBase):
    """The next bytes of a stream, so many of them."""

    def __init__(self, stream: Readable, size: int) -> None:
        super().__init__()
        self._stream = stream
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # io's own hands one over
        data = self._stream.read(min(self._left, len(buffer)))
        if self._left and not data:
            raise EOFError("it ends too early")
        self._left -= len(data)
        buffer[: len(data)] = data
        return len(data)

    def finish(self) -> None:
        """Pass over what nobody has read."""
        while self._left:
            self.readinto(memoryview(bytearray(min(self._left, 2**16))))


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
    """Reads whatever lies below a path."""

    def __init__(self, limits: ScanLimits, skipped: Skipped) -> None:
        self._limits = limits
        self._skipped = skipped
        self._meter = Meter(limits)

    def pieces(self, path: Path) -> Iterator[Piece]:
        """Iterate over the pieces of all files.

        `path`: a file or a directory; if it is a symbolic link, then where it leads to.
        Yields: sorted by the names' bytes; those of one file one after the other.
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
