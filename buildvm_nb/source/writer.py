"""Writing a tree from names that somebody else chose, without ever leaving the tree.

Files and directories come first, symbolic links last, when nothing is written any more: so no
name can lead through a link, whatever the names are. That does not depend on the care that a
particular Python release takes in `tarfile`.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from buildvm_nb.errors import SourceError

__all__ = ["MAX_TREE_BYTES", "TreeWriter", "safe_parts"]

MAX_TREE_BYTES = 8 * 2**30
"""Largest tree that is written; sources of what people build stay far below."""

_MAX_ENTRIES = 2_000_000
_CHUNK = 2**20
_LATEST_S = 2**33  # the year 2242; file systems differ on what comes after
_MOST_LINKS = 64
"""Linux gives up after following 40 links; what needs more leads nowhere (path_resolution(7))."""


def safe_parts(name: str, what: str) -> tuple[str, ...]:
    """Split a relative name into its parts.

    Parameters
    ----------
    name : str
        With ``/``; a leading ``./`` and a trailing ``/`` do not count.
    what : str
        Where the name stands, for the error.

    Returns
    -------
    tuple of str
        Empty for the tree itself.

    Raises
    ------
    SourceError
        If the name is absolute, has a part ``..`` or a NUL character.
    """
    parts = tuple(part for part in name.split("/") if part not in {"", "."})
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise SourceError(f"unsafe name in {what}: {name!r}; allowed: relative, without '..'")
    return parts


def _set_time(path: Path, moment: int) -> None:
    seconds = min(max(moment, 0), _LATEST_S)
    os.utime(path, (seconds, seconds), follow_symlinks=False)


class TreeWriter:
    """Writes one tree; call `finish` when all is written.

    Parameters
    ----------
    root : Path
        An empty directory.
    what : str
        What is being unpacked, for errors.
    limit : int
        How many bytes of contents may be written.
    links_stay_inside : bool
        Refuse symbolic links that are absolute or lead out of the tree.
    """

    def __init__(
        self,
        root: Path,
        what: str,
        *,
        limit: int = MAX_TREE_BYTES,
        links_stay_inside: bool = True,
    ) -> None:
        self.root = root
        self.what = what
        self._room = limit
        self._limit = limit
        self._entries = 0
        self._strict = links_stay_inside
        self._links: dict[tuple[str, ...], tuple[str, int]] = {}
        self._directories: dict[tuple[str, ...], int | None] = {}
        self._latest = 0

    def directory(self, name: str, *, mtime: int | None = None) -> None:
        """Make a directory, with its parents; that it is there already is fine.

        Parameters
        ----------
        name : str
            Relative to the tree.
        mtime : int, optional
            Modification time in seconds since 1970; None: that of the newest file.
        """
        parts = safe_parts(name, self.what)
        self._count()
        self._make_directories(parts)
        if parts:
            self._directories[parts] = mtime

    def file(self, name: str, content: IO[bytes], *, mode: int, mtime: int) -> None:
        """Write a file; one of the same name is replaced, as by tar.

        Parameters
        ----------
        name : str
            Relative to the tree.
        content : binary file
            Read to its end.
        mode : int
            Permission bits; group and others never may write, the owner always may.
        mtime : int
            Modification time in seconds since 1970; what is older counts as 1970.

        Raises
        ------
        SourceError
            If the name is unsafe or taken by a directory, or the tree grows too large.
        """
        path = self._place(name)
        with path.open("xb") as target:
            while chunk := content.read(_CHUNK):
                self._room -= len(chunk)
                if self._room < 0:
                    raise SourceError(
                        f"unpacks to more than {self._limit // 2**20} MiB: {self.what}; this "
                        "looks like a decompression bomb"
                    )
                target.write(chunk)
        path.chmod((mode & 0o755) | 0o600)
        self._latest = max(self._latest, mtime)
        _set_time(path, mtime)

    def hardlink(self, name: str, target: str) -> None:
        """Give a file that was written before a second name.

        Parameters
        ----------
        name, target : str
            Relative to the tree.

        Raises
        ------
        SourceError
            If a name is unsafe or the target is no file written before.
        """
        existing = self.root.joinpath(*safe_parts(target, self.what))
        if not existing.is_file() or existing.is_symlink():
            raise SourceError(f"hard link to nothing in {self.what}: {name!r} -> {target!r}")
        path = self._place(name)
        path.hardlink_to(existing)

    def symlink(self, name: str, target: str, *, mtime: int = 0) -> None:
        """Note a symbolic link; `finish` makes it.

        Parameters
        ----------
        name : str
            Relative to the tree.
        target : str
            What it shall hold.
        mtime : int
            Modification time in seconds since 1970.

        Raises
        ------
        SourceError
            If the name is unsafe, or the target cannot be a link's.
        """
        parts = safe_parts(name, self.what)
        self._count()
        if not parts or not target or "\0" in target:
            raise SourceError(f"unsafe symbolic link in {self.what}: {name!r} -> {target!r}")
        self._links[parts] = (target, mtime)

    def finish(self) -> None:
        """Make the symbolic links and give directories their modes and times.

        Raises
        ------
        SourceError
            If a link leads out of the tree or its name is taken by a directory or file.
        """
        if self._strict:
            for parts, (target, _) in self._links.items():
                self._check_inside(parts, target)
        for parts, (target, mtime) in self._links.items():
            self._make_directories(parts[:-1])
            path = self.root.joinpath(*parts)
            if os.path.lexists(path):
                raise SourceError(f"a link and something else share a name: {self._shown(parts)}")
            path.symlink_to(target)
            _set_time(path, mtime)
        for parts in sorted(self._directories, key=len, reverse=True):
            path = self.root.joinpath(*parts)
            path.chmod(0o755)
            moment = self._directories[parts]
            _set_time(path, self._latest if moment is None else moment)

    def _place(self, name: str) -> Path:
        """Return where a file goes, its parents made and its name free."""
        parts = safe_parts(name, self.what)
        self._count()
        if not parts:
            raise SourceError(f"unsafe name in {self.what}: {name!r}; it names no file")
        self._make_directories(parts[:-1])
        self._links.pop(parts, None)
        path = self.root.joinpath(*parts)
        if path.is_dir():
            raise SourceError(f"a file and a directory share a name: {self._shown(parts)}")
        path.unlink(missing_ok=True)
        return path

    def _make_directories(self, parts: tuple[str, ...]) -> None:
        for end in range(1, len(parts) + 1):
            if parts[:end] in self._directories:
                continue
            path = self.root.joinpath(*parts[:end])
            if os.path.lexists(path):
                raise SourceError(f"a file and a directory share a name: {self._shown(parts)}")
            path.mkdir()
            self._directories[parts[:end]] = None

    def _count(self) -> None:
        self._entries += 1
        if self._entries > _MAX_ENTRIES:
            raise SourceError(f"more than {_MAX_ENTRIES} entries: {self.what}")

    def _check_inside(self, parts: tuple[str, ...], target: str) -> None:
        """Follow a link through the links of this tree, as the kernel would."""
        reached = list(parts[:-1])
        ahead = list(self._steps(target, parts))
        followed = 0
        while ahead and followed <= _MOST_LINKS:
            step = ahead.pop(0)
            if step == "..":
                if not reached:
                    raise self._leads_out(parts, target)
                reached.pop()
                continue
            reached.append(step)
            if link := self._links.get(tuple(reached)):
                followed += 1
                reached.pop()
                ahead[:0] = self._steps(link[0], parts)

    def _steps(self, target: str, parts: tuple[str, ...]) -> Iterator[str]:
        if target.startswith("/"):
            raise self._leads_out(parts, target)
        return (step for step in target.split("/") if step not in {"", "."})

    def _leads_out(self, parts: tuple[str, ...], target: str) -> SourceError:
        return SourceError(
            f"a symbolic link leads out of {self.what}: {'/'.join(parts)!r} -> {target!r}; "
            "allowed: targets inside the archive"
        )

    def _shown(self, parts: tuple[str, ...]) -> str:
        return f"{'/'.join(parts)!r} in {self.what}"
