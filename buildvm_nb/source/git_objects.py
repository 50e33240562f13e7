"""A commit's tree, read from git's objects and written to disk byte for byte.

References
----------
git-cat-file(1), batch output.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from buildvm_nb.errors import HostError, SourceError, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.process import find_tool
from buildvm_nb.host.progress import Progress
from buildvm_nb.source.download import redacted
from buildvm_nb.source.git_repository import (
    NO_PROTOCOL,
    GitFailed,
    Repository,
    git,
    git_environment,
    has_commit,
    is_remote,
    open_local,
    open_mirror,
)
from buildvm_nb.source.tree import TreeWriter

__all__ = [
    "MissingObjectError",
    "write_commit",
    "write_submodules",
]


class MissingObjectError(SourceError):
    """A repository does not hold an object that it should."""


class GitObjects:
    """Reads objects of one repository, one after the other."""

    def __init__(self, process: "subprocess.Popen[bytes]", where: str) -> None:
        if process.stdin is None or process.stdout is None:
            raise HostError("git was started without pipes")
        self._asks: IO[bytes] = process.stdin
        self._answers: IO[bytes] = process.stdout
        self._where = where

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open an object's content.

        Raises `MissingObjectError` if the repository does not hold it, as shallow, partial and
        damaged ones do.
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
        """Return an object's content."""
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
    """Start reading objects of a repository."""
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


# A commit's tree, written to disk byte for byte as git recorded it.
#
# Blobs are read and written by us, so nothing alters them: no end-of-line conversion, no filter, no
# ``export-ignore`` or ``export-subst``, no LFS download. What results is what the commit's tree id,
# and so the commit id, stands for.
#
# References: gitmodules(5); git-ls-tree(1), output format; git-submodule(1), on relative URLs.

_MOST_NESTED = 16


@dataclass(frozen=True, kw_only=True)
class Submodule:
    """A place in a tree where another repository's commit belongs."""

    path: str
    """Where it goes, from the top of the tree that is written."""
    commit: str
    url: str
    clone: Path | None
    """Git directory of the clone that the superproject may have of it."""
    local_allowed: bool
    """Whether the superproject is on this host, so that its submodules may be as well."""
    depth: int = 1


def write_commit(
    repository: Repository, commit: str, writer: TreeWriter, place: str, moment: int
) -> list[Submodule]:
    """Write the tree of a commit.

    `moment`: modification time of everything, in seconds since 1970.
    Returns: what is still to be written; their directories are there, empty.
    Raises `SourceError` if objects are missing or a name in the tree is unsafe.
    """
    try:
        listing = git("ls-tree", "-r", "-z", "--full-tree", commit, git_dir=repository.git_dir)
    except GitFailed as error:
        raise repository.missing(f"commit {commit} cannot be read ({error.said})") from error
    writer.directory(place, mtime=moment)
    links: dict[str, str] = {}
    modules = ""
    with git_objects(repository.git_dir, repository.origin) as objects:
        for line in listing.decode(errors="surrogateescape").split("\0")[:-1]:
            facts, _, name = line.partition("\t")
            mode, _, object_id = facts.split(" ")
            _check_name(name, repository)
            if mode == "160000":
                writer.directory(f"{place}/{name}", mtime=moment)
                links[name] = object_id
                continue
            if name == ".gitmodules" and mode != "120000":
                modules = object_id
            _write_blob(objects, object_id, mode, f"{place}/{name}", (writer, moment))
    urls = _submodule_urls(repository, modules) if links and modules else {}
    return [_submodule(repository, place, path, links[path], urls.get(path)) for path in links]


def _check_name(name: str, repository: Repository) -> None:
    if any(part.lower() in {".git", "", ".", ".."} for part in name.split("/")):
        raise SourceError(
            f"unsafe name in the tree: {name!r} in {repository.origin}",
            sought=(repository.origin,),
        )


def _write_blob(
    objects: GitObjects, object_id: str, mode: str, name: str, target: tuple[TreeWriter, int]
) -> None:
    writer, moment = target
    if mode == "120000":
        link = objects.read(object_id).decode(errors="surrogateescape")
        writer.symlink(name, link, mtime=moment)
        return
    with objects.open(object_id) as content:
        writer.file(name, content, mode=0o755 if mode == "100755" else 0o644, mtime=moment)


