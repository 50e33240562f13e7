"""Git repositories on this host: told from URLs, opened where they lie, asked for commits."""

import re
from dataclasses import dataclass
from pathlib import Path

from buildvm_nb.errors import SourceError, UsageError
from buildvm_nb.source.download import redacted
from buildvm_nb.source.git_command import GitFailed, git

__all__ = [
    "Repository",
    "has_commit",
    "is_remote",
    "open_local",
    "repository_name",
]

_REMOTE = re.compile(r"^(https?|ssh|git|git\+ssh|ssh\+git)://")
_SCP = re.compile(r"^[\w.-]+(@[\w.-]+)?:(?!/{2})[^:]")


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository that can be read on this host."""

    git_dir: Path
    origin: str
    """Path or URL, without credentials, for records and errors."""
    url: str
    """What relative URLs of its submodules start from."""
    local: bool
    """Whether the user pointed at this host's own file system."""

    def missing(self, what: str, hint: str = "") -> SourceError:
        """Return the error that something is not in this repository.

        Parameters
        ----------
        what : str
            What was looked for, as a sentence's start.
        hint : str
            The next step for the user.

        Returns
        -------
        SourceError
            To be raised.
        """
        return SourceError(f"{what}: {self.origin}", sought=(self.origin,), hint=hint)


def has_commit(git_dir: Path, commit: str) -> bool:
    """Tell whether a repository holds a commit.

    Parameters
    ----------
    git_dir : Path
        Its git directory.
    commit : str
        Full id of a commit or of a tag of one.

    Returns
    -------
    bool
        False also if there is no repository.
    """
    try:
        git("cat-file", "-e", f"{commit}^{{commit}}", git_dir=git_dir)
    except GitFailed:
        return False
    return True


def is_remote(url: str) -> bool:
    """Tell whether something is the URL of a repository elsewhere.

    Parameters
    ----------
    url : str
        URL, scp-like address or path.

    Returns
    -------
    bool
        False for paths and ``file`` URLs.

    Raises
    ------
    UsageError
        If it is a URL that git must not be given, such as ``ext::``.
    """
    if _REMOTE.match(url):
        return True
    if "::" in url or ("://" in url and not url.startswith("file://")):
        raise UsageError(
            f"unknown kind of repository URL: {redacted(url)}; allowed: http, https, ssh, git, "
            "file, host:path, or a path"
        )
    return bool(_SCP.match(url)) and not Path(url).exists()


def repository_name(url: str) -> str:
    """Return the name of a repository, as ``git clone`` would call its directory.

    Parameters
    ----------
    url : str
        URL or absolute path.

    Returns
    -------
    str
        One path component.
    """
    text = url.rstrip("/").removesuffix("/.git").removesuffix(".git").rstrip("/")
    name = re.split(r"[/:]", text)[-1]
    return name if name not in {"", ".", ".."} else "source"


def open_local(path: Path) -> Repository:
    """Open a repository of this host, bare or with a work tree, without changing it.

    Parameters
    ----------
    path : Path
        The work tree's top directory or the git directory.

    Returns
    -------
    Repository
        Ready to be read.

    Raises
    ------
    SourceError
        If there is no repository.
    """
    if not path.is_dir():
        raise SourceError(f"no such directory: {path}", sought=(str(path),))
    path = path.resolve()
    try:
        said = git("-C", str(path), "rev-parse", "--absolute-git-dir", ceiling=str(path.parent))
    except GitFailed as error:
        raise SourceError(
            f"not a git repository: {path}: {error.said}",
            sought=(str(path),),
            hint="name the repository's top directory; a plain directory is a source of kind local",
        ) from error
    git_dir = Path(said.decode(errors="surrogateescape").removesuffix("\n"))
    try:
        url = git("config", "--get", "remote.origin.url", git_dir=git_dir).decode().strip()
    except GitFailed:
        url = ""
    return Repository(git_dir=git_dir, origin=str(path), url=url or str(path), local=True)
