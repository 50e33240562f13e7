"""Images: root file systems of a Debian suite, packed into one read-only file, kept in the cache.

An image is named by what was asked for, so it stays the same until it is removed, also when the
archive moves on. Its record says what the archive held when it was made: dates of the Release
files and versions of all packages; with a dated mirror it can be made again.
"""

import errno
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from buildvm_nb.debian import PackageArchive, check_suite
from buildvm_nb.errors import HostError, SourceError, UsageError
from buildvm_nb.host.cache import Cache, cache_key, file_digest, free_bytes
from buildvm_nb.host.process import alive_lock, run_tool
from buildvm_nb.host.progress import SILENT, Progress, Task
from buildvm_nb.image.bootstrap import (
    COMPRESSION,
    TOOLBOX_PACKAGES,
    BootstrapMode,
    FinishedRoot,
    RootMaker,
    bootstrap_mode,
    extract_arguments,
    fetch_toolbox,
    mmdebstrap_arguments,
    toolbox_command,
)
from buildvm_nb.model.machine import ImageSpec

__all__ = [
    "Image",
    "build_image",
    "check_makeable",
    "check_space",
    "find_image",
    "list_images",
    "remove_image",
    "verify_image",
]

IMAGE_KIND = "images"
_RECIPE = 1
"""To be raised when the same request makes another image."""
SQUASHFS = "root.squashfs"
_NEEDED_BYTES = 1536 * 2**20
_NEEDED_PER_PACKAGE = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class Image:
    """A root file system that guests can use; its file is in the cache."""

    spec: ImageSpec
    """What was asked for."""
    key: str
    """Its name in the cache."""
    path: Path
    """The squashfs file."""
    digest: str
    """SHA-256 of the file."""
    suite: str
    mirrors: tuple[str, ...]
    """Address and suite of each source, without passwords."""
    release_dates: dict[str, str]
    """When the archive was made: suite to ISO 8601 instant."""
    packages: dict[str, str]
    """Version of each installed package."""
    mmdebstrap: str
    """Version of the program that made it."""
    size: int
    """Bytes of the file."""


@dataclass(frozen=True, kw_only=True)
class _Request:
    spec: ImageSpec
    base: str
    """What follows the kind in the spec's base."""
    hold: int
    """Descriptor of the lock that programs inherit."""
    cache: Cache
    progress: Progress


def build_image(spec: ImageSpec, cache: Cache, progress: Progress = SILENT) -> Image:
    """Return an image, made now if it is not in the cache.

    Parameters
    ----------
    spec : ImageSpec
        What is wanted.
    cache : Cache
        Keeps it.
    progress : Progress
        Shows how far it is.

    Returns
    -------
    Image
        Complete.

    Raises
    ------
    UsageError
        If the kind of base or the suite is unknown.
    SourceError
        If a package does not exist, or the archive cannot be reached or verified.
    HostError
        If this host lacks a program, a mirror or space.
    """
    kind, _, base = spec.base.partition(":")
    if kind not in _MAKERS:
        known = ", ".join(f"{name}:…" for name in _MAKERS)
        raise UsageError(f"unknown kind of image: {spec.base}; known: {known}")
    if kind == "debian":
        check_suite(base)
    recipe = _recipe(spec)
    key = cache_key(recipe)
    if not (cache.hold(IMAGE_KIND, key) and _is_sound(key, cache, progress)):
        _check_confinement(spec, cache)
        lock = cache.root / IMAGE_KIND / ".locks" / f"{key}.alive"
        with alive_lock(lock) as hold:
            request = _Request(spec=spec, base=base, hold=hold, cache=cache, progress=progress)
            cache.entry(IMAGE_KIND, recipe, lambda work: _MAKERS[kind](request, work))
    return load_image(key, cache)


def _recipe(spec: ImageSpec) -> dict[str, Any]:
    return {"spec": spec.model_dump(mode="json"), "recipe": _RECIPE, "packed": COMPRESSION}


def check_makeable(spec: ImageSpec, cache: Cache) -> None:
    """Refuse an image that is neither in the cache nor can be made here, before a kernel is had."""
    if not cache.path(IMAGE_KIND, cache_key(_recipe(spec))).exists():
        _check_confinement(spec, cache)


