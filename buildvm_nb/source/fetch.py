"""The one door: whatever the kind of a source, it is fetched here."""

from pathlib import Path

from buildvm_nb.errors import UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.case import (
    ArchiveSource,
    DebianBinarySource,
    DebianSource,
    GitSource,
    GuixSource,
    LocalSource,
    PyPISource,
    Source,
    WheelsSource,
)
from buildvm_nb.source.archive import fetch_archive
from buildvm_nb.source.debian import fetch_debian
from buildvm_nb.source.git import fetch_git
from buildvm_nb.source.pypi import fetch_pypi
from buildvm_nb.source.tree import Fetched, fetch_local
from buildvm_nb.source.wheels import fetch_wheels

__all__ = ["fetch"]


def fetch(
    source: Source, cache: Cache, *, base: Path = Path(), progress: Progress = SILENT
) -> Fetched:
    """Fetch a source onto this host, without running anything of it.

    Parameters
    ----------
    source : Source
        What is wanted.
    cache : Cache
        Where it is kept, so that the next one who asks for the same gets the same at once.
    base : Path
        Directory from which relative paths in the source start: that of the case file.
    progress : Progress
        Shows what is under way.

    Returns
    -------
    Fetched
        The unpacked tree, never to be written to, and a record of what it turned out to be.

    Raises
    ------
    UsageError
        If the source is asked for in a way that cannot be, such as an unknown kind of URL.
    SourceError
        If it cannot be had or is not what it should be: the verdict ``unavailable``. Its `sought`
        tells where it was looked for.
    HostError
        If this host lacks a program, room on disk or the network, or an index or mirror that it
        is configured for does not answer: this says nothing about the source.
    """
    base = base.absolute()
    match source:
        case GitSource():
            return fetch_git(source, cache, base=base, progress=progress)
        case PyPISource():
            return fetch_pypi(source, cache, progress=progress)
        case WheelsSource():
            return fetch_wheels(source, cache, progress=progress)
        case DebianSource() | DebianBinarySource():
            return fetch_debian(source, cache, progress=progress)
        case LocalSource():
            return fetch_local(source, cache, base=base, progress=progress)
        case ArchiveSource():
            return fetch_archive(source, cache, base=base, progress=progress)
        case GuixSource():
            raise UsageError(
                "Guix itself fetches what a source of kind guix names",
                hint="build the case with: buildvm guix build CASE",
            )
