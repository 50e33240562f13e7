"""User-mode Linux: a Linux kernel that is a program, out of the Debian package of a suite.

A kernel in the cache is a directory with ``root`` (a root directory with the program and the
libraries of its suite, as it may need a newer libc than the host has), ``config``, and the modules
that a guest needs, as ``NAME.ko``.

References
----------
Linux, Documentation/virt/uml/user_mode_linux_howto_v2.rst; Debian, package ``user-mode-linux``.
"""

import gzip
import re
import shutil
from pathlib import Path
from typing import Any

from buildvm_nb.debian import PackageArchive, check_suite
from buildvm_nb.errors import SourceError, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.image.initramfs import PackagePool, copy_libraries, copy_program
from buildvm_nb.image.kernel import Kernel, ModuleTree, load_order

__all__ = ["PROGRAM", "UML_KERNELS", "fetch_uml_kernel"]

UML_KERNELS = ("debian:bullseye", "debian:bookworm", "debian:trixie", "debian:sid")
"""Those with a package, oldest first: 5.10, 6.1, 6.12, 7.x."""

PROGRAM = "usr/bin/linux.uml"
"""The kernel, below the directory ``root``."""

_PACKAGE = "user-mode-linux"
_KIND = "uml-kernels"
_RECIPE = 1
_MODULES = ("squashfs", "overlay")


def fetch_uml_kernel(
    name: str, cache: Cache, progress: Progress = SILENT, *, refresh: bool = False
) -> Kernel:
    """Return a user-mode kernel, fetched now if it is not in the cache.

    `refresh`: ask the mirror for a newer version even if there is one in the cache.
    """
    scheme, _, suite = name.partition(":")
    if scheme != "debian" or not suite or suite.endswith("-backports"):
        raise UsageError(
            f"no user-mode Linux kernel: {name}; expected one of {', '.join(UML_KERNELS)}",
            hint="--accelerator tcg runs any kernel",
        )
    check_suite(suite)
    known = None if refresh else _cached(suite, cache)
    if known and cache.hold(_KIND, known.name) and cache.is_sound(_KIND, known.name):
        return _load(name, known, cache)
    archive = PackageArchive(suite, cache=cache, progress=progress)
    with progress.task(f"look up user-mode kernel {name}"):
        version = archive.candidate(_PACKAGE)
    recipe = {"suite": suite, "version": version, "modules": _MODULES, "recipe": _RECIPE}

    def make(work: Path) -> dict[str, Any]:
        pool = PackagePool(archive, work / "unpacked")
        pool.add(_PACKAGE)
        root = work / "root"
        copy_program(pool.find(PROGRAM), root / PROGRAM)
        copy_libraries(root, [PROGRAM], pool)
        release = _release(work / "unpacked/usr/lib/uml/modules")
        tree = ModuleTree(work / "unpacked/usr/lib/uml/modules" / release)
        modules = load_order(_MODULES, tree.read)
        for module in modules:
            (work / f"{module}.ko").write_bytes(tree.read(module) or b"")
        config = work / "unpacked/usr/share/doc/user-mode-linux/config.gz"
        if config.is_file():
            (work / "config").write_bytes(gzip.decompress(config.read_bytes()))
        shutil.rmtree(work / "unpacked")
        return {"release": release, "modules": modules, "packages": pool.versions}

    label = f"unpack user-mode kernel {name}"
    place = cache.entry(_KIND, recipe, make, label=label, progress=progress)
    if not cache.is_sound(_KIND, place.name, progress=progress):
        place = cache.entry(_KIND, recipe, make, label=label, progress=progress)
    return _load(name, place, cache)


def _release(modules: Path) -> str:
    found = [path.name for path in modules.glob("*") if re.match(r"\d+\.\d+", path.name)]
    if len(found) != 1:
        raise SourceError(f"{_PACKAGE} has modules of {len(found)} kernels; expected 1")
    return found[0]


def _cached(suite: str, cache: Cache) -> Path | None:
    """Return the one of a suite that was fetched last: a study keeps to one version."""
    found = [
        (place.stat().st_mtime_ns, place)
        for _, place in cache.entries(_KIND)
        if (recipe := cache.record(place)["recipe"]).get("suite") == suite
        and recipe.get("recipe") == _RECIPE
    ]
    return max(found)[1] if found else None


def _load(name: str, place: Path, cache: Cache) -> Kernel:
    facts = cache.record(place)["facts"]
    return _UserModeKernel(
        name=name,
        path=place,
        release=facts["release"],
        version=facts["packages"][_PACKAGE],
        modules=tuple(facts["modules"]),
        network_modules=(),
    )


class _UserModeKernel(Kernel):
    @property
    def vmlinux(self) -> Path:
        """The kernel: a program below a root directory of its own."""
        return self.path / "root" / PROGRAM
