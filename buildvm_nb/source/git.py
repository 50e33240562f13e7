"""Git sources: any commit, tag, branch or short id, or what a branch was before a date.

*Before a date* follows first parents: the branch's own line, as somebody who cloned it then would
have got it, without commits that were merged later. Among these it takes the newest committer
date strictly before the instant, looking at all of them, since clocks of committers go wrong and
dates are not in order everywhere.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from buildvm_nb.errors import SourceError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.case import GitSource
from buildvm_nb.model.instants import EARLIEST, LATEST, format_instant
from buildvm_nb.model.outcome import SourceRecord
from buildvm_nb.source.archive import local_path
from buildvm_nb.source.download import redacted
from buildvm_nb.source.git_objects import MissingObjectError, write_commit, write_submodules
from buildvm_nb.source.git_repository import (
    GitFailed,
    Mirror,
    Repository,
    git,
    is_remote,
    open_local,
    open_mirror,
    repository_name,
)
from buildvm_nb.source.tree import Fetched, Make, TreeWriter, keep, tree_digest

__all__ = [
    "Commit",
    "fetch_git",
    "list_commits",
]

_FULL_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_ID = re.compile(r"[0-9a-f]{4,64}", re.IGNORECASE)


def fetch_git(source: GitSource, cache: Cache, *, base: Path, progress: Progress) -> Fetched:
    """Write the tree of a commit.

    Returns: its top directory is named after the repository, every time in it is the commit's.
    """
    fetching = _Fetching(source, cache, progress)
    if is_remote(source.url):
        return fetching.from_mirror()
    path = local_path(source.url, base)
    if path is None:
        raise SourceError(f"not a path of this host: {source.url}", sought=(source.url,))
    return fetching.from_path(path)


class _Fetching:
    """One source being fetched."""

    def __init__(self, source: GitSource, cache: Cache, progress: Progress) -> None:
        self._source = source
        self._cache = cache
        self._progress = progress

    def from_path(self, path: Path) -> Fetched:
        repository = open_local(path)
        commit = choose_commit(repository, self._source)

        def make(tree: Path, scratch: Path) -> tuple[SourceRecord, str]:  # noqa: ARG001 - see keep
            return self._write(repository, commit, tree)

        return self._keep(repository.origin, commit, make)

    def from_mirror(self) -> Fetched:
        url = self._source.url
        commit = self._source.commit or ""
        if not _FULL_ID.fullmatch(commit):
            with open_mirror(url, self._cache, self._progress) as mirror:
                _refresh(mirror, self._source)
                commit = choose_commit(mirror.repository, self._source)

        def make(tree: Path, scratch: Path) -> tuple[SourceRecord, str]:
            with open_mirror(url, self._cache, self._progress) as mirror:
                mirror.ensure(commit)
                try:
                    return self._write(mirror.repository, commit, tree)
                except MissingObjectError:
                    tree.rename(scratch / "incomplete")
                    tree.mkdir()
                    mirror.update(anew=True)
                    mirror.ensure(commit)
                    return self._write(mirror.repository, commit, tree)

        return self._keep(redacted(url), commit, make)

    def _keep(self, origin: str, commit: str, make: Make) -> Fetched:
        recipe = {
            "kind": self._source.kind,
            "origin": origin,
            "commit": commit,
            "submodules": self._source.submodules,
        }
        label = f"fetch {repository_name(origin)} {commit[:12]}"
        return keep(self._cache, recipe, make, label=label, progress=self._progress)

    def _write(self, repository: Repository, commit: str, tree: Path) -> tuple[SourceRecord, str]:
        commit, moment = _dated(repository, f"{commit}^{{commit}}")[0]
        name = repository_name(repository.origin)
        writer = TreeWriter(tree, repository.origin, links_stay_inside=False)
        submodules = write_commit(repository, commit, writer, name, moment)
        if self._source.submodules:
            write_submodules(submodules, writer, moment, cache=self._cache, progress=self._progress)
        writer.finish()
        record = SourceRecord(
            kind=self._source.kind,
            name=name,
            version=commit,
            digest=tree_digest(tree),
            dated_at=_instant(moment),
            origin=repository.origin,
        )
        return record, name


def _instant(moment: int) -> datetime | None:
    """Return an instant that a guest can be set to; None for a date beyond that."""
    if EARLIEST.timestamp() <= moment <= LATEST.timestamp():
        return datetime.fromtimestamp(moment, UTC)
    return None


def _refresh(mirror: Mirror, source: GitSource) -> None:
    """Bring a mirror up to date where what is wanted may have changed or is not there."""
    updated_at = mirror.updated_at()
    if updated_at is not None and source.before is not None and source.before <= updated_at:
        if source.branch is None or _resolved(mirror.repository, source.branch):
            return
    elif updated_at is not None and source.commit is not None:
        is_branch = _verified(mirror.repository, f"refs/heads/{source.commit}")
        is_tag = _verified(mirror.repository, f"refs/tags/{source.commit}")
        is_id = _ID.fullmatch(source.commit) and _verified(mirror.repository, source.commit)
        if is_tag or (is_id and not is_branch):
            return
    mirror.update()


def choose_commit(repository: Repository, source: GitSource) -> str:
    """Find the commit that is wanted."""
    if source.commit is not None:
        if found := _resolved(repository, source.commit):
            return found
        raise repository.missing(
            f"no commit {source.commit}",
            "give a full or short commit id, a tag or a branch that the repository has"
            + _if_shallow(repository),
        )
    branch = source.branch or "HEAD"
    tip = _resolved(repository, branch)
    if not tip:
        what = f"no branch {source.branch}" if source.branch else "no commits on its branch HEAD"
        raise repository.missing(what, "name another branch with `branch`")
    instant = source.before or EARLIEST
    line = _dated(repository, "--first-parent", tip)
    before = [dated for dated in line if dated[1] < instant.timestamp()]
    if before:
        return max(before, key=lambda dated: dated[1])[0]
    oldest = min(moment for _, moment in line)
    raise repository.missing(
        f"no commit before {format_instant(instant)}; the oldest on {branch} is of "
        f"{_shown(oldest)}",
        "choose a later date" + _if_shallow(repository),
    )


def _shown(moment: int) -> str:
    instant = _instant(moment)
    return format_instant(instant) if instant else f"{moment} s after 1970"


def _if_shallow(repository: Repository) -> str:
    said = git("rev-parse", "--is-shallow-repository", git_dir=repository.git_dir)
    return "; this is a shallow clone: make a full clone" if said.strip() == b"true" else ""


def _resolved(repository: Repository, name: str) -> str:
    """Return the id of what a name stands for: tags come before branches; empty if nothing."""
    for candidate in (f"refs/tags/{name}", f"refs/heads/{name}", f"refs/remotes/origin/{name}"):
        if not _FULL_ID.fullmatch(name) and (found := _verified(repository, candidate)):
            return found
    return _verified(repository, name)


def _verified(repository: Repository, name: str) -> str:
    try:
        said = git(
            "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", git_dir=repository.git_dir
        )
    except GitFailed:
        return ""
    return said.decode().strip()


def _dated(repository: Repository, *which: str) -> list[tuple[str, int]]:
    """Return id and committer date of commits; of one alone where one is named alone."""
    one = [] if which[0].startswith("--") else ["--max-count=1"]
    try:
        said = git("rev-list", "--timestamp", *one, *which, git_dir=repository.git_dir)
    except GitFailed as error:
        raise repository.missing(f"its history cannot be read ({error.said})") from error
    rows = (row.split() for row in said.decode().splitlines())
    return [(commit, int(moment)) for moment, commit in rows]


# A line of commits: what lies between two of them, oldest first.

_FORMAT = "%H%x00%ct%x00%s"


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One commit."""

    id: str
    """Full id."""
    committed_at: datetime
    subject: str


