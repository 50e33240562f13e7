"""Kernels for guests, unpacked, with the modules that they need.

A kernel in the cache is a directory with ``vmlinuz`` as it was packaged, ``vmlinux`` unpacked,
``config`` where there is one, and the modules that a guest needs, unpacked, as ``NAME.ko``.
"""

import bz2
import lzma
import re
import shutil
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from buildvm_nb.debian import PackageArchive, check_suite, unpack_deb
from buildvm_nb.errors import HostError, SourceError, UsageError
from buildvm_nb.host.cache import Cache, cache_key, file_digest
from buildvm_nb.host.process import run_tool
from buildvm_nb.host.progress import SILENT, Progress

__all__ = [
    "DEBIAN_KERNELS",
    "Kernel",
    "KernelListing",
    "ModuleTree",
    "decompress",
    "fetch_kernel",
    "kernel_release",
    "list_kernels",
    "load_order",
    "module_needs",
    "unpack_kernel",
]

# Linux's bzImage: what it says about itself, and the kernel proper inside of it.
#
# Unpacking a kernel costs a guest under emulation more than everything else before its first
# process, so the host does it once.
#
# References: Linux, Documentation/arch/x86/boot.rst (``payload_offset``, ``payload_length``,
# ``kernel_version``); scripts/extract-vmlinux; scripts/Makefile.lib (``size_append``).

_ELF = b"\x7fELF"
_HEADER_AT, _HEADER = 0x202, b"HdrS"
_OLDEST_PROTOCOL = 0x0208
_SIZE_SUFFIX = 4
"""Kernel builds append the unpacked size to every payload but gzip's."""


def kernel_release(image: bytes) -> str:
    """Return what ``uname -r`` will say under a kernel.

    For example ``6.1.0-30-cloud-amd64``.
    """
    _check(image)
    at = 0x200 + int(struct.unpack_from("<H", image, 0x20E)[0])
    words = image[at : at + 256].split(b"\0", 1)[0].split()
    if not words:
        raise SourceError("the kernel does not say its version")
    return words[0].decode(errors="replace")


