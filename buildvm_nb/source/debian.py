"""Debian packages: sources unpacked with their patches, and the files of binary packages.

Apt verifies what it fetches against the archive's signatures; unpacking runs no code of the
package. Maintainer scripts are left alone, dependencies are the image's business.

References
----------
dpkg-source(1), ``-x``; dpkg-deb(1), ``-x``; deb(5): the members' time is that of the changelog,
when the package was built reproducibly.
"""

import email.utils
import os
from datetime import UTC, datetime
from pathlib import Path

from debian.changelog import Changelog
from debian.deb822 import Dsc

from buildvm_nb.debian import PackageArchive
from buildvm_nb.host.cache import Cache, file_digest
from buildvm_nb.host.process import find_tool, run_tool
from buildvm_nb.host.progress import Progress
from buildvm_nb.model.case import DebianBinarySource, DebianSource
from buildvm_nb.model.outcome import SourceRecord
from buildvm_nb.source.tree import Fetched, keep, walk_tree

__all__ = ["fetch_debian"]

_TIME_FIELD = slice(24, 36)
"""Where the first member's time stands in a ``.deb``: 8 bytes of magic, 16 of name (ar(5))."""


def fetch_debian(
    source: DebianSource | DebianBinarySource, cache: Cache, *, progress: Progress
) -> Fetched:
    """Fetch and unpack a source or binary package.

    Returns: a source has its top directory, and its digest is that of the ``.dsc`` file, which
    names those of all others; no file in it is younger than the package's changelog. A binary
    package has its files, as below ``/``, directly in `Fetched.tree`, and the digest is that of the
    ``.deb``.
    """
    if isinstance(source, DebianSource):
        return _fetch_source(source, cache, progress)
    return _fetch_binary(source, cache, progress)


def _fetch_source(source: DebianSource, cache: Cache, progress: Progress) -> Fetched:
    find_tool("dpkg-source")
    archive = PackageArchive(source.suite, cache=cache, progress=progress)
    name = source.name.partition("=")[0]
    pinned = source.version or source.name.partition("=")[2] or None
    version = pinned or _version(archive.download_source(name))

    def make(tree: Path, scratch: Path) -> tuple[SourceRecord, str]:  # noqa: ARG001 - see keep
        description = archive.download_source(name, version)
        top = f"{name}-{_upstream(version)}"
        run_tool(["dpkg-source", "--no-check", "--no-copy", "-x", description, tree / top])
        with (tree / top / "debian/changelog").open(encoding="utf-8", errors="replace") as text:
            dated_at = _changelog_date(text.read())
        if dated_at is not None:
            _make_no_younger(tree, int(dated_at.timestamp()))
        record = SourceRecord(
            kind=source.kind,
            name=name,
            version=version,
            digest=file_digest(description),
            dated_at=dated_at,
            origin=", ".join(archive.sought),
        )
        return record, top

    recipe = {"kind": source.kind, "name": name, "version": version, "suite": source.suite}
    return keep(cache, recipe, make, label=f"fetch {name} {version}", progress=progress)


def _fetch_binary(source: DebianBinarySource, cache: Cache, progress: Progress) -> Fetched:
    archive = PackageArchive(source.suite, cache=cache, progress=progress)
    name = source.name.partition("=")[0]
    pinned = source.version or source.name.partition("=")[2]
    version = pinned or archive.candidate(name)

    def make(tree: Path, scratch: Path) -> tuple[SourceRecord, str]:  # noqa: ARG001 - see keep
        package = archive.download([f"{name}={version}"])[0]
        run_tool(["dpkg-deb", "-x", package, tree])
        record = SourceRecord(
            kind=source.kind,
            name=name,
            version=version,
            digest=file_digest(package),
            dated_at=_member_date(package),
            origin=", ".join(archive.sought),
        )
        return record, ""

    recipe = {"kind": source.kind, "name": name, "version": version, "suite": source.suite}
    return keep(cache, recipe, make, label=f"fetch {name} {version}", progress=progress)


def _version(description: Path) -> str:
    with description.open("rb") as stream:
        return str(Dsc(stream)["Version"])


def _upstream(version: str) -> str:
    """Return the upstream part of a version (Debian Policy 5.6.12)."""
    without_epoch = version.partition(":")[2] if ":" in version else version
    return without_epoch.rpartition("-")[0] or without_epoch


def _changelog_date(text: str) -> datetime | None:
    date = Changelog(text, max_blocks=1, strict=False).date
    try:
        return email.utils.parsedate_to_datetime(date).astimezone(UTC) if date else None
    except ValueError:
        return None


def _member_date(package: Path) -> datetime | None:
    with package.open("rb") as stream:
        field = stream.read(_TIME_FIELD.stop)[_TIME_FIELD].strip()
    return datetime.fromtimestamp(int(field), UTC) if field.isdigit() else None


def _make_no_younger(tree: Path, moment: int) -> None:
    """Give what unpacking and patching made today the time of the changelog."""
    for entry in walk_tree(tree):
        if entry.status.st_mtime > moment:
            os.utime(entry.path, (moment, moment), follow_symlinks=False)
