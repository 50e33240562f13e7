"""Reading the objects of a git repository through one long-lived ``git cat-file --batch``.

References
----------
git-cat-file(1), batch output.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from buildvm_nb.errors import HostError, SourceError
from buildvm_nb.host.tools import find_tool
from buildvm_nb.source.git_command import NO_PROTOCOL, git_environment

__all__ = ["GitObjects", "MissingObjectError", "git_objects"]


class MissingObjectError(SourceError):
    """A repository does not hold an object that it should."""


class GitObjects:
    """Reads objects of one repository, one after the other.

    Parameters
    ----------
    process : Popen
        ``git cat-file --batch``.
    where : str
        The repository, for errors.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", where: str) -> None:
        if process.stdin is None or process.stdout is None:
            raise HostError("git was started without pipes")
        self._asks: IO[bytes] = process.stdin
        self._answers: IO[bytes] = process.stdout
        self._where = where

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open an object's content.

        Parameters
        ----------
        name : str
            Object id.

        Yields
        ------
        binary file
            Ends where the object ends.

        Raises
        ------
        MissingObjectError
            If the repository does not hold it, as shallow, partial and damaged ones do.
        """
        try:
            self._asks.write(f"{name}\n".encode())
            self._asks.flush()
            header = self._answers.readline().split()
        except BrokenPipeError:
            header = []
        if len(header) != 3:  # noqa: PLR2004 - id, type, size
            raise MissingObjectError(
                f"the repository lacks object {name}: {self._where}",
                sought=(self._where,),
                hint="it is a shallow or partial clone, or damaged; make a full clone of it",
            )
        content = _Part(self._answers, int(header[2]))
        yield content  # type: ignore[misc]
        while content.read(2**20):
            pass
        self._answers.read(1)

    def read(self, name: str) -> bytes:
        """Return an object's content.

        Parameters
        ----------
        name : str
            Object id.

        Returns
        -------
        bytes
            All of it.
        """
        with self.open(name) as content:
            return content.read()


class _Part:
    """The next so many bytes of a stream."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream = stream
        self._left = size

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._stream.read(wanted)
        if wanted and not data:
            raise MissingObjectError(
                "git ended in the middle of an object; the repository is damaged"
            )
        self._left -= len(data)
        return data


@contextmanager
def git_objects(git_dir: Path, where: str) -> Iterator[GitObjects]:
    """Start reading objects of a repository.

    Parameters
    ----------
    git_dir : Path
        Its git directory.
    where : str
        How it is called in errors.

    Yields
    ------
    GitObjects
        Until the context ends.
    """
    process = subprocess.Popen(
        [find_tool("git"), f"--git-dir={git_dir}", "cat-file", "--batch"],
        env=git_environment(NO_PROTOCOL),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        try:
            yield GitObjects(process, where)
        finally:
            process.kill()
