"""Directories for scratch: private, and cleared by the next start when their owner was killed."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from buildvm_nb.errors import HostError

__all__ = ["scratch_directory"]


@contextmanager
def scratch_directory(parent: Path, prefix: str = "machine-") -> Iterator[Path]:
    """Make a directory that is removed on leaving, or by the next start if we are killed.

    Parameters
    ----------
    parent : Path
        Where all such directories are; nothing else is.
    prefix : str
        How its name begins: what it is for.

    Yields
    ------
    Path
        An empty directory, readable by this user alone.

    Raises
    ------
    HostError
        If it cannot be made.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(parent / ".lock"):
            _clear(parent)
            place = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise HostError(
            f"cannot make a directory for scratch: {error.strerror}: {parent}",
            hint="choose another directory with --cache or BUILDVM_CACHE",
        ) from error
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(lock)


def _clear(parent: Path) -> None:
    """Remove directories whose owner holds no lock any more, so is dead."""
    for place in parent.glob("[!.]*"):
        try:
            lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(place, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)
