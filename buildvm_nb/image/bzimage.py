"""Linux's bzImage: what it says about itself, and the kernel proper inside of it.

Unpacking a kernel costs a guest under emulation more than everything else before its first
process, so the host does it once.

References
----------
Linux, Documentation/arch/x86/boot.rst (``payload_offset``, ``payload_length``,
``kernel_version``); scripts/extract-vmlinux; scripts/Makefile.lib (``size_append``).
"""

import bz2
import lzma
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Callable
from typing import Protocol

from buildvm_nb.errors import HostError, SourceError
from buildvm_nb.host.tools import run_tool

__all__ = ["decompress", "kernel_release", "unpack_kernel"]

_ELF = b"\x7fELF"
_HEADER_AT, _HEADER = 0x202, b"HdrS"
_OLDEST_PROTOCOL = 0x0208
_SIZE_SUFFIX = 4
"""Kernel builds append the unpacked size to every payload but gzip's."""


def kernel_release(image: bytes) -> str:
    """Return what ``uname -r`` will say under a kernel.

    Parameters
    ----------
    image : bytes
        A bzImage.

    Returns
    -------
    str
        For example ``6.1.0-30-cloud-amd64``.

    Raises
    ------
    SourceError
        If it is no bzImage.
    """
    _check(image)
    at = 0x200 + int(struct.unpack_from("<H", image, 0x20E)[0])
    words = image[at : at + 256].split(b"\0", 1)[0].split()
    if not words:
        raise SourceError("the kernel does not say its version")
    return words[0].decode(errors="replace")


def unpack_kernel(image: bytes) -> bytes:
    """Return the uncompressed kernel, an ELF file, out of a bzImage.

    Parameters
    ----------
    image : bytes
        A bzImage.

    Returns
    -------
    bytes
        ``vmlinux``.

    Raises
    ------
    SourceError
        If it is no bzImage, or what it holds cannot be unpacked.
    """
    _check(image)
    start = ((image[0x1F1] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", image, 0x248)
    kernel = decompress(image[start + offset : start + offset + length])
    if not kernel.startswith(_ELF):
        raise SourceError("what the kernel image holds is no ELF file")
    return kernel


def decompress(data: bytes) -> bytes:
    """Unpack data by its magic number; whatever follows the packed data is ignored.

    Parameters
    ----------
    data : bytes
        Packed by xz, lzma, gzip, bzip2, zstd or lz4 (the legacy form that kernels use), or ELF.

    Returns
    -------
    bytes
        The content.

    Raises
    ------
    SourceError
        If the form is unknown or the data are damaged.
    HostError
        If the form needs a program that this host lacks.
    """
    for magic, unpack in _FORMS.items():
        if data.startswith(magic):
            try:
                return unpack(data)
            except (lzma.LZMAError, zlib.error, OSError, EOFError) as error:
                raise SourceError(f"damaged {magic.hex()} data: {error}") from error
    raise SourceError(
        f"unknown compression, magic number {data[:4].hex()}; known: xz, lzma, gzip, bzip2, zstd, "
        "lz4"
    )


def _check(image: bytes) -> None:
    if len(image) < 0x264 or image[_HEADER_AT : _HEADER_AT + 4] != _HEADER:  # noqa: PLR2004 - end of the fields read
        raise SourceError("not a Linux kernel image (bzImage)")
    protocol = struct.unpack_from("<H", image, 0x206)[0]
    if protocol < _OLDEST_PROTOCOL:
        raise SourceError(
            f"kernel image of boot protocol {protocol >> 8}.{protocol & 255:02}; 2.08 is the oldest"
        )


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def _first_stream(decompressor: _Decompressor, data: bytes) -> bytes:
    content = decompressor.decompress(data)
    if not decompressor.eof:
        message = "it ends too early"
        raise EOFError(message)
    return content


def _by_program(*argv: str) -> Callable[[bytes], bytes]:
    """Make an unpacker that calls a program, without and then with the last four bytes."""

    def unpack(data: bytes) -> bytes:
        try:
            return _filter(argv, data[:-_SIZE_SUFFIX])
        except SourceError:
            return _filter(argv, data)

    return unpack


def _filter(argv: tuple[str, ...], data: bytes) -> bytes:
    with tempfile.TemporaryFile() as packed:
        packed.write(data)
        packed.seek(0)
        try:
            return run_tool(argv, stdin=packed, stdout=subprocess.PIPE)
        except HostError as error:
            if error.hint:  # the program is missing
                raise
            raise SourceError(f"damaged data: {error.message[-300:]}") from error


_FORMS: dict[bytes, Callable[[bytes], bytes]] = {
    _ELF: bytes,
    b"\xfd7zXZ\0": lambda data: _first_stream(lzma.LZMADecompressor(lzma.FORMAT_XZ), data),
    b"\x5d\0\0": lambda data: _first_stream(lzma.LZMADecompressor(lzma.FORMAT_ALONE), data),
    b"\x1f\x8b": lambda data: _first_stream(zlib.decompressobj(31), data),
    b"BZh": lambda data: _first_stream(bz2.BZ2Decompressor(), data),
    b"\x28\xb5\x2f\xfd": _by_program("zstd", "-dcq"),
    b"\x02\x21\x4c\x18": _by_program("lz4", "-dcq"),
}
