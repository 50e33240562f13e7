"""Distribution files found in the package indexes that this host's pip is configured for."""

import logging
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import httpx2
from packaging.version import Version
from unearth import Link, Package, PackageFinder, TargetPython
from unearth.auth import MultiDomainBasicAuth
from unearth.fetchers import PyPIClient

from buildvm_nb.errors import HostError, Unreachable
from buildvm_nb.model.instants import format_instant
from buildvm_nb.source.download import network_error, redacted
from buildvm_nb.source.pip_settings import IndexSettings, Place, manylinux_platforms

__all__ = ["open_client", "search", "what_there_is"]

logging.getLogger("unearth").addHandler(logging.NullHandler())  # what it says, we raise

_ANSWERS = {404, 410}
"""What an index says of a package that it does not have; all else is trouble."""
_TRIES = 3
_SHOWN_VERSIONS = 8


@contextmanager
def open_client(settings: IndexSettings) -> Iterator[PyPIClient]:
    """Open a client that reaches the indexes as pip would.

    Parameters
    ----------
    settings : IndexSettings
        Certificates, proxy, trusted hosts and credentials in URLs.

    Yields
    ------
    PyPIClient
        For http, https and file.

    Raises
    ------
    HostError
        If a certificate file of the settings cannot be read.
    """
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

    Parameters
    ----------
    client : PyPIClient
        Who asks.
    place : Place
        Where.
    requirement : str
        Name and version.
    python : str or None
        Look for wheels that fit this Python in a guest; None: for sdists.

    Returns
    -------
    list of Package
        Best first, yanked ones included; empty if the place has none.

    Raises
    ------
    HostError
        If the place does not answer.
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

    Parameters
    ----------
    client : PyPIClient
        Who asks.
    settings : IndexSettings
        Where.
    name : str
        The project.
    python : str
        The guest's Python, for wheels.
    as_of : datetime, optional
        Aware. Files uploaded then or later do not count; of a form that has no others, the first
        upload is told.

    Returns
    -------
    str
        The newest versions of each form, for a hint.

    Raises
    ------
    HostError
        If an index does not answer.
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
