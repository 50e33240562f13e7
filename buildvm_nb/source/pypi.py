"""One sdist or wheel of an exact version, from the indexes that this host's pip uses.

The file is found with unearth, pip's own finder made a library: ``pip download`` would run an
sdist's ``setup.py`` on this host to learn its metadata, and uv reads another configuration.
"""

import ast
import hashlib
import logging
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import httpx2
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from unearth import Link, Package, PackageFinder, TargetPython
from unearth.auth import MultiDomainBasicAuth
from unearth.fetchers import PyPIClient

from buildvm_nb.errors import HostError, SourceError, Unreachable, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import Progress
from buildvm_nb.model.case import PyPISource
from buildvm_nb.model.instants import format_instant
from buildvm_nb.model.outcome import SourceRecord
from buildvm_nb.source.archive import unpack
from buildvm_nb.source.download import download, network_error, redacted
from buildvm_nb.source.tree import Fetched, keep

__all__ = [
    "IndexSettings",
    "Place",
    "fetch_pypi",
    "manylinux_platforms",
    "open_client",
    "search",
    "what_there_is",
]

# What this host's pip is configured with: where packages are, and how to get there.
#
# Which indexes there are is the host's configuration (``pip config``), never the case's and never
# ours; where it names none, it is the default that the finder comes with.

_GLIBC_MINOR = 36
"""Of the oldest guest that Python wheels are unpacked for: Debian 12."""
_TRANSPORT = ("cert", "client-cert", "proxy", "timeout", "retries", "trusted-host", "cache-dir")


