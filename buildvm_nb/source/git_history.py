"""A line of commits: what lies between two of them, oldest first."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from buildvm_nb.errors import SourceError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.case import GitSource
from buildvm_nb.source.archive import local_path
from buildvm_nb.source.git import choose_commit
from buildvm_nb.source.git_command import GitFailed, git
from buildvm_nb.source.git_mirror import open_mirror
from buildvm_nb.source.git_repository import Repository, is_remote, open_local

__all__ = ["Commit", "list_commits"]

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
