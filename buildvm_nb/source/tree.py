"""Directory trees: walked in one order, digested, written from strangers' names, copied, kept.

The digest says what a tree holds and is the same on every host: names, permission bits, link
targets and contents, nothing of owners, times or extended attributes. The stamp is cheap, reads
no contents, and tells whether a tree on disk was touched since it was written.
"""

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from buildvm_nb.errors import HostError, SourceError
from buildvm_nb.host.cache import Cache, file_digest, free_bytes
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.case import LocalSource
from buildvm_nb.model.outcome import SourceRecord

__all__ = [
    "MAX_TREE_BYTES",
    "Fetched",
    "Make",
    "TreeWriter",
    "fetch_local",
    "keep",
    "single_directory",
    "tree_digest",
    "tree_stamp",
    "walk_tree",
]

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

    Returns: SHA-256 over names, modes, sizes, modification times of files, and link targets.
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

    Returns: empty if the tree has more than one entry at its top, or none, or no directory.
    """
    children = _children(root)
    if len(children) == 1 and children[0].is_dir() and not children[0].is_symlink():
        return children[0].name
    return ""


# What was fetched, and how it is kept: one cache entry for each source as it was asked for.

Make = Callable[[Path, Path], tuple[SourceRecord, str]]
"""Fills a tree, with a directory for scratch files beside it; returns record and top."""

KIND = "sources"
"""Family of cache entries."""

_FORMAT = 1
"""Counts up when the same recipe gives another tree than an older version of this code."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A source on this host, ready to be given to a machine.

    The tree is shared by all who ask for the same source: never write into it, never follow its
    symbolic links on the host. Permission bits are the source's own, so nothing on disk stops a
    careless writer; what was changed is noticed at the next fetch, and fetched anew.
    """

    record: SourceRecord
    tree: Path
    """Directory with the unpacked source."""
    top: str
    """Name of the directory inside `tree` where steps start by default; empty: `tree` itself."""


def keep(
    cache: Cache,
    recipe: dict[str, Any],
    make: Make,
    *,
    label: str,
    progress: Progress = SILENT,
) -> Fetched:
    """Return a source out of the cache, made now if it is not there or was touched.

    `make`: gets an empty directory for the tree and one for scratch files; returns record and top.
    """

    def build(work: Path) -> dict[str, Any]:
        tree, scratch = work / "tree", work / "scratch"
        for directory in (tree, scratch):
            directory.mkdir()
            directory.chmod(0o755)
        record, top = make(tree, scratch)
        shutil.rmtree(scratch)
        return {
            "record": record.model_dump(mode="json"),
            "top": top,
            "stamp": tree_stamp(tree),
        }

    whole_recipe = {"format": _FORMAT, **recipe}
    place = cache.entry(KIND, whole_recipe, build, label=label, progress=progress)
    if not _is_untouched(cache, place):
        cache.remove(KIND, place.name)
        place = cache.entry(KIND, whole_recipe, build, label=label, progress=progress)
    facts = cache.record(place)["facts"]
    return Fetched(
        record=SourceRecord.parse(facts["record"]), tree=place / "tree", top=facts["top"]
    )


def _is_untouched(cache: Cache, place: Path) -> bool:
    tree = place / "tree"
    try:
        return bool(tree.is_dir() and tree_stamp(tree) == cache.record(place)["facts"]["stamp"])
    except (SourceError, HostError, OSError, KeyError):
        return False


# Directories of this host, copied as they are.
#
# Everything is copied, with permission bits, times, links and odd names, except what a version
# control system keeps for itself (``.git`` and its kin): it changes without the tree changing, and
# may hold credentials. Take a git source where a build wants to see commits.

VERSION_CONTROL = frozenset({".git", ".hg", ".svn", ".bzr"})
"""Names, at any depth, that are left out."""
_STOP_WRITING = "stop whatever writes there and try again"


def fetch_local(source: LocalSource, cache: Cache, *, base: Path, progress: Progress) -> Fetched:
    """Copy a directory.

    `cache`: where the copy is kept; left out if it lies inside the directory.
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


# Writing a tree from names that somebody else chose, without ever leaving the tree.
#
# Files and directories come first, symbolic links last, when nothing is written any more: so no
# name can lead through a link, whatever the names are. That does not depend on the care that a
# particular Python release takes in `tarfile`.

MAX_TREE_BYTES = 8 * 2**30
"""Largest tree that is written; sources of what people build stay far below."""

_MAX_ENTRIES = 2_000_000
_CHUNK = 2**20
_LATEST_S = 2**33  # the year 2242; file systems differ on what comes after
_MOST_LINKS = 64
"""Linux gives up after following 40 links; what needs more leads nowhere (path_resolution(7))."""


def safe_parts(name: str, what: str) -> tuple[str, ...]:
    """Split a relative name into its parts.

    `name`: with ``/``; a leading ``./`` and a trailing ``/`` do not count.
    Raises `SourceError` if the name is absolute, has a part ``..`` or a NUL character.
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

    `root`: an empty directory.
    `limit`: how many bytes of contents may be written.
    `links_stay_inside`: refuse symbolic links that are absolute or lead out of the tree.
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

        `mtime`: modification time in seconds since 1970; None: that of the newest file.
        """
        parts = safe_parts(name, self.what)
        self._count()
        self._make_directories(parts)
        if parts:
            self._directories[parts] = mtime

    def file(self, name: str, content: IO[bytes], *, mode: int, mtime: int) -> None:
        """Write a file; one of the same name is replaced, as by tar.

        `mode`: permission bits; group and others never may write, the owner always may.
        `mtime`: modification time in seconds since 1970; what is older counts as 1970.
        Raises `SourceError` if the name is unsafe or taken by a directory, or the tree grows too
        large.
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

        Raises `SourceError` if a name is unsafe or the target is no file written before.
        """
        existing = self.root.joinpath(*safe_parts(target, self.what))
        if not existing.is_file() or existing.is_symlink():
            raise SourceError(f"hard link to nothing in {self.what}: {name!r} -> {target!r}")
        path = self._place(name)
        path.hardlink_to(existing)

    def symlink(self, name: str, target: str, *, mtime: int = 0) -> None:
        """Note a symbolic link; `finish` makes it.

        `mtime`: modification time in seconds since 1970.
        Raises `SourceError` if the name is unsafe, or the target cannot be a link's.
        """
        parts = safe_parts(name, self.what)
        self._count()
        if not parts or not target or "\0" in target:
            raise SourceError(f"unsafe symbolic link in {self.what}: {name!r} -> {target!r}")
        self._links[parts] = (target, mtime)

    def finish(self) -> None:
        """Make the symbolic links and give directories their modes and times.

        Raises `SourceError` if a link leads out of the tree or its name is taken by a directory or
        file.
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
