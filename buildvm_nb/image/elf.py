"""As much of the ELF format as is needed to find the libraries that a program loads.

References
----------
System V ABI, chapters 4 and 5; Linux, include/uapi/linux/elf.h.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

from buildvm_nb.errors import SourceError

__all__ = ["Linkage", "read_linkage"]

_MAGIC_64_LITTLE = b"\x7fELF\x02\x01"
_LOAD, _DYNAMIC, _INTERPRETER = 1, 2, 3
_END, _NEEDED, _STRING_TABLE = 0, 1, 5


@dataclass(frozen=True, kw_only=True)
class Linkage:
    """What a program or library asks the loader for."""

    interpreter: str | None
    """Path of the loader; None for a library or a static program."""
    needed: tuple[str, ...]
    """Names of libraries."""


@dataclass(frozen=True)
class _Segment:
    kind: int
    offset: int
    address: int
    size: int


def read_linkage(path: Path) -> Linkage:
    """Read which loader and libraries an ELF file needs.

    Parameters
    ----------
    path : Path
        A 64-bit little-endian ELF file.

    Returns
    -------
    Linkage
        Its loader and libraries.

    Raises
    ------
    SourceError
        If it is no such file.
    """
    data = path.read_bytes()
    if not data.startswith(_MAGIC_64_LITTLE):
        raise SourceError(f"not a 64-bit little-endian ELF file: {path.name}")
    try:
        segments = _segments(data)
        needed = tuple(_needed(data, segments))
        interpreter = next(
            (_text(data, segment.offset) for segment in segments if segment.kind == _INTERPRETER),
            None,
        )
    except (struct.error, ValueError, StopIteration) as error:
        raise SourceError(f"damaged ELF file: {path.name}") from error
    return Linkage(interpreter=interpreter, needed=needed)


def _segments(data: bytes) -> list[_Segment]:
    start = struct.unpack_from("<Q", data, 32)[0]
    size, count = struct.unpack_from("<HH", data, 54)
    segments = []
    for index in range(count):
        kind, _, offset, address, _, in_file = struct.unpack_from(
            "<IIQQQQ", data, start + index * size
        )
        segments.append(_Segment(kind, offset, address, in_file))
    return segments


def _needed(data: bytes, segments: list[_Segment]) -> list[str]:
    names: list[int] = []
    table = 0
    for segment in segments:
        if segment.kind == _DYNAMIC:
            for at in range(segment.offset, segment.offset + segment.size, 16):
                tag, value = struct.unpack_from("<QQ", data, at)
                if tag == _NEEDED:
                    names.append(value)
                elif tag == _STRING_TABLE:
                    table = value
                elif tag == _END:
                    break
    if not names:
        return []
    offset = next(
        segment.offset + table - segment.address
        for segment in segments
        if segment.kind == _LOAD and segment.address <= table < segment.address + segment.size
    )
    return [_text(data, offset + name) for name in names]


def _text(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode()