def _check_confinement(spec: ImageSpec, cache: Cache) -> None:
    """Make sure that files may be made that run as their owner, which every Debian has.

    Where they may not, packages are unpacked with files that nobody can read, which shows only
    minutes later, in the words of whatever package comes upon them first (systemd.exec(5):
    ``DynamicUser=`` implies ``RestrictSUIDSGID=``, and it cannot be relaxed).
    """
    try:
        cache.root.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache.root, prefix=".probe-") as file:
            Path(file.name).chmod(stat.S_IRWXU | stat.S_ISUID)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise cache.unwritable(error.strerror or str(error), cache.root) from error
        raise HostError(
            f"the image {spec} is not in the cache, and cannot be made here: no files that run as "
            f"their owner may be made in {cache.root}, as in a unit of systemd with DynamicUser=",
            hint=f"make it outside, as root: buildvm --cache {cache.root} image build {spec} && "
            f"chown -R --reference={cache.root}/ {cache.root}/",
        ) from error


def _is_sound(key: str, cache: Cache, progress: Progress) -> bool:
    facts = cache.record(cache.path(IMAGE_KIND, key))["facts"]
    return cache.is_sound(IMAGE_KIND, key, {SQUASHFS: facts["digest"]}, progress=progress)


def load_image(key: str, cache: Cache) -> Image:
    """Return an image that is in the cache."""
    place = cache.path(IMAGE_KIND, key)
    record = cache.record(place)
    facts = record["facts"]
    return Image(
        spec=ImageSpec.parse(record["recipe"]["spec"]),
        key=key,
        path=place / SQUASHFS,
        digest=facts["digest"],
        suite=facts["suite"],
        mirrors=tuple(facts["mirrors"]),
        release_dates=facts["release_dates"],
        packages=facts["packages"],
        mmdebstrap=facts["mmdebstrap"],
        size=record["files"][SQUASHFS],
    )


def _make_debian(request: _Request, work: Path) -> dict[str, Any]:
    suite, spec = request.base, request.spec
    with request.progress.task(f"make image {spec}") as task:
        task.update(0, 100, "looking up packages")
        archives = [
            PackageArchive(name, spec.mirror, cache=request.cache, progress=request.progress)
            for name in _suites(suite)
        ]
        for archive in archives:
            archive.refresh()
        mode = bootstrap_mode(archives[-1].candidate("libc6"))
        _check_packages(archives, spec.packages)
        check_space(work, len(spec.packages))
        version, finished = _run(request, archives, mode, work, task)
        return {
            "suite": suite,
            "mirrors": [source for archive in archives for source in archive.sought],
            "release_dates": {k: v for each in archives for k, v in each.release_dates().items()},
            "packages": finished.packages,
            "unpacked_bytes": finished.size,
            "mmdebstrap": version,
            "mode": mode,
            "digest": file_digest(work / SQUASHFS),
        }


_MAKERS: dict[str, Callable[[_Request, Path], dict[str, Any]]] = {"debian": _make_debian}
"""How to make each kind of base: given what is wanted and an empty directory, make the file."""


def _run(
    request: _Request,
    archives: list[PackageArchive],
    mode: BootstrapMode,
    work: Path,
    task: Task,
) -> tuple[str, FinishedRoot]:
    """Run mmdebstrap in a scratch directory that is gone afterwards."""
    sources = [source for archive in archives for source in archive.sources]
    dated = request.spec.mirror is not None
    maker = RootMaker(subject=str(request.spec), hold=request.hold, scratch=work / "tmp")
    maker.scratch.mkdir()
    argv = mmdebstrap_arguments(
        request.base, sources, request.spec.packages, mode=mode, dated=dated
    )
    version = run_tool(["mmdebstrap", "--version"]).decode().split()[-1]
    if mode is BootstrapMode.TOOLBOX:
        toolbox = _toolbox(request, archives[-1], maker, task)
        argv = toolbox_command(toolbox, maker.scratch, argv)
        version = str(request.cache.record(toolbox)["facts"]["mmdebstrap"])
    finished = maker.pack(argv, work / SQUASHFS, task)
    shutil.rmtree(maker.scratch)
    return version, finished


