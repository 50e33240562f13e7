"""Streams out of compressed files, metered, so that a small file cannot unpack without end."""

import bz2
import io
import lzma
import sys
import zlib
from collections.abc import Callable
from typing import BinaryIO, Protocol

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdError
else:
    from backports.zstd import ZstdDecompressor, ZstdError

from buildvm_nb.hints.limits import ScanLimits

__all__ = ["BROKEN_STREAM", "Meter", "Readable", "Spent", "rejoined", "unpacked"]

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
    """Counts what comes out of archives.

    Parameters
    ----------
    limits : ScanLimits
        What is allowed.
    """

    def __init__(self, limits: ScanLimits) -> None:
        self._limits = limits
        self._total = limits.total_bytes
        self._members = limits.members
        self._room = 0

    def start(self, size: int) -> None:
        """Begin with another file that is not inside an archive.

        Parameters
        ----------
        size : int
            Its bytes.
        """
        self._room = max(self._limits.small_bytes, size * self._limits.ratio)

    def take(self, size: int) -> None:
        """Count bytes that came out.

        Parameters
        ----------
        size : int
            How many.

        Raises
        ------
        Spent
            If that was too much.
        """
        self._total -= size
        self._room -= size
        if self._total < 0:
            raise Spent(f"all archives together unpack to over {self._limits.total_bytes} bytes")
        if self._room < 0:
            raise Spent(f"unpacks to over {self._limits.ratio} times its size")

    def member(self) -> None:
        """Count a member.

        Raises
        ------
        Spent
            If that was one too many.
        """
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

    Parameters
    ----------
    packed : Readable
        Read from its start on.
    head : bytes
        What it starts with.
    meter : Meter
        Counts what comes out.

    Returns
    -------
    binary file or None
        None: it is not compressed in a way that is known here. Reading raises one of
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
    """Put back what was read from a stream that cannot go back.

    Parameters
    ----------
    head : bytes
        What was read.
    rest : Readable
        The stream.

    Returns
    -------
    binary file
        Reads the head first.
    """
    return io.BufferedReader(_Rejoined(head, rest), _CHUNK)
