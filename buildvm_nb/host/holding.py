"""Marks on entries of a cache that are in use, which the kernel takes away when their holder dies.

One file stands for all entries of a cache: each has a byte of it, chosen by its name. Whoever uses
an entry has a shared lock on that byte until his process ends; whoever removes one needs it alone.
So a process needs one descriptor, however many entries it uses.

References
----------
fcntl(2), "Open file description locks": they belong to the open file, not to the process, so the
marks of this very process count as well.
"""

import fcntl
import hashlib
import os
import struct
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

__all__ = ["hold", "sole_hold"]

_FILE = ".in-use"
_FLOCK = "@hhqqi0q"
"""struct flock: type, whence, start, length, and a process number that stays 0."""
_DIGITS = 15
_KEPT_OPEN = 32
"""Caches of one process whose marks last; more than a few are seen in tests alone."""


class _Marks:
    """The open file of one cache; closing it takes all marks of this process away."""

    def __init__(self, root: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self.descriptor = os.open(root / _FILE, flags, 0o666)
        weakref.finalize(self, os.close, self.descriptor)

    def lock(self, command: int, kind: int, name: str) -> None:
        place = int(hashlib.sha256(name.encode()).hexdigest()[:_DIGITS], 16)
        fcntl.fcntl(self.descriptor, command, struct.pack(_FLOCK, kind, 0, place, 1, 0))


@lru_cache(maxsize=_KEPT_OPEN)
def _marks(root: Path) -> _Marks:
    return _Marks(root)


def hold(root: Path, name: str) -> None:
    """Mark an entry as in use until this process ends.

    A cache that may not be written is used without marks.

    Parameters
    ----------
    root : Path
        The cache.
    name : str
        The entry.
    """
    with suppress(OSError):
        _marks(root).lock(fcntl.F_OFD_SETLKW, fcntl.F_RDLCK, name)


@contextmanager
def sole_hold(root: Path, name: str) -> Iterator[bool]:
    """Keep others from beginning to use an entry.

    Parameters
    ----------
    root : Path
        The cache.
    name : str
        The entry.

    Yields
    ------
    bool
        Whether that worked; False: somebody uses it.
    """
    mine = _Marks(root)
    try:
        mine.lock(fcntl.F_OFD_SETLK, fcntl.F_WRLCK, name)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        mine.lock(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, name)
