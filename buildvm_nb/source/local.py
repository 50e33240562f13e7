"""Directories of this host, copied as they are.

Everything is copied, with permission bits, times, links and odd names, except what a version
control system keeps for itself (``.git`` and its kin): it changes without the tree changing, and
may hold credentials. Take a git source where a build wants to see commits.
"""

import shutil
from pathlib import Path

from buildvm_nb.errors import HostError, SourceError
from buildvm_nb.host.cache import Cache, free_bytes
from buildvm_nb.host.progress import Progress
from buildvm_nb.model.case import LocalSource
from buildvm_nb.model.outcome import SourceRecord
from buildvm_nb.source.store import Fetched, keep
from buildvm_nb.source.tree import TreeEntry, tree_digest, walk_tree

__all__ = ["VERSION_CONTROL", "fetch_local"]

VERSION_CONTROL = frozenset({".git", ".hg", ".svn", ".bzr"})
"""Names, at any depth, that are left out."""
_STOP_WRITING = "stop whatever writes there and try again"


def fetch_local(source: LocalSource, cache: Cache, *, base: Path, progress: Progress) -> Fetched:
    """Copy a directory.

    Parameters
    ----------
    source : LocalSource
        Which one.
    cache : Cache
        Where the copy is kept; left out if it lies inside the directory.
    base : Path
        Where a relative path starts.
    progress : Progress
        Shows the copying.

    Returns
    -------
    Fetched
        The copy; its files lie directly in `Fetched.tree`.

    Raises
    ------
    SourceError
        If it is no directory, or holds pipes or devices.
    HostError
        If it cannot be read or changes meanwhile.
    """
    path = (base / Path(source.path).expanduser()).absolute()
    if not path.is_dir():
        what = "not a directory" if path.exists() else "no such directory"
        raise SourceError(
            f"{what}: {path}",
            sought=(str(path),),
            hint="an archive file is a source of kind archive" if path.exists() else "",
        )
    path = path.resolve()
    own = cache.root.resolve()

    def skip(candidate: Path) -> bool:
        return candidate.name in VERSION_CONTROL or candidate == own

    digest = tree_digest(path, skip=skip)

    def make(tree: Path, scratch: Path) -> tuple[SourceRecord, str]:  # noqa: ARG001 - as `keep` calls it
        entries = list(walk_tree(path, skip=skip))
        _check_room(entries, path, cache.root)
        try:
            _copy(entries, tree)
        except FileNotFoundError as error:
            raise HostError(
                f"vanished while it was copied: {error.filename}", hint=_STOP_WRITING
            ) from error
        if tree_digest(tree) != digest:
            raise HostError(f"changed while it was copied: {path}", hint=_STOP_WRITING)
        record = SourceRecord(
            kind=source.kind, name=path.name, version="", digest=digest, origin=str(path)
        )
        return record, ""

    recipe = {"kind": source.kind, "digest": digest, "origin": str(path)}
    return keep(cache, recipe, make, label=f"copy {path.name}", progress=progress)


def _check_room(entries: list[TreeEntry], path: Path, target: Path) -> None:
    size = sum(entry.status.st_size for entry in entries if entry.kind == "file")
    if size > (free := free_bytes(target)):
        raise HostError(
            f"no room to copy {path} ({size // 2**20} MiB): {free // 2**20} MiB are free in "
            f"{target}",
            hint="make room, choose another --cache, or keep large files out of the directory",
        )


def _copy(entries: list[TreeEntry], tree: Path) -> None:
    for entry in entries:
        target = tree / entry.name
        if entry.kind == "directory":
            target.mkdir()
            continue
        shutil.copy2(entry.path, target, follow_symlinks=False)
        if entry.kind == "file":
            target.chmod(entry.mode)
    for entry in reversed(entries):
        if entry.kind == "directory":
            target = tree / entry.name
            shutil.copystat(entry.path, target)
            target.chmod(entry.mode)
