"""The history of a source: its commits, or the versions of a package, to choose one from."""

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path

from debian.changelog import ChangeBlock, Changelog
from packaging.version import Version

from buildvm_nb.errors import SourceError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.case import DebianSource, GitSource, PyPISource
from buildvm_nb.model.instants import EARLIEST, LATEST_CLOCK
from buildvm_nb.source.archive import local_path
from buildvm_nb.source.debian import fetch_debian
from buildvm_nb.source.git_repository import Repository, git, is_remote, open_local, open_mirror
from buildvm_nb.source.pypi import IndexSettings, open_client, search, what_there_is

__all__ = ["Revision", "list_revisions"]

_FORMAT = "%H%x00%at%x00%ct%x00%an%x00%D%x00%s"
_FIELDS = 6
_PYTHON = "3.11"


@dataclass(frozen=True, kw_only=True, slots=True)
class Revision:
    """A commit, or a version of a package."""

    id: str
    """Full id of the commit, or the version."""
    dated_at: datetime | None
    """Committer date, upload or changelog date; None: a date that no guest can be set to."""
    authored_at: datetime | None = None
    """Author date of a commit."""
    author: str = ""
    subject: str = ""
    """First line of the message, or what kind of file it is."""
    names: tuple[str, ...] = ()
    """Tags and branches that stand for it."""
    source: PyPISource | DebianSource | None = None
    """What to fetch; None: a commit of the repository that was asked for."""


def list_revisions(
    source: GitSource | PyPISource | DebianSource,
    *,
    cache: Cache,
    base: Path = Path(),
    limit: int = 200_000,
    progress: Progress = SILENT,
) -> tuple[Revision, ...]:
    """List what there is of a source, the newest first.

    Parameters
    ----------
    source : GitSource, PyPISource or DebianSource
        Names repository or package; which commit or version it names does not matter. The history
        of a Debian package is its changelog's: not every version of it need be had.
    cache : Cache
        Keeps mirrors and packages.
    base : Path
        Where a relative path starts.
    limit : int
        At most so many, the newest.
    progress : Progress
        Shows fetching.

    Returns
    -------
    tuple of Revision
        By date, those without one last; then as the source has them.

    Raises
    ------
    SourceError
        If there is no such source, or nothing in it.
    HostError
        If this host lacks a program or the network.
    """
    match source:
        case GitSource():
            found = _commits(source, cache, base, limit, progress)
        case PyPISource():
            found = _releases(source.name, progress)
        case DebianSource():
            found = _changelog(source, cache, progress)
    oldest = datetime.min.replace(tzinfo=UTC)
    return tuple(sorted(found, key=lambda one: one.dated_at or oldest, reverse=True)[:limit])


def _commits(
    source: GitSource, cache: Cache, base: Path, limit: int, progress: Progress
) -> list[Revision]:
    if not is_remote(source.url):
        path = local_path(source.url, base)
        if path is None:
            raise SourceError(f"not a path of this host: {source.url}", sought=(source.url,))
        return _read_commits(open_local(path), limit, progress)
    with open_mirror(source.url, cache, progress) as mirror:
        mirror.update()
        return _read_commits(mirror.repository, limit, progress)


def _read_commits(repository: Repository, limit: int, progress: Progress) -> list[Revision]:
    with progress.task(f"read the history of {repository.origin}"):
        which = ["--all", "--date-order", f"--max-count={limit}"]
        said = git("log", "-z", f"--format={_FORMAT}", *which, "--", git_dir=repository.git_dir)
    if not said:
        raise repository.missing("the repository is empty", "name one that has commits")
    fields = iter(said.decode(errors="replace").removesuffix("\0").split("\0"))
    return [
        Revision(
            id=commit,
            dated_at=_instant(committed),
            authored_at=_instant(authored),
            author=author,
            subject=subject,
            names=_names(refs),
        )
        for commit, authored, committed, author, refs, subject in iter(
            lambda: tuple(islice(fields, _FIELDS)), ()
        )
    ]


def _names(refs: str) -> tuple[str, ...]:
    names = (name.removeprefix("HEAD -> ").removeprefix("tag: ") for name in refs.split(", "))
    return tuple(name for name in names if name not in {"", "HEAD"})


def _instant(text: str) -> datetime | None:
    moment = int(text or -1)
    if EARLIEST.timestamp() <= moment <= LATEST_CLOCK.timestamp():
        return datetime.fromtimestamp(moment, UTC)
    return None


def _releases(name: str, progress: Progress) -> list[Revision]:
    settings = IndexSettings.of_this_host()
    found: dict[str, Revision] = {}
    with progress.task(f"look up {name}"), open_client(settings) as client:
        for place in settings.places:
            for python in (None, _PYTHON):  # sdists first: they are what is built
                for package in search(client, place, name, python=python):
                    if package.version is None or package.version in found:
                        continue
                    form = "wheel" if python else "sdist"
                    link = package.link
                    told = [form, link.filename, "yanked" if link.is_yanked else ""]
                    found[package.version] = Revision(
                        id=package.version,
                        dated_at=link.upload_time,
                        subject=" ".join(word for word in told if word),
                        names=("pre-release",) if Version(package.version).is_prerelease else (),
                        source=PyPISource(name=name, version=package.version, form=form),
                    )
        if not found:
            hint = what_there_is(client, settings, name, _PYTHON)
            raise SourceError(f"no release of {name}", hint=hint)
    return [*found.values()]


def _changelog(source: DebianSource, cache: Cache, progress: Progress) -> list[Revision]:
    fetched = fetch_debian(source, cache, progress=progress)
    path = fetched.tree / fetched.top / "debian/changelog"
    text = path.read_text(encoding="utf-8", errors="replace")
    return [_version(block, source) for block in Changelog(text, strict=False)]


def _version(block: ChangeBlock, source: DebianSource) -> Revision:
    changes = [line.strip() for line in block.changes() if line.strip()]
    try:
        dated_at = parsedate_to_datetime(block.date or "").astimezone(UTC)
    except ValueError:
        dated_at = None
    version = str(block.version)
    return Revision(
        id=version,
        dated_at=dated_at,
        author=(block.author or "").partition(" <")[0],
        subject=changes[0].lstrip("* ") if changes else "",
        names=tuple((block.distributions or "").split()),
        source=DebianSource(name=source.name, version=version, suite=source.suite),
    )