def _submodule_urls(repository: Repository, blob: str) -> dict[str, tuple[str, str]]:
    """Return name and URL of each submodule by its path."""
    try:
        said = git("config", "--blob", blob, "--list", "-z", git_dir=repository.git_dir)
    except GitFailed as error:
        raise repository.missing(f".gitmodules cannot be read ({error.said})") from error
    found: dict[str, dict[str, str]] = {}
    for item in said.decode(errors="surrogateescape").split("\0")[:-1]:
        key, _, value = item.partition("\n")
        if key.startswith("submodule.") and key.count(".") > 1:
            name, _, variable = key.removeprefix("submodule.").rpartition(".")
            found.setdefault(name, {})[variable] = value
    return {
        facts["path"].rstrip("/"): (name, facts["url"])
        for name, facts in found.items()
        if "path" in facts and "url" in facts
    }


def _submodule(
    repository: Repository, place: str, path: str, commit: str, told: tuple[str, str] | None
) -> Submodule:
    if told is None:
        raise repository.missing(
            f"submodule {path} (commit {commit}) has no URL in .gitmodules",
            "leave submodules out with submodules = false",
        )
    name, url = told
    inside = PurePosixPath(name)
    trusted = repository.local and ".." not in inside.parts and not inside.is_absolute()
    return Submodule(
        path=f"{place}/{path}",
        commit=commit,
        url=_resolved(url, repository.url),
        clone=repository.git_dir / "modules" / inside if trusted else None,
        local_allowed=repository.local,
    )


def _resolved(url: str, base: str) -> str:
    """Return a submodule's URL, which may be relative to its superproject's."""
    if not url.startswith(("./", "../")):
        return url
    base, separator = base.rstrip("/"), "/"
    while url.startswith(("./", "../")):
        if url.startswith("../"):
            end = base.rfind("/") if "/" in base else base.rfind(":")
            base, separator = base[: max(end, 0)], base[end : end + 1] or "/"
        url = url.partition("/")[2]
    return f"{base}{separator}{url.rstrip('/')}"


def write_submodules(
    submodules: list[Submodule],
    writer: TreeWriter,
    moment: int,
    *,
    cache: Cache,
    progress: Progress,
) -> None:
    """Write submodules and theirs, at the commits that their superprojects record.

    `moment`: modification time of everything, in seconds since 1970.
    """
    waiting = list(submodules)
    while waiting:
        submodule = waiting.pop(0)
        try:
            with _opened(submodule, cache, progress) as repository:
                found = write_commit(repository, submodule.commit, writer, submodule.path, moment)
        except (SourceError, UsageError) as error:
            sought = error.sought if isinstance(error, SourceError) else ()
            shown = submodule.path.partition("/")[2]
            raise SourceError(
                f"submodule {shown} at commit {submodule.commit} cannot be had: {error.message}",
                sought=sought or (redacted(submodule.url),),
                hint=error.hint or "leave submodules out with submodules = false",
            ) from error
        waiting += [_deeper(each, submodule.depth) for each in found]


def _deeper(submodule: Submodule, depth: int) -> Submodule:
    return Submodule(**{**vars(submodule), "depth": depth + 1})


@contextmanager
def _opened(submodule: Submodule, cache: Cache, progress: Progress) -> Iterator[Repository]:
    if submodule.clone and has_commit(submodule.clone, submodule.commit):
        yield Repository(
            git_dir=submodule.clone,
            origin=str(submodule.clone),
            url=submodule.url,
            local=True,
        )
        return
    if submodule.url.startswith("-"):
        raise UsageError(f"not a repository URL: {submodule.url}")
    if submodule.depth > _MOST_NESTED:
        raise SourceError(f"it is nested more than {_MOST_NESTED} deep")
    if is_remote(submodule.url):
        with open_mirror(submodule.url, cache, progress) as mirror:
            mirror.ensure(submodule.commit)
            yield mirror.repository
        return
    if not submodule.local_allowed:
        raise UsageError(f"a remote repository may not name a path of this host: {submodule.url}")
    repository = open_local(Path(submodule.url.removeprefix("file://")))
    if not has_commit(repository.git_dir, submodule.commit):
        raise repository.missing(f"no commit {submodule.commit}")
    yield repository
