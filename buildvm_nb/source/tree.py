"""Directory trees: walked in one order, digested, stamped.

The digest says what a tree holds and is the same on every host: names, permission bits, link
targets and contents, nothing of owners, times or extended attributes. The stamp is cheap, reads
no contents, and tells whether a tree on disk was touched since it was written.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from buildvm_nb.errors import HostError, SourceError
from buildvm_nb.host.cache import file_digest

__all__ = ["TreeEntry", "single_directory", "tree_digest", "tree_stamp", "walk_tree"]

_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}
_SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


@dataclass(frozen=True, kw_only=True)
class TreeEntry:
    """One file, directory or symbolic link of a tree."""

    name: str
    """Relative to the tree, with ``/``; bytes that are no UTF-8 as `os.fsdecode` gives them."""
    path: Path
    kind: str
    """``file``, ``directory`` or ``link``."""
    status: os.stat_result

    @property
    def mode(self) -> int:
        """Permission bits; what its owner needs to keep a copy is always among them."""
        bits = stat.S_IMODE(self.status.st_mode) & 0o777
        if self.kind == "link":
            return 0o777
        return bits | (0o700 if self.kind == "directory" else 0o400)


def walk_tree(root: Path, *, skip: Callable[[Path], bool] = lambda _: False) -> Iterator[TreeEntry]:
    """Iterate over all that lies below a directory, parents first, sorted by the names' bytes.

    Sockets are passed over: they belong to a running process and hold nothing.

    Parameters
    ----------
    root : Path
        A directory; not itself among the entries.
    skip : callable
        Tells which paths to leave out, with all below them.

    Yields
    ------
    TreeEntry
        One after the other; symbolic links are not followed.

    Raises
    ------
    SourceError
        If a named pipe or device lies in the tree.
    HostError
        If a directory cannot be read.
    """
    stack = [root]
    while stack:
        path = stack.pop()
        entry = _look_at(root, path)
        if entry is None or (path != root and skip(path)):
            continue
        if path != root:
            yield entry
        if entry.kind == "directory":
            stack += sorted(_children(path), key=os.fsencode, reverse=True)


def _children(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError as error:
        raise HostError(f"cannot be read: {path}: {error.strerror}") from error


def _look_at(root: Path, path: Path) -> TreeEntry | None:
    try:
        status = path.lstat() if path != root else path.stat()
    except OSError as error:
        raise HostError(f"cannot be read: {path}: {error.strerror}") from error
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFSOCK:
        return None
    if kind not in _KINDS:
        raise SourceError(
            f"a source cannot hold {_SPECIAL.get(kind, 'a special file')}: {path}; allowed: "
            "files, directories and symbolic links",
            sought=(str(root),),
            hint="remove it or move it out of the tree",
        )
    name = "" if path == root else str(path.relative_to(root))
    return TreeEntry(name=name, path=path, kind=_KINDS[kind], status=status)


def tree_digest(root: Path, *, skip: Callable[[Path], bool] = lambda _: False) -> str:
    """Return the digest of a tree's names, permission bits, link targets and contents.

    Parameters
    ----------
    root : Path
        A directory.
    skip : callable
        Tells which paths do not count.

    Returns
    -------
    str
        SHA-256, 64 hexadecimal digits; the same for the same tree on every host.

    Raises
    ------
    SourceError
        If something in it is a named pipe or device.
    HostError
        If something in it cannot be read.
    """
    whole = hashlib.sha256()
    for entry in walk_tree(root, skip=skip):
        whole.update(f"{entry.kind} {entry.mode:o} {_content(entry)} ".encode())
        whole.update(os.fsencode(entry.name) + b"\0")
    return whole.hexdigest()


def _content(entry: TreeEntry) -> str:
    try:
        if entry.kind == "file":
            return file_digest(entry.path)
        if entry.kind == "link":
            target = os.fsencode(entry.path.readlink())
            return hashlib.sha256(target).hexdigest()
    except OSError as error:
        raise HostError(f"cannot be read: {entry.path}: {error.strerror}") from error
    return "-"


def tree_stamp(root: Path) -> str:
    """Return a digest of what the file system says about a tree, without reading contents.

    Parameters
    ----------
    root : Path
        A directory.

    Returns
    -------
    str
        SHA-256 over names, modes, sizes, modification times of files, and link targets.
    """
    whole = hashlib.sha256()
    for entry in walk_tree(root):
        facts = [entry.kind, f"{entry.mode:o}"]
        if entry.kind == "file":
            facts += [str(entry.status.st_size), str(entry.status.st_mtime_ns)]
        elif entry.kind == "link":
            facts.append(str(entry.path.readlink()))
        whole.update(os.fsencode("\0".join([entry.name, *facts])) + b"\0\0")
    return whole.hexdigest()


def single_directory(root: Path) -> str:
    """Return the name of the one directory that a tree consists of.

    Parameters
    ----------
    root : Path
        A directory.

    Returns
    -------
    str
        Empty if the tree has more than one entry at its top, or none, or no directory.
    """
    children = _children(root)
    if len(children) == 1 and children[0].is_dir() and not children[0].is_symlink():
        return children[0].name
    return ""
