"""Disk images that machines boot from: looked at before QEMU opens them.

A qcow2 image can name other files of the host: the one that it is based on, and one that has its
data. QEMU would open them, whatever they are. So an image that names any is refused, and QEMU is
told what the format is instead of guessing it.

References
----------
QEMU, docs/interop/qcow2.txt.
"""

import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from buildvm_nb.errors import UsageError

__all__ = ["DiskImage", "inspect_disk"]

_MAGIC = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQI")
"""Magic, version, place and length of the base's name, cluster bits, size, encryption."""
_FEATURES = struct.Struct(">Q")
_FEATURES_AT = 72
_EXTERNAL_DATA = 1 << 2
_VERSIONS = (2, 3)
_SECTOR = 512
_BOOTABLE = b"\x55\xaa"
_SMALLEST, _LARGEST = 2**16, 2**44
_HINT = "make it with `guix system image -t qcow2`, or `qemu-img convert -O qcow2`"


@dataclass(frozen=True, kw_only=True)
class DiskImage:
    """A disk image that may be booted; it is only read."""

    path: Path
    format: str
    """``qcow2`` or ``raw``."""
    size_bytes: int
    """Of the disk that the guest sees."""


def inspect_disk(path: Path) -> DiskImage:
    """Look at a disk image.

    Parameters
    ----------
    path : Path
        A qcow2 image, or a raw one with a boot sector.

    Returns
    -------
    DiskImage
        Complete in itself.

    Raises
    ------
    UsageError
        If it is missing or no such image, is encrypted, or refers to other files of the host.
    """
    try:
        with path.open("rb") as stream:
            if not stat.S_ISREG(path.stat().st_mode):
                raise UsageError(f"not a file: {path}; allowed: a disk image", hint=_HINT)
            is_qcow2 = stream.read(len(_MAGIC)) == _MAGIC
            stream.seek(0)
            kind = "qcow2" if is_qcow2 else "raw"
            size = _qcow2_size(stream, path) if is_qcow2 else _raw_size(stream, path)
    except OSError as error:
        raise UsageError(f"cannot read the disk image: {path}: {error.strerror}") from error
    if not _SMALLEST <= size <= _LARGEST:
        raise UsageError(
            f"no disk to boot from: {path} is a disk of {size} bytes; allowed: {_SMALLEST} to "
            f"{_LARGEST}"
        )
    return DiskImage(path=path.absolute(), format=kind, size_bytes=size)


def _qcow2_size(stream: BinaryIO, path: Path) -> int:
    header = stream.read(_FEATURES_AT + _FEATURES.size)
    if len(header) < _FEATURES_AT + _FEATURES.size:
        raise UsageError(f"the disk image is cut off: {path}", hint="copy it again")
    _, version, base_at, base_length, _, size, encryption = _HEADER.unpack_from(header)
    if version not in _VERSIONS:
        raise UsageError(f"unknown version of qcow2: {version} in {path}; allowed: 2, 3")
    # version 2 has no such field
    features = _FEATURES.unpack_from(header, _FEATURES_AT)[0] if version > _VERSIONS[0] else 0
    if base_at or features & _EXTERNAL_DATA:
        named = f" {_base(stream, base_at, base_length)}" if base_at else ""
        what = "is based on another file" if base_at else "has its data in another file"
        raise UsageError(
            f"the disk image {what}{named}: {path}; allowed: one that is complete in itself",
            hint="`qemu-img convert -O qcow2 OLD NEW` makes one of it, if you trust it",
        )
    if encryption:
        raise UsageError(f"the disk image is encrypted: {path}", hint="decrypt it first")
    return int(size)


def _base(stream: BinaryIO, at: int, length: int) -> str:
    stream.seek(min(at, _LARGEST))
    return repr(stream.read(min(length, 200)).decode(errors="replace"))


def _raw_size(stream: BinaryIO, path: Path) -> int:
    if stream.read(_SECTOR)[-len(_BOOTABLE) :] != _BOOTABLE:
        raise UsageError(
            f"neither a qcow2 image nor a raw one with a boot sector: {path}", hint=_HINT
        )
    return stream.seek(0, 2)