def unpack_kernel(image: bytes) -> bytes:
    """Return the uncompressed kernel, an ELF file, out of a bzImage.

    Raises `SourceError` if it is no bzImage, or what it holds cannot be unpacked.
    """
    _check(image)
    start = ((image[0x1F1] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", image, 0x248)
    kernel = decompress(image[start + offset : start + offset + length])
    if not kernel.startswith(_ELF):
        raise SourceError("what the kernel image holds is no ELF file")
    return kernel


def decompress(data: bytes) -> bytes:
    """Unpack data by its magic number; whatever follows the packed data is ignored.

    `data`: packed by xz, lzma, gzip, bzip2, zstd or lz4 (the legacy form that kernels use), or ELF.
    """
    for magic, unpack in _FORMS.items():
        if data.startswith(magic):
            try:
                return unpack(data)
            except (lzma.LZMAError, zlib.error, OSError, EOFError) as error:
                raise SourceError(f"damaged {magic.hex()} data: {error}") from error
    raise SourceError(
        f"unknown compression, magic number {data[:4].hex()}; known: xz, lzma, gzip, bzip2, zstd, "
        "lz4"
    )


def _check(image: bytes) -> None:
    if len(image) < 0x264 or image[_HEADER_AT : _HEADER_AT + 4] != _HEADER:  # noqa: PLR2004 - end of the fields read
        raise SourceError("not a Linux kernel image (bzImage)")
    protocol = struct.unpack_from("<H", image, 0x206)[0]
    if protocol < _OLDEST_PROTOCOL:
        raise SourceError(
            f"kernel image of boot protocol {protocol >> 8}.{protocol & 255:02}; 2.08 is the oldest"
        )


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def _first_stream(decompressor: _Decompressor, data: bytes) -> bytes:
    content = decompressor.decompress(data)
    if not decompressor.eof:
        message = "it ends too early"
        raise EOFError(message)
    return content


def _by_program(*argv: str) -> Callable[[bytes], bytes]:
    """Make an unpacker that calls a program, without and then with the last four bytes."""

    def unpack(data: bytes) -> bytes:
        try:
            return _filter(argv, data[:-_SIZE_SUFFIX])
        except SourceError:
            return _filter(argv, data)

    return unpack


def _filter(argv: tuple[str, ...], data: bytes) -> bytes:
    with tempfile.TemporaryFile() as packed:
        packed.write(data)
        packed.seek(0)
        try:
            return run_tool(argv, stdin=packed, stdout=subprocess.PIPE)
        except HostError as error:
            if error.hint:  # the program is missing
                raise
            raise SourceError(f"damaged data: {error.message[-300:]}") from error


_FORMS: dict[bytes, Callable[[bytes], bytes]] = {
    _ELF: bytes,
    b"\xfd7zXZ\0": lambda data: _first_stream(lzma.LZMADecompressor(lzma.FORMAT_XZ), data),
    b"\x5d\0\0": lambda data: _first_stream(lzma.LZMADecompressor(lzma.FORMAT_ALONE), data),
    b"\x1f\x8b": lambda data: _first_stream(zlib.decompressobj(31), data),
    b"BZh": lambda data: _first_stream(bz2.BZ2Decompressor(), data),
    b"\x28\xb5\x2f\xfd": _by_program("zstd", "-dcq"),
    b"\x02\x21\x4c\x18": _by_program("lz4", "-dcq"),
}


# Kernel modules: found in a tree, unpacked, and put into an order in which they can be loaded.
#
# Debian's packages have no ``modules.dep`` (it is made on installation), so the dependencies are
# read from the modules themselves.
#
# References: modules.dep(5); Linux, include/linux/module.h (``MODULE_INFO``: ``depends``,
# ``softdep``).

_FILE = re.compile(r"(?P<name>.+)\.ko(\.(xz|zst|gz))?")
_INFO = re.compile(rb"\0(depends|softdep)=([^\0]*)\0")


class ModuleTree:
    """The modules below a directory such as ``/lib/modules/RELEASE``.

    `root`: the directory. A file ``modules.builtin`` anywhere in it says what the kernel has built
    in; without one, what is not there counts as built in.
    """

    def __init__(self, root: Path) -> None:
        self._paths: dict[str, Path] = {}
        self._built_in: set[str] | None = None
        for path in sorted(root.rglob("*")):
            if (match := _FILE.fullmatch(path.name)) and path.is_file():
                self._paths.setdefault(_normal(match["name"]), path)
            elif path.name == "modules.builtin":
                lines = path.read_text().split()
                self._built_in = {_normal(Path(line).name.removesuffix(".ko")) for line in lines}
        self._contents: dict[str, bytes] = {}

    def read(self, name: str) -> bytes | None:
        """Return a module, unpacked."""
        name = _normal(name)
        if name in self._contents:
            return self._contents[name]
        if path := self._paths.get(name):
            self._contents[name] = decompress(path.read_bytes())
            return self._contents[name]
        if self._built_in is None or name in self._built_in:
            return None
        raise SourceError(f"this kernel has no module {name}, nor is it built in")


def load_order(wanted: Iterable[str], read: Callable[[str], bytes | None]) -> tuple[str, ...]:
    """Put modules and all that they need into an order in which they can be loaded.

    `read`: gives a module by name, None for one that is built in.
    Returns: names with ``_`` for ``-``, each after what it needs; what is built in is left out.
    """
    done: dict[str, bool] = {}
    path: list[str] = []

    def visit(name: str) -> None:
        if name in path:
            raise SourceError(f"modules need each other: {' -> '.join([*path, name])}")
        if name in done:
            return
        content = read(name)
        if content is not None:
            path.append(name)
            for need in module_needs(content):
                visit(need)
            path.pop()
        done[name] = content is not None

    for name in wanted:
        visit(_normal(name))
    return tuple(name for name, is_module in done.items() if is_module)


def module_needs(content: bytes) -> tuple[str, ...]:
    """Return what a module needs loaded before it.

    Returns: names with ``_`` for ``-``: its ``depends``, then the ``pre`` of its ``softdep``.
    """
    needs: list[str] = []
    softly: list[str] = []
    for kind, value in _INFO.findall(content.replace(b"\0", b"\0\0")):
        text = value.decode(errors="replace")
        if kind == b"depends":
            needs += [name for name in text.split(",") if name]
        elif match := re.match(r"pre:(.*?)(post:|$)", text):
            softly += match[1].split()
    return tuple(dict.fromkeys(map(_normal, needs + softly)))


def _normal(name: str) -> str:
    return name.replace("-", "_")


DEBIAN_KERNELS = (
    "debian:bullseye",
    "debian:bookworm",
    "debian:bookworm-backports",
    "debian:trixie",
    "debian:sid",
)
"""Kernels that are known to work, oldest first: 5.10, 6.1, 6.12, 6.12, 7.x."""

_KIND = "kernels"
_RECIPE = 1
_META_PACKAGE = "linux-image-cloud-amd64"
_BASE_MODULES = (
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "virtio_rng",
    "squashfs",
    "overlay",
)
_NETWORK_MODULES = ("virtio_net",)


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A kernel that guests can boot; its files are in the cache."""

    name: str
    """As asked for: ``debian:SUITE`` or a path."""
    path: Path
    """The directory with its files."""
    release: str
    """What ``uname -r`` says under it."""
    version: str
    """Version of its Debian package; empty for a user's own."""
    modules: tuple[str, ...]
    """Modules that every guest needs, in load order; what is built in is left out."""
    network_modules: tuple[str, ...]
    """What a network card needs beyond `modules`, in load order."""

    @property
    def vmlinuz(self) -> Path:
        """The compressed kernel, as it was packaged."""
        return self.path / "vmlinuz"

    @property
    def vmlinux(self) -> Path:
        """The uncompressed kernel, an ELF file."""
        return self.path / "vmlinux"

    def module_path(self, module: str) -> Path:
        """Return the file of a module.

        Parameters
        ----------
        module : str
            One of `modules` or `network_modules`.

        Returns
        -------
        Path
            An uncompressed ``.ko`` file.
        """
        return self.path / f"{module}.ko"

    def config(self, option: str) -> str | None:
        """Look up an option of the kernel's build configuration.

        Parameters
        ----------
        option : str
            With or without ``CONFIG_``.

        Returns
        -------
        str or None
            ``y``, ``m`` or a value; None when it is not set or not known.
        """
        path = self.path / "config"
        wanted = f"CONFIG_{option.removeprefix('CONFIG_')}="
        if path.exists():
            for line in path.read_text().splitlines():
                if line.startswith(wanted):
                    return line.removeprefix(wanted).strip('"')
        return None


@dataclass(frozen=True, kw_only=True)
class KernelListing:
    """One line of a list of kernels."""

    name: str
    cached: bool
    release: str = ""
    version: str = ""


def fetch_kernel(
    name: str, cache: Cache, progress: Progress = SILENT, *, refresh: bool = False
) -> Kernel:
    """Return a kernel, fetched now if it is not in the cache.

    Parameters
    ----------
    name : str
        ``debian:SUITE``, or the path of a directory that holds ``vmlinuz`` (a bzImage), a
        directory ``modules`` laid out like ``/lib/modules/RELEASE`` and, if wanted, ``config``.
    cache : Cache
        Keeps it.
    progress : Progress
        Shows what is fetched.
    refresh : bool
        Ask the mirror for a newer version even if there is one in the cache.

    Returns
    -------
    Kernel
        Complete.

    Raises
    ------
    UsageError
        If the name, the suite or the directory is not that of a kernel.
    SourceError
        If the packages cannot be fetched, verified or unpacked.
    HostError
        If this host lacks a program, a mirror or space.
    """
    if name.startswith("/"):
        return _import_local(name, cache, progress)
    scheme, _, suite = name.partition(":")
    if scheme != "debian" or not suite:
        raise UsageError(
            f"unknown kernel: {name}; known: {', '.join(DEBIAN_KERNELS)}",
            hint="or give the path of a directory with vmlinuz and modules/",
        )
    check_suite(suite)
    known = None if refresh else _usable(suite, cache, progress)
    if known:
        return known
    archive = PackageArchive(suite, cache=cache, progress=progress)
    with progress.task(f"look up kernel {name}"):
        packages = _packages(archive)
    recipe = {"kernel": packages, "suite": suite, "modules": _wanted(), "recipe": _RECIPE}

    def make(work: Path) -> dict[str, Any]:
        unpacked = work / "unpacked"
        for deb in archive.download([f"{package}={packages[package]}" for package in packages]):
            unpack_deb(deb, unpacked)
        facts = _fill(work, _sole(unpacked, "vmlinuz*"), _module_root(unpacked))
        for config in sorted(unpacked.rglob("config*")):
            if config.is_file() and config.name in {"config", f"config-{facts['release']}"}:
                shutil.copyfile(config, work / "config")
        shutil.rmtree(unpacked)
        version = next(iter(packages.values()))
        return {**facts, "suite": suite, "version": version, "sources": archive.sought}

    place = _sound_entry(recipe, make, f"unpack kernel {name}", cache, progress)
    return _load(name, place, cache)


def list_kernels(cache: Cache) -> tuple[KernelListing, ...]:
    """List the kernels that can be had from Debian, and those in the cache.

    Parameters
    ----------
    cache : Cache
        Where to look.

    Returns
    -------
    tuple of KernelListing
        The known ones, oldest first, then other suites and directories that are in the cache.
    """
    cached = {kernel.name: kernel for kernel in _all_cached(cache)}
    listings = []
    for name in dict.fromkeys([*DEBIAN_KERNELS, *sorted(cached)]):
        kernel = cached.get(name)
        listings.append(
            KernelListing(
                name=name,
                cached=kernel is not None,
                release=kernel.release if kernel else "",
                version=kernel.version if kernel else "",
            )
        )
    return tuple(listings)


def _wanted() -> dict[str, list[str]]:
    return {"base": list(_BASE_MODULES), "network": list(_NETWORK_MODULES)}


def _packages(archive: PackageArchive) -> dict[str, str]:
    """Find the packages of a kernel and their versions, the one that names it first.

    sid has its kernel in ``linux-binary-RELEASE``, ``linux-modules-RELEASE`` and
    ``linux-base-RELEASE``, older suites have all in ``linux-image-RELEASE``.
    """
    versioned = re.compile(r"linux-(image|binary|modules|base)-\d.*")
    names = [n for n in archive.dependencies(_META_PACKAGE) if n.startswith("linux-image-")]
    if not names:
        raise SourceError(
            f"{_META_PACKAGE} of {archive.suite} names no kernel", sought=archive.sought
        )
    names = names[:1] + [n for n in archive.dependencies(names[0]) if versioned.fullmatch(n)]
    return {name: archive.candidate(name) for name in names}


def _fill(work: Path, vmlinuz: Path, modules: Path) -> dict[str, Any]:
    """Write a kernel's files into its directory and return the facts about it."""
    image = vmlinuz.read_bytes()
    (work / "vmlinuz").write_bytes(image)
    (work / "vmlinux").write_bytes(unpack_kernel(image))
    tree = ModuleTree(modules)
    base = load_order(_BASE_MODULES, tree.read)
    network = load_order(_NETWORK_MODULES, tree.read)
    for module in {*base, *network}:
        (work / f"{module}.ko").write_bytes(tree.read(module) or b"")
    return {
        "release": kernel_release(image),
        "modules": base,
        "network_modules": [module for module in network if module not in base],
    }


def _sole(root: Path, pattern: str) -> Path:
    found = [path for path in sorted(root.rglob(pattern)) if path.is_file()]
    if len(found) != 1:
        raise SourceError(f"the kernel's packages hold {len(found)} files {pattern}; expected 1")
    return found[0]


def _module_root(root: Path) -> Path:
    return _sole(root, "modules.builtin").parent


def _import_local(name: str, cache: Cache, progress: Progress) -> Kernel:
    root = Path(name)
    for path, is_there in ((root / "vmlinuz", Path.is_file), (root / "modules", Path.is_dir)):
        if not is_there(path):
            raise UsageError(
                f"not a kernel's directory: {root}: it has no {path.name}",
                hint="it must hold vmlinuz and a directory modules/, like /lib/modules/RELEASE",
            )
    stats = [
        (str(path.relative_to(root)), path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    ]
    recipe = {
        "kernel": name,
        "vmlinuz": file_digest(root / "vmlinuz"),
        "files": cache_key({"stats": stats}),
        "modules": _wanted(),
        "recipe": _RECIPE,
    }

    def make(work: Path) -> dict[str, Any]:
        if (root / "config").is_file():
            shutil.copyfile(root / "config", work / "config")
        return {**_fill(work, root / "vmlinuz", root / "modules"), "version": ""}

    place = _sound_entry(recipe, make, f"import kernel {name}", cache, progress)
    return _load(name, place, cache)


def _sound_entry(
    recipe: dict[str, Any],
    make: Callable[[Path], dict[str, Any]],
    label: str,
    cache: Cache,
    progress: Progress,
) -> Path:
    """Return a kernel's entry, made once more if it is damaged."""
    place = cache.entry(_KIND, recipe, make, label=label, progress=progress)
    if cache.is_sound(_KIND, place.name, progress=progress):
        return place
    return cache.entry(_KIND, recipe, make, label=label, progress=progress)


def _load(name: str, place: Path, cache: Cache) -> Kernel:
    facts = cache.record(place)["facts"]
    return Kernel(
        name=name,
        path=place,
        release=facts["release"],
        version=facts["version"],
        modules=tuple(facts["modules"]),
        network_modules=tuple(facts["network_modules"]),
    )


def _all_cached(cache: Cache) -> Iterator[Kernel]:
    """Iterate over the cached kernels of this recipe, those last made last."""
    entries = [
        (place.stat().st_mtime_ns, place, cache.record(place)["recipe"])
        for _, place in cache.entries(_KIND)
    ]
    for _, place, recipe in sorted(entries, key=lambda entry: entry[0]):
        if recipe.get("recipe") == _RECIPE and recipe.get("modules") == _wanted():
            suite = recipe.get("suite")
            yield _load(f"debian:{suite}" if suite else recipe["kernel"], place, cache)


def _usable(suite: str, cache: Cache, progress: Progress) -> Kernel | None:
    """Return the cached kernel of a suite for use; one that is damaged is removed."""
    known = _cached(suite, cache)
    if known is None or not cache.hold(_KIND, known.path.name):
        return None
    return known if cache.is_sound(_KIND, known.path.name, progress=progress) else None


def _cached(suite: str, cache: Cache) -> Kernel | None:
    """Return the kernel of a suite that was fetched last: a study keeps to one version."""
    wanted = f"debian:{suite}"
    return next((k for k in reversed(list(_all_cached(cache))) if k.name == wanted), None)
