"""Guix's own code, from Debian's packages: unpacked into the cache, nothing is installed."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from buildvm_nb.debian import PackageArchive, unpack_deb
from buildvm_nb.errors import HostError, SourceError
from buildvm_nb.host.cache import Cache

SUITE = "sid"
PACKAGES = (
    "guix",
    "guile-3.0",
    "guile-3.0-libs",
    "guile-fibers",
    "libc6",
    "libcrypt1",
    "libffi8",
    "libgc1",
    "libgmp10",
    "libreadline8t64",
    "libtinfo6",
    "libunistring5",
    "shepherd",
)
GUILE = "usr/lib/x86_64-linux-gnu/guile/3.0"
UNUSED = ("usr/share/doc", "usr/share/info", "usr/share/locale", "usr/share/man")
"""Parts of the packages that take room in the cache; so do Guix's package definitions."""


@dataclass(frozen=True)
class Guile:
    """A Guile with Guix's modules, run through its own loader, whatever the host's C library."""

    root: Path

    def argv(self, program):
        libraries = self.root / "usr/lib/x86_64-linux-gnu"
        loader = libraries / "ld-linux-x86-64.so.2"
        interpreter = self.root / "usr/bin/guile-3.0"
        return [
            loader,
            "--library-path",
            libraries,
            interpreter,
            "--no-auto-compile",
            "-c",
            program,
        ]

    def environment(self):
        share = self.root / "usr/share/guile"
        compiled = self.root / GUILE
        return {
            **os.environ,
            "GUILE_SYSTEM_PATH": f"{share}/3.0",
            "GUILE_SYSTEM_COMPILED_PATH": f"{compiled}/ccache",
            "GUILE_LOAD_PATH": f"{share}/site/3.0",
            "GUILE_LOAD_COMPILED_PATH": f"{compiled}/site-ccache",
            # fibers looks for its library in its own place only, or below this
            "FIBERS_BUILD_DIR": str(self.root / "fibers"),
        }

    def start(self, program):
        """Start a program; its output is text."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            self.argv(program), stdout=pipe, stderr=pipe, env=self.environment(), text=True
        )


@pytest.fixture(scope="session")
def guile():
    """Guix's Guile; the packages of today's sid stay in the cache."""
    cache = Cache()
    archive = PackageArchive(SUITE, cache=cache)
    try:
        versions = [f"{name}={archive.candidate(name)}" for name in PACKAGES]
    except (HostError, SourceError) as error:
        pytest.skip(f"Debian's packages of Guix are out of reach: {error.message}")

    def make(work):
        for deb in archive.download(versions):
            unpack_deb(deb, work)
        for modules in (work / "usr").rglob("gnu/packages"):
            shutil.rmtree(modules)
        for name in UNUSED:
            shutil.rmtree(work / name, ignore_errors=True)
        (work / "fibers").mkdir()
        (work / "fibers/.libs").symlink_to(f"../{GUILE}/extensions")

    place = cache.entry("test-guix", {"packages": versions, "recipe": 1}, make)
    for key, old in list(cache.entries("test-guix")):
        if old != place:
            cache.remove("test-guix", key)
    return Guile(place)
