"""Files that take their place only when all of them is written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ulid import ULID

from buildvm_nb.errors import CatalogError

__all__ = ["replacing", "replacing_path"]


@contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """Open a text file that takes its place only when all of it is written.

    Parameters
    ----------
    path : Path
        Where it goes.

    Yields
    ------
    text stream
        UTF-8, line ends as written.

    Raises
    ------
    CatalogError
        If it cannot be written.
    """
    with replacing_path(path) as beside, beside.open("x", encoding="utf-8", newline="") as stream:
        yield stream


@contextmanager
def replacing_path(path: Path) -> Iterator[Path]:
    """Name a file that takes its place only when all of it is written.

    Parameters
    ----------
    path : Path
        Where it goes.

    Yields
    ------
    Path
        In the same directory; the caller makes a file there.

    Raises
    ------
    CatalogError
        If it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{ULID()}.partial")
    try:
        yield beside
        with beside.open("rb+") as stream:
            os.fsync(stream.fileno())
        beside.replace(path)
    except OSError as error:
        raise CatalogError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)
