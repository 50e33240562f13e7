"""Git repositories: here or mirrored, read so that no setting, theirs or the user's, has a say."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from buildvm_nb.errors import BuildVMError, HostError, SourceError, Unreachable, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.process import find_tool, run_process
from buildvm_nb.host.progress import Progress
from buildvm_nb.model.instants import now
from buildvm_nb.source.download import is_name_service_down, redacted

__all__ = [
    "NO_PROTOCOL",
    "GitFailed",
    "Mirror",
    "Repository",
    "git",
    "git_environment",
    "has_commit",
    "is_remote",
    "open_local",
    "open_mirror",
    "repository_name",
]

# Running git so that neither the repository nor the user's settings have a say.
#
# Git can be made to run programs by a repository's own configuration: hooks, filters, monitors,
# transports, lazy fetches. Here it only reads objects and references and speaks known protocols,
# with the user's and the system's configuration left out and no question ever asked.
#
# References: git(1), environment variables; git-config(1), ``safe.directory``, ``protocol.allow``,
# ``uploadpack.*``, ``gc.auto``.

REMOTE_PROTOCOLS = "http:https:ssh:git"
"""Protocols to fetch by; ``file`` and ``ext`` are not among them."""

NO_PROTOCOL = "none"
"""For reading only: a partial clone then cannot fetch what it lacks, which would change it."""

_SETTINGS = {
    "safe.directory": "*",
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.askPass": "true",
    "credential.helper": "",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "60",
    "fetch.fsckObjects": "false",
    "advice.objectNameWarning": "false",
}
_KEPT = {"GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_SSH", "GIT_SSH_COMMAND", "GIT_PROXY_COMMAND"}
_SSH = "ssh -o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=30"


class GitFailed(HostError):
    """Git exited non-zero; for the caller to turn into what it means, where it can tell."""

    def __init__(self, message: str, *, said: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.said = said


def git_environment(protocols: str) -> dict[str, str]:
    """Return all variables that git shall see."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or name in _KEPT
    }
    settings = {"GIT_CONFIG_COUNT": str(len(_SETTINGS))}
    for number, (key, value) in enumerate(_SETTINGS.items()):
        settings[f"GIT_CONFIG_KEY_{number}"] = key
        settings[f"GIT_CONFIG_VALUE_{number}"] = value
    return {
        "GIT_SSH_COMMAND": _SSH,
        **kept,
        **settings,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_ALLOW_PROTOCOL": protocols,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_GRAFT_FILE": os.devnull,
        "GIT_PAGER": "cat",
        "LC_ALL": "C.UTF-8",
    }


def git(
    *arguments: str, git_dir: Path | None = None, protocols: str = NO_PROTOCOL, ceiling: str = "/"
) -> bytes:
    """Run git to its end."""
    where = [f"--git-dir={git_dir}"] if git_dir else []
    program = [find_tool("git")]
    if protocols != NO_PROTOCOL:  # it writes, and must not go on when the lock died with us
        program = [find_tool("setpriv"), "--pdeathsig", "KILL", "--", *program]
    result = run_process(
        [*program, "--no-pager", *where, *arguments],
        env={**git_environment(protocols), "GIT_CEILING_DIRECTORIES": ceiling},
    )
    if result.returncode != 0:
        said = result.stderr.decode(errors="replace").strip()
        raise GitFailed(f"git {arguments[0]} failed: {said}", said=said)
    return result.stdout


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
        """Return the error that something is not in this repository."""
        return SourceError(f"{what}: {self.origin}", sought=(self.origin,), hint=hint)


def has_commit(git_dir: Path, commit: str) -> bool:
    """Tell whether a repository holds a commit."""
    try:
        git("cat-file", "-e", f"{commit}^{{commit}}", git_dir=git_dir)
    except GitFailed:
        return False
    return True


def is_remote(url: str) -> bool:
    """Tell whether something is the URL of a repository elsewhere.

    Raises `UsageError` if it is a URL that git must not be given, such as ``ext::``.
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
    """Return the name of a repository, as ``git clone`` would call its directory."""
    text = url.rstrip("/").removesuffix("/.git").removesuffix(".git").rstrip("/")
    name = re.split(r"[/:]", text)[-1]
    return name if name not in {"", ".", ".."} else "source"


def open_local(path: Path) -> Repository:
    """Open a repository of this host, bare or with a work tree, without changing it."""
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


# Mirrors of git repositories elsewhere, kept in the cache and updated when need be.

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
    """A bare copy of a repository's branches and tags, in the cache."""

    def __init__(self, git_dir: Path, url: str, progress: Progress) -> None:
        self.repository = Repository(git_dir=git_dir, origin=redacted(url), url=url, local=False)
        self._url = url
        self._progress = progress
        self._stamp = git_dir / "buildvm-updated-at"

    def updated_at(self) -> datetime | None:
        """Return when the mirror was last brought up to date.

        Returns: by this host's clock; None: never.
        """
        try:
            git("rev-parse", "--git-dir", git_dir=self.repository.git_dir)
            return datetime.fromisoformat(self._stamp.read_text())
        except (GitFailed, OSError, ValueError):
            return None

    def update(self, *, anew: bool = False) -> None:
        """Fetch all branches and tags; what upstream dropped is kept.

        Raises `SourceError` if its server says that it is not there, or not for everybody.
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
        """Have a commit, fetched if need be, also one that no branch or tag leads to."""
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

    Yields: perhaps still empty: see `Mirror.update`.
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
