"""Mirrors of git repositories elsewhere, kept in the cache and updated when need be."""

import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from buildvm_nb.errors import BuildVMError, HostError, SourceError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import Progress
from buildvm_nb.model.instants import now
from buildvm_nb.source.download import is_name_service_down, redacted
from buildvm_nb.source.git_command import REMOTE_PROTOCOLS, GitFailed, git
from buildvm_nb.source.git_repository import Repository, has_commit

__all__ = ["Mirror", "open_mirror"]

_NO_NETWORK = re.compile(
    r"Temporary failure in name resolution|Network is unreachable|Could not resolve proxy"
    r"|Connection to proxy|Proxy CONNECT aborted|No route to host",
    re.IGNORECASE,
)
_DAMAGED = re.compile(
    r"bad object|did not send all necessary objects|corrupt|unable to read|not a valid object"
    r"|inflate|index-pack|packfile",
    re.IGNORECASE,
)
_MIRRORS = "git-mirrors"


class Mirror:
    """A bare copy of a repository's branches and tags, in the cache.

    Parameters
    ----------
    git_dir : Path
        Where it is.
    url : str
        What it is a copy of.
    progress : Progress
        Shows fetching.
    """

    def __init__(self, git_dir: Path, url: str, progress: Progress) -> None:
        self.repository = Repository(git_dir=git_dir, origin=redacted(url), url=url, local=False)
        self._url = url
        self._progress = progress
        self._stamp = git_dir / "buildvm-updated-at"

    def updated_at(self) -> datetime | None:
        """Return when the mirror was last brought up to date.

        Returns
        -------
        datetime or None
            By this host's clock; None: never.
        """
        try:
            git("rev-parse", "--git-dir", git_dir=self.repository.git_dir)
            return datetime.fromisoformat(self._stamp.read_text())
        except (GitFailed, OSError, ValueError):
            return None

    def update(self, *, anew: bool = False) -> None:
        """Fetch all branches and tags; what upstream dropped is kept.

        Parameters
        ----------
        anew : bool
            Throw away what is there first, because it is damaged.

        Raises
        ------
        SourceError
            If the repository is not there, asks for a password or does not answer.
        HostError
            If this host has no network.
        """
        started = now()
        git_dir = self.repository.git_dir
        with self._progress.task(f"fetch {self.repository.origin}"):
            if anew := anew or self.updated_at() is None:
                shutil.rmtree(git_dir, ignore_errors=True)
                git("init", "--quiet", "--bare", "--template=", str(git_dir))
            try:
                self._fetch("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
            except SourceError as error:
                if anew or not _DAMAGED.search(error.message):
                    raise
                return self.update(anew=True)
            self._follow_default_branch()
        self._stamp.write_text(started.isoformat())
        return None

    def ensure(self, commit: str) -> None:
        """Have a commit, fetched if need be, also one that no branch or tag leads to.

        Parameters
        ----------
        commit : str
            Full id.

        Raises
        ------
        SourceError
            If the repository cannot be had or does not give the commit.
        HostError
            If this host has no network.
        """
        if has_commit(self.repository.git_dir, commit):
            return
        self.update()
        if has_commit(self.repository.git_dir, commit):
            return
        try:
            self._fetch(f"+{commit}:refs/buildvm/{commit}")
        except SourceError as error:
            raise self.repository.missing(f"no commit {commit}") from error

    def _fetch(self, *refs: str) -> None:
        options = ["--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules"]
        try:
            git(
                "fetch", *options, "--force", "--update-head-ok", self._url, *refs,
                git_dir=self.repository.git_dir, protocols=REMOTE_PROTOCOLS,
            )  # fmt: skip
        except GitFailed as error:
            raise self._cannot(error) from error

    def _follow_default_branch(self) -> None:
        try:
            said = git("ls-remote", "--symref", self._url, "HEAD", protocols=REMOTE_PROTOCOLS)
        except GitFailed as error:
            raise self._cannot(error) from error
        if match := re.match(rb"ref: (refs/heads/\S+)\tHEAD", said):
            git("symbolic-ref", "HEAD", match[1].decode(), git_dir=self.repository.git_dir)

    def _cannot(self, error: GitFailed) -> BuildVMError:
        said = error.said.replace(self._url, self.repository.origin)[-1000:]
        message = f"cannot be fetched: {self.repository.origin}: {said}"
        unknown = re.search(r"Could not resolve host(?:name)?:? (\S+)", said, re.IGNORECASE)
        if _NO_NETWORK.search(said) or (unknown and is_name_service_down(unknown[1].strip(":"))):
            return HostError(message, hint="check this host's network and proxy")
        if "No space left on device" in said:
            return HostError(message, hint="make room or choose another --cache")
        return SourceError(
            message,
            sought=(self.repository.origin,),
            hint="the repository moved, is private or is gone; look for a copy, for example in an "
            "archive of software, or name a local clone",
        )


@contextmanager
def open_mirror(url: str, cache: Cache, progress: Progress) -> Iterator[Mirror]:
    """Open the mirror of a repository, held against other processes while in use.

    Parameters
    ----------
    url : str
        Where the repository is.
    cache : Cache
        Where its mirror is kept.
    progress : Progress
        Shows fetching.

    Yields
    ------
    Mirror
        Perhaps still empty: see `Mirror.update`.

    Raises
    ------
    HostError
        If the cache cannot be written.
    """
    key = hashlib.sha256(url.encode()).hexdigest()
    try:
        with cache.lock(_MIRRORS, key):
            cache.hold(_MIRRORS, key)
            yield Mirror(cache.path(_MIRRORS, key), url, progress)
    except OSError as error:
        raise HostError(
            f"cannot write to the cache: {error.strerror}: {cache.root / _MIRRORS}",
            hint="make room or choose another --cache",
        ) from error
