"""One sdist or wheel of an exact version, from the indexes that this host's pip uses.

The file is found with unearth, pip's own finder made a library: ``pip download`` would run an
sdist's ``setup.py`` on this host to learn its metadata, and uv reads another configuration.
"""

import hashlib
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from unearth import Link, Package
from unearth.fetchers import PyPIClient

from buildvm_nb.errors import HostError, SourceError, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import Progress
from buildvm_nb.model.case import PyPISource
from buildvm_nb.model.outcome import SourceRecord
from buildvm_nb.source.download import download, redacted
from buildvm_nb.source.index import open_client, search, what_there_is
from buildvm_nb.source.pip_settings import IndexSettings
from buildvm_nb.source.store import Fetched, keep
from buildvm_nb.source.unpack import unpack

__all__ = ["fetch_pypi"]

_DIGESTS = ("sha256", "sha512", "sha384", "sha224", "sha1", "md5")
"""Best first."""


def fetch_pypi(source: PyPISource, cache: Cache, *, progress: Progress) -> Fetched:
    """Fetch and unpack one distribution file.

    Parameters
    ----------
    source : PyPISource
        Name, version and form; with `sha256`, only that very file. Yanked releases count.
    cache : Cache
        Keeps it.
    progress : Progress
        Shows the download.

    Returns
    -------
    Fetched
        The file's contents as they are in it (a wheel is not installed); the digest is the
        file's, the date its upload's where the index tells.

    Raises
    ------
    UsageError
        If the version is none.
    SourceError
        If no index has the file, or its digest is not what the index or the case says.
    HostError
        If an index that might have it does not answer.
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
