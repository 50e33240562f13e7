"""Mirrors of git repositories elsewhere, kept in the cache and updated when need be."""

import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from buildvm_nb.errors import BuildVMError, HostError, SourceError, Unreachable
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
_GONE = re.compile(
    r"repository .*not found|requested URL returned error: 4(04|10)\b|could not read Username"
    r"|Authentication failed"
    r"|does not appear to be a git repository|repository not exported|remote error: .*not found"
    r"|couldn't find remote ref|no such remote ref|not our ref|unadvertised object"
    r"|Cannot obtain needed object",
    re.IGNORECASE,
)
"""What a server says of a repository or commit that it does not have, or not for everybody.

Of one that is not public forges tell nothing, but ask for a name: nobody may know that it is there.
"""
_TROUBLE = re.compile(r"(http_code = |returned error: )(?!404|410)\d")
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
            If its server says that it is not there, or not for everybody.
        HostError
            If it cannot be fetched for another reason.
        """
        started = now()
        git_dir = self.repository.git_dir
        with self._progress.task(f"fetch {self.repository.origin}"):
            if anew := anew or self.updated_at() is None:
                shutil.rmtree(git_dir, ignore_errors=True)
                git("init", "--quiet", "--bare", "--template=", str(git_dir))
            try:
                self._fetch("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
            except (SourceError, HostError) as error:
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
            If its server says that repository or commit is not there.
        HostError
            If it cannot be fetched for another reason.
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
        self._clear_locks()
        options = ["--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules"]
        try:
            git(
                "fetch", *options, "--force", "--update-head-ok", self._url, *refs,
                git_dir=self.repository.git_dir, protocols=REMOTE_PROTOCOLS,
            )  # fmt: skip
        except GitFailed as error:
            raise self._cannot(error) from error

    def _clear_locks(self) -> None:
        """Remove what a git that was killed left behind: who holds the mirror is alone in it."""
        for path in self.repository.git_dir.rglob("*.lock"):
            path.unlink(missing_ok=True)

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
            return Unreachable(message, hint="check this host's network and proxy")
        if "No space left on device" in said:
            return HostError(message, hint="make room or choose another --cache")
        if _GONE.search(said) and not _TROUBLE.search(said):
            return SourceError(
                message,
                sought=(self.repository.origin,),
                hint="the repository moved, is private or is gone; look for a copy, for example in "
                "an archive of software, or name a local clone",
            )
        return Unreachable(message, hint="try again later, or name a local clone")


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