def list_commits(
    source: GitSource,
    older: str,
    newer: str,
    *,
    cache: Cache,
    base: Path = Path(),
    progress: Progress = SILENT,
) -> tuple[Commit, ...]:
    """List the commits from one to another along first parents: a merge counts as one.

    Parameters
    ----------
    source : GitSource
        Names the repository; which commit it names does not matter.
    older, newer : str
        Commits, tags or branches; `older` must be an ancestor of `newer`.
    cache : Cache
        Keeps mirrors of repositories elsewhere.
    base : Path
        Where a relative path starts.
    progress : Progress
        Shows fetching.

    Returns
    -------
    tuple of Commit
        Both ends and what lies between them, oldest first.

    Raises
    ------
    SourceError
        If the repository or a commit cannot be had, or `older` is no ancestor of `newer`.
    HostError
        If git is missing or this host has no network.
    """
    if not is_remote(source.url):
        path = local_path(source.url, base)
        if path is None:
            raise SourceError(f"not a path of this host: {source.url}", sought=(source.url,))
        return _listed(open_local(path), source, older, newer)
    with open_mirror(source.url, cache, progress) as mirror:
        mirror.update()
        return _listed(mirror.repository, source, older, newer)


def _listed(
    repository: Repository, source: GitSource, older: str, newer: str
) -> tuple[Commit, ...]:
    first, last = (
        choose_commit(repository, source.model_copy(update={"commit": name, "before": None}))
        for name in (older, newer)
    )
    try:
        git("merge-base", "--is-ancestor", first, last, git_dir=repository.git_dir)
    except GitFailed as error:
        raise repository.missing(
            f"commit {older} is no ancestor of {newer}", "swap them, or choose another one"
        ) from error
    between = ["--first-parent", "--reverse", f"{first}..{last}"]
    return tuple(_read(repository, ["--max-count=1", first]) + _read(repository, between))


def _read(repository: Repository, which: list[str]) -> list[Commit]:
    said = git("log", "-z", f"--format={_FORMAT}", *which, "--", git_dir=repository.git_dir)
    fields = said.decode(errors="replace").rstrip("\0").split("\0") if said else []
    return [
        Commit(id=commit, committed_at=datetime.fromtimestamp(int(moment), UTC), subject=subject)
        for commit, moment, subject in zip(fields[::3], fields[1::3], fields[2::3], strict=True)
    ]
