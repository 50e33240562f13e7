"""What a look at some bytes gives, and how much is read at most."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import datetime
from typing import NamedTuple

from buildvm_nb.errors import UsageError
from buildvm_nb.model.finding import HintKind

__all__ = [
    "Found",
    "Report",
    "ScanLimits",
]

# How much of a tree is read at most, so that hostile files cost no more than their size.

_MIB = 2**20
_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class ScanLimits:
    """Bounds of a scan; what they leave out is reported, never dropped in silence."""

    member_bytes: int = 32 * _MIB
    """Bytes that are held in memory of one file or member; longer ones are read piece by piece."""
    total_bytes: int = 8 * _GIB
    """Bytes that archives may unpack to, all together."""
    ratio: int = 200
    """How many times its size an archive may unpack to."""
    small_bytes: int = 64 * _MIB
    """Bytes that an archive may unpack to whatever its size."""
    depth: int = 4
    """How deep archives are opened that lie in archives."""
    members: int = 500_000
    """Members of archives, all together."""
    line_bytes: int = 4096
    """How much of a line is looked at from where something looks like a date."""
    per_file: int = 200
    """Hints of one kind from one file."""
    key_rounds: int = 50_000_000
    """Rounds of key derivation, all together, that PKCS#12 files may ask for."""

    def __post_init__(self) -> None:
        for field in fields(self):
            least = _LEAST.get(field.name, 1)
            if (value := getattr(self, field.name)) < least:
                raise UsageError(f"{field.name} out of range: {value}; allowed: {least} or more")


_LEAST = {"member_bytes": 1024}


Report = Callable[[int, str], None]
"""Takes the offset of what could not be read, and why."""


class Found(NamedTuple):
    """One thing found."""

    kind: HintKind
    why: str
    instant: datetime | None = None
    condition: str = ""
    offset: int = 0
    """Where it begins in the bytes that were looked at."""

    def at(self, offset: int) -> "Found":
        """Return the same, found somewhere else."""
        return self._replace(offset=offset)
