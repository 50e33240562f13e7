"""A machine's own directory: private, and cleared by the next start when its owner was killed."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from buildvm_nb.errors import HostError

__all__ = ["machine_directory"]


@contextmanager
def machine_directory(parent: Path) -> Iterator[Path]:
    """Make a directory that is removed on leaving, or by the next start if we are killed.

    Parameters
    ----------
    parent : Path
        Where machines have their directories.

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
            place = Path(tempfile.mkdtemp(prefix="machine-", dir=parent))
            lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise HostError(
            f"cannot make a machine's directory: {error.strerror}: {parent}",
            hint="choose another directory with --cache or BUILDVM_CACHE",
        ) from error
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(lock)


def _clear(parent: Path) -> None:
    """Remove directories whose owner holds no lock any more, so is dead."""
    for place in parent.glob("machine-*"):
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
