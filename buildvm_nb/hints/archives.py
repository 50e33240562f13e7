"""Members of archives that strangers made, as streams; nothing is written anywhere.

References
----------
ar(5); deb(5); POSIX.1-2024, pax, for ustar; APPNOTE.TXT of the ZIP format.
"""

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import BinaryIO, Self

from buildvm_nb.hints.streams import BROKEN_STREAM, Meter, Readable

__all__ = ["BROKEN", "HEAD_BYTES", "SEEKING", "Members", "archive_members", "foreign_format"]

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
_KINDS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2}
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

    Parameters
    ----------
    head : bytes
        The file's first `HEAD_BYTES`.
    name : str
        Its name, for old tar archives, which have no mark.

    Returns
    -------
    callable or None
        None: it is no archive that is known here. The callable may raise one of `BROKEN`.
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

    Parameters
    ----------
    head : bytes
        The file's first bytes.

    Returns
    -------
    str or None
        Its name.
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
            elif info.compress_type not in _KINDS:
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