def _toolbox(request: _Request, archive: PackageArchive, maker: RootMaker, task: Task) -> Path:
    """Return the toolbox of a suite, made now if need be."""
    dated = archive.mirror is not None
    lock = request.cache.root / "toolboxes" / ".locks" / f"{archive.suite}.alive"
    with alive_lock(lock) as hold:

        def extract(into: Path, scratch: Path) -> None:
            argv = extract_arguments(
                archive.suite, archive.sources, TOOLBOX_PACKAGES, into, dated=dated
            )
            replace(maker, scratch=scratch, hold=hold).extract(argv, task)

        return fetch_toolbox(archive, extract, request.cache, request.progress)


def _suites(suite: str) -> list[str]:
    """Return a suite and the one that it builds upon."""
    return [suite, suite.removesuffix("-backports")] if suite.endswith("-backports") else [suite]


def _check_packages(archives: list[PackageArchive], names: Iterable[str]) -> None:
    for name in names:
        for archive in archives:
            try:
                archive.check([name])
                break
            except SourceError:
                if archive is archives[-1]:
                    raise


def check_space(work: Path, package_count: int) -> None:
    """Refuse to begin what cannot be finished."""
    needed = _NEEDED_BYTES + package_count * _NEEDED_PER_PACKAGE
    free = free_bytes(work)
    if free < needed:
        raise HostError(
            f"too little disk space to make an image: {free // 2**20} MiB free, "
            f"about {needed // 2**20} MiB needed: {work.parent}",
            hint="make room with `buildvm cache prune`, or choose another --cache",
        )


# The images in the cache: listed, shown, removed.

_SHORTEST_KEY = 4


def list_images(cache: Cache) -> tuple[Image, ...]:
    """List the images in the cache.

    Parameters
    ----------
    cache : Cache
        Where to look.

    Returns
    -------
    tuple of Image
        Sorted by what was asked for.
    """
    images = [load_image(key, cache) for key, _ in cache.entries(IMAGE_KIND)]
    return tuple(sorted(images, key=lambda image: (str(image.spec), image.key)))


def find_image(name: str, cache: Cache) -> Image:
    """Find an image in the cache.

    Parameters
    ----------
    name : str
        What was asked for (``debian:bookworm,gcc``), or the first digits of its key or digest.
    cache : Cache
        Where to look.

    Returns
    -------
    Image
        The only one that fits.

    Raises
    ------
    UsageError
        If none fits, or more than one.
    """
    images = list_images(cache)
    wanted = ",".join([name.split(",", maxsplit=1)[0], *sorted(set(name.split(",")[1:]))])
    found = [image for image in images if str(image.spec) == wanted]
    if not found and len(name) >= _SHORTEST_KEY:
        found = [image for image in images if name == (image.key[: len(name)])]
        found = found or [image for image in images if name == image.digest[: len(name)]]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"more than one image is called {name}: {_names(found)}", hint="give one's key"
        )
    raise UsageError(
        f"no such image in the cache: {name}; there is {_names(images) or 'none'}",
        hint=f"make it: buildvm image build {name}" if ":" in name else "",
    )


def verify_image(image: Image) -> None:
    """Make sure that an image's file is what was made.

    Parameters
    ----------
    image : Image
        One that is in the cache.

    Raises
    ------
    HostError
        If the file's digest is another one.
    """
    if (seen := file_digest(image.path)) != image.digest:
        raise HostError(
            f"image {image.spec} is damaged: its digest is {seen}, it was made with {image.digest}",
            hint=f"buildvm image rm {image.key[:12]}, then make it again",
        )


def remove_image(name: str, cache: Cache) -> Image:
    """Remove an image from the cache.

    Parameters
    ----------
    name : str
        As for `find_image`.
    cache : Cache
        Where it is.

    Returns
    -------
    Image
        The one that was removed; its file is gone.

    Raises
    ------
    UsageError
        If none fits, or more than one.
    """
    image = find_image(name, cache)
    cache.remove(IMAGE_KIND, image.key)
    return image


def _names(images: Sequence[Image]) -> str:
    return ", ".join(f"{image.spec} ({image.key[:12]})" for image in images)