@dataclass(frozen=True, kw_only=True)
class Place:
    """An index, or a page or directory with links."""

    url: str
    is_index: bool

    @property
    def is_local(self) -> bool:
        """Whether it lies in this host's file system, where nothing has an upload time."""
        return self.url.startswith("file:") or "://" not in self.url


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """What pip is configured with, as far as it says where and how to look."""

    places: tuple[Place, ...]
    transport: dict[str, str]
    """How to connect: pip's option names and values."""

    @classmethod
    def of_this_host(cls) -> "IndexSettings":
        """Read pip's configuration: files and ``PIP_*`` variables."""
        command = [sys.executable, "-m", "pip", "--no-input", "config", "list"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise HostError(f"pip's configuration cannot be read: {result.stderr.strip()[-500:]}")
        settings = _merged(result.stdout)
        places = [
            Place(url=str(Path(url).expanduser()) if url.startswith("~") else url, is_index=False)
            for url in settings.get("find-links", "").split()
        ]
        if settings.get("no-index", "").lower() not in {"1", "true", "yes", "on"}:
            default = PackageFinder().sources[0]["url"]
            urls = [
                settings.get("index-url", default),
                *settings.get("extra-index-url", "").split(),
            ]
            places[:0] = [Place(url=url, is_index=True) for url in urls]
        transport = {key: settings[key] for key in _TRANSPORT if key in settings}
        return cls(places=tuple(dict.fromkeys(places)), transport=transport)


def _merged(listing: str) -> dict[str, str]:
    """Return settings by name; commands' own sections beat the global one, variables beat both."""
    ranked: dict[str, tuple[int, str]] = {}
    ranks = {"global": 0, "install": 1, "download": 2, ":env:": 3}
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        name = {"default-timeout": "timeout"}.get(name, name)
        if section in ranks and ranks[section] >= ranked.get(name, (0, ""))[0]:
            ranked[name] = (ranks[section], str(ast.literal_eval(value)))
    return {name: value for name, (_, value) in ranked.items()}


def manylinux_platforms() -> tuple[str, ...]:
    """Return the platform tags of wheels that the guests can load, best first.

    References
    ----------
    PEP 600, and PEP 513, 571, 599 for the older names.
    """
    numbered = [f"manylinux_2_{minor}_x86_64" for minor in range(_GLIBC_MINOR, 4, -1)]
    return (
        *numbered,
        "manylinux2014_x86_64",
        "manylinux2010_x86_64",
        "manylinux1_x86_64",
        "linux_x86_64",
    )


# Distribution files found in the package indexes that this host's pip is configured for.

logging.getLogger("unearth").addHandler(logging.NullHandler())  # what it says, we raise

_ANSWERS = {404, 410}
"""What an index says of a package that it does not have; all else is trouble."""
_TRIES = 3
_SHOWN_VERSIONS = 8


@contextmanager
def open_client(settings: IndexSettings) -> Iterator[PyPIClient]:
    """Open a client that reaches the indexes as pip would."""
    given = settings.transport
    try:
        verify = ssl.create_default_context(cafile=given.get("cert"))
        if "client-cert" in given:
            verify.load_cert_chain(given["client-cert"])
    except OSError as error:
        raise HostError(f"a certificate of pip's configuration cannot be read: {error}") from error
    client = PyPIClient(
        trusted_hosts=given.get("trusted-host", "").split(),
        verify=verify,
        proxy=given.get("proxy"),
        timeout=float(given.get("timeout", 30)),
        follow_redirects=True,
    )
    urls = [place.url for place in settings.places if place.is_index]
    client.auth = MultiDomainBasicAuth(prompting=False, index_urls=urls)
    with client:
        yield client


def search(
    client: PyPIClient, place: Place, requirement: str, *, python: str | None
) -> list[Package]:
    """Search a place for the files that a requirement allows.

    `python`: look for wheels that fit this Python in a guest; None: for sdists.
    Returns: best first, yanked ones included; empty if the place has none.
    """
    target = None
    if python:
        major, minor = map(int, python.split("."))
        target = TargetPython((major, minor), None, "cp", list(manylinux_platforms()))
    if place.is_local and not place.is_index and not _local(place).exists():
        return []
    finder = PackageFinder(
        session=client,  # type: ignore[arg-type]  # it misses its own protocol
        index_urls=[place.url] if place.is_index else [],
        find_links=[] if place.is_index else [place.url],
        target_python=target,
        ignore_compatibility=target is None,
        only_binary=[":all:"] if python else [],
        no_binary=[] if python else [":all:"],
    )
    for left in reversed(range(_TRIES)):
        answers: list[httpx2.Response] = []
        client.event_hooks = {"response": [answers.append]}
        try:
            matches = finder.find_matches(requirement, allow_yanked=True, allow_prereleases=True)
            found = [package for package in matches if not package.link.is_vcs]
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            if left == 0:
                raise network_error(error, place.url, configured=True) from error
        else:
            _refuse_trouble(answers, place)
            return found
        finally:
            client.event_hooks = {}
    return []


def _local(place: Place) -> Path:
    return Link(place.url).file_path if place.url.startswith("file:") else Path(place.url)


def _refuse_trouble(answers: list[httpx2.Response], place: Place) -> None:
    """Tell "there is no such package" from "I cannot say", which the finder does not."""
    for answer in answers:
        if answer.is_error and answer.status_code not in _ANSWERS:
            raise Unreachable(
                f"the package index does not serve this host: {redacted(place.url)}: it answered "
                f"{answer.status_code} {answer.reason_phrase}",
                hint="see `pip config list` for where it is configured",
            )


def what_there_is(
    client: PyPIClient,
    settings: IndexSettings,
    name: str,
    python: str,
    *,
    as_of: datetime | None = None,
) -> str:
    """Return in words which versions of a project there are.

    `as_of`: aware. Files uploaded then or later do not count; of a form that has no others, the
    first upload is told.
    """
    lines = []
    for form, fitting in {"sdist": None, "wheel": python}.items():
        found = [
            package
            for place in settings.places
            for package in search(client, place, name, python=fitting)
            if package.version
        ]
        uploads = [at for package in found if (at := package.link.upload_time)]
        if as_of:
            found = [package for package in found if _is_older(package, as_of)]
        versions = {package.version for package in found if package.version}
        newest = sorted(versions, key=Version, reverse=True)[:_SHOWN_VERSIONS]
        if newest:
            lines.append(f"there is as {form}: {', '.join(newest)}")
        elif uploads:
            lines.append(f"the first {form} was uploaded only at {format_instant(min(uploads))}")
    return "; ".join(lines) or f"no index knows {name}; check the name"


def _is_older(package: Package, as_of: datetime) -> bool:
    uploaded_at = package.link.upload_time
    return uploaded_at is not None and uploaded_at < as_of


_DIGESTS = ("sha256", "sha512", "sha384", "sha224", "sha1", "md5")
"""Best first."""


def fetch_pypi(source: PyPISource, cache: Cache, *, progress: Progress) -> Fetched:
    """Fetch and unpack one distribution file.

    `source`: name, version and form; with `sha256`, only that very file. Yanked releases count.
    Returns: the file's contents as they are in it (a wheel is not installed); the digest is the
    file's, the date its upload's where the index tells.
    Raises `SourceError` if no index has the file, or its digest is not what the index or the case
    says.
    """
    try:
        requirement = str(Requirement(f"{source.name}=={source.version}"))
    except InvalidRequirement as error:
        raise UsageError(
            f"not a version of a Python package: {source.version!r}; allowed: as in PEP 440"
        ) from error

    def make(tree: Path, scratch: Path) -> tuple[SourceRecord, str]:
        settings = IndexSettings.of_this_host()
        with open_client(settings) as client:
            link = _find(source, requirement, settings, client)
            archive = scratch / link.filename
            url = link.url_without_fragment
            digest = download(client, url, archive, progress=progress, configured=True)
        _verify(archive, digest, link, source)
        top = unpack(archive, tree, what=link.filename)
        record = SourceRecord(
            kind=source.kind,
            name=source.name,
            version=source.version,
            digest=digest,
            dated_at=link.upload_time,
            origin=redacted(url),
        )
        return record, "" if source.form == "wheel" else top

    recipe = {
        "kind": source.kind,
        "name": canonicalize_name(source.name),
        "version": source.version,
        "form": source.form,
        "python": source.python if source.form == "wheel" else "",
        "sha256": source.sha256,
    }
    return keep(cache, recipe, make, label=f"fetch {requirement}", progress=progress)


def _find(
    source: PyPISource, requirement: str, settings: IndexSettings, client: PyPIClient
) -> Link:
    """Return the first file that fits, of the first place that has one."""
    python = source.python if source.form == "wheel" else None
    trouble: list[HostError] = []
    others: list[str] = []
    for place in settings.places:
        try:
            found = search(client, place, requirement, python=python)
        except HostError as error:
            trouble.append(error)
            continue
        for package in sorted(found, key=_preference):
            told = (package.link.hash_option or {}).get("sha256", [""])[0]
            if source.sha256 and told and told != source.sha256:
                others.append(told)
                continue
            return package.link
    if trouble:
        raise trouble[0]
    sought = tuple(redacted(place.url) for place in settings.places)
    if others:
        raise SourceError(
            f"{source.form} of {requirement} has another digest: sha256 {', '.join(others)}, "
            f"wanted {source.sha256}",
            sought=sought,
        )
    raise SourceError(
        f"no {source.form} of {requirement}" + (f" for Python {python}" if python else ""),
        sought=sought,
        hint=what_there_is(client, settings, source.name, source.python),
    )


def _preference(package: Package) -> bool:
    """Put gzipped tars first among sdists; wheels stay in the finder's order."""
    name = package.link.filename
    return not name.endswith((".tar.gz", ".whl"))


def _verify(archive: Path, digest: str, link: Link, source: PyPISource) -> None:
    told = link.hash_option or {}
    wanted = {name: told[name][0] for name in _DIGESTS if name in told}
    name = next(iter(wanted), "")
    if name and name != "sha256":
        with archive.open("rb") as stream:
            seen = hashlib.file_digest(stream, name).hexdigest()
    else:
        seen = digest
    if name and seen != wanted[name]:
        raise SourceError(
            f"{link.filename} is damaged: {name} {seen}, the index says {wanted[name]}",
            sought=(link.redacted,),
        )
    if source.sha256 and digest != source.sha256:
        raise SourceError(
            f"{link.filename} has another digest: sha256 {digest}, wanted {source.sha256}",
            sought=(link.redacted,),
        )
