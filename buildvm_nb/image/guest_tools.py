"""The few programs that our initramfs brings along, with the libraries that they load.

They come from one Debian suite, whatever image or kernel the guest has: the initramfs is ours.
"""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from buildvm_nb.debian import PackageArchive, unpack_deb
from buildvm_nb.errors import SourceError
from buildvm_nb.host.cache import Cache, cache_key, file_digest
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.image.elf import read_linkage

__all__ = ["GUEST_TOOLS", "PackagePool", "copy_libraries", "copy_program", "fetch_guest_tools"]

GUEST_TOOLS = {
    "bin/busybox": "busybox-static",
    "bin/date": "coreutils",
    "usr/sbin/dropbear": "dropbear-bin",
    "usr/bin/unshare": "util-linux",
    "bin/tar": "tar",
    "usr/bin/perl": "perl-base",
}
"""Path of each program and the Debian package it comes from."""

_SUITE = "bookworm"
_RECIPE = 1
_KIND = "guest-tools"
_LIBRARIES = "lib/x86_64-linux-gnu"
"""Where the loader of Debian looks first; also for programs of `/usr`."""


def fetch_guest_tools(cache: Cache, progress: Progress = SILENT) -> Path:
    """Return a directory laid out as a root directory, with the guest's own programs.

    Parameters
    ----------
    cache : Cache
        Keeps it; versions of the packages are in its record.
    progress : Progress
        Shows what is fetched.

    Returns
    -------
    Path
        Has the programs of `GUEST_TOOLS`, ``lib/x86_64-linux-gnu`` and ``lib64``.

    Raises
    ------
    SourceError
        If a package cannot be fetched, or lacks what it should hold.
    HostError
        If this host lacks a program, a mirror or space.
    """
    recipe = {"tools": GUEST_TOOLS, "suite": _SUITE, "recipe": _RECIPE}

    def make(work: Path) -> dict[str, Any]:
        archive = PackageArchive(_SUITE, cache=cache, progress=progress)
        pool = PackagePool(archive, work / "unpacked")
        for name, package in GUEST_TOOLS.items():
            pool.add(package)
            copy_program(pool.find(name), work / name)
        copy_libraries(work, GUEST_TOOLS, pool)
        shutil.rmtree(work / "unpacked")
        digests = {
            str(path.relative_to(work)): file_digest(path)
            for path in sorted(work.rglob("*"))
            if path.is_file()
        }
        return {"packages": pool.versions, "digests": digests}

    for _ in range(2):
        place = cache.entry(_KIND, recipe, make, label="fetch the guest's tools", progress=progress)
        if _is_sound(place, cache):
            return place
        cache.remove(_KIND, cache_key(recipe))
    raise SourceError(f"the guest's tools are damaged again right after unpacking: {place}")


class PackagePool:
    """Unpacked packages; more of their dependencies are added when something is not found."""

    def __init__(self, archive: PackageArchive, root: Path) -> None:
        self._archive = archive
        self._root = root
        self._queue: list[str] = []
        self.versions: dict[str, str] = {}

    def add(self, package: str) -> None:
        """Download and unpack a package."""
        if package not in self.versions:
            self.versions[package] = self._archive.candidate(package)
            for deb in self._archive.download([f"{package}={self.versions[package]}"]):
                unpack_deb(deb, self._root)
            self._queue += self._archive.dependencies(package)

    def find(self, name: str) -> Path:
        """Find a file by its path, or a library by its name."""
        while True:
            places = self._places(name)
            if path := next((path for path in places if path.is_file()), None):
                return path
            # libraries' packages are named lib…, but for zlib1g, and mostly as Policy 8.1 says
            usual = name.replace(".so.", "")
            self._queue = [p for p in self._queue if "lib" in p and p not in self.versions]
            if not self._queue:
                raise SourceError(
                    f"no file {name} in {', '.join(self.versions)} of {self._archive.suite}"
                )
            self.add(usual if usual in self._queue else self._queue[0])

    def _places(self, name: str) -> Iterator[Path]:
        relative = name.lstrip("/")
        yield self._root / relative
        yield self._root / "usr" / relative
        if "/" not in relative:
            yield self._root / _LIBRARIES / relative
            yield self._root / "usr" / _LIBRARIES / relative


def copy_libraries(work: Path, programs: Iterable[str], pool: PackagePool) -> None:
    """Copy the libraries that programs in a root directory load, and their loader, into it."""
    todo = [work / name for name in programs]
    while todo:
        linkage = read_linkage(todo.pop())
        targets = {library: f"{_LIBRARIES}/{library}" for library in linkage.needed}
        if linkage.interpreter:
            targets[linkage.interpreter] = linkage.interpreter.lstrip("/")
            targets.pop(PurePosixPath(linkage.interpreter).name, None)
        for source, target in targets.items():
            if source.startswith("ld-linux") or (work / target).exists():
                continue
            found = pool.find(source if "/" not in source else PurePosixPath(source).name)
            todo.append(copy_program(found, work / target))


def copy_program(source: Path, target: Path) -> Path:
    """Copy a program or library and let it be executed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755)
    return target


def _is_sound(place: Path, cache: Cache) -> bool:
    digests = cache.record(place)["facts"]["digests"]
    return all(
        (place / name).is_file() and file_digest(place / name) == digest
        for name, digest in digests.items()
    )
