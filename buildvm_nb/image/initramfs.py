"""The initramfs: our guest programs, scripts and the modules of one kernel, as one cpio archive.

It is not compressed, as the guest would have to unpack it under emulation, and the same for every
machine with the same kernel: what is particular to a machine (keys, clock, limits) comes in a
second archive that is appended by `buildvm_nb.vm`.
"""

import shutil
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

from buildvm_nb.debian import PackageArchive, unpack_deb
from buildvm_nb.errors import SourceError
from buildvm_nb.host.cache import Cache, cache_key, file_digest
from buildvm_nb.host.cpio import CpioWriter
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.image.kernel import Kernel

__all__ = [
    "GUEST_TOOLS",
    "PackagePool",
    "build_initramfs",
    "copy_libraries",
    "copy_program",
    "fetch_guest_tools",
    "read_linkage",
]

# As much of the ELF format as is needed to find the libraries that a program loads.
#
# References: System V ABI, chapters 4 and 5; Linux, include/uapi/linux/elf.h.

_MAGIC_64_LITTLE = b"\x7fELF\x02\x01"
_LOAD, _DYNAMIC, _INTERPRETER = 1, 2, 3
_END, _NEEDED, _STRING_TABLE = 0, 1, 5


@dataclass(frozen=True, kw_only=True)
class Linkage:
    """What a program or library asks the loader for."""

    interpreter: str | None
    """Path of the loader; None for a library or a static program."""
    needed: tuple[str, ...]
    """Names of libraries."""


@dataclass(frozen=True)
class _Segment:
    kind: int
    offset: int
    address: int
    size: int


def read_linkage(path: Path) -> Linkage:
    """Read which loader and libraries an ELF file needs."""
    data = path.read_bytes()
    if not data.startswith(_MAGIC_64_LITTLE):
        raise SourceError(f"not a 64-bit little-endian ELF file: {path.name}")
    try:
        segments = _segments(data)
        needed = tuple(_needed(data, segments))
        interpreter = next(
            (_text(data, segment.offset) for segment in segments if segment.kind == _INTERPRETER),
            None,
        )
    except (struct.error, ValueError, StopIteration) as error:
        raise SourceError(f"damaged ELF file: {path.name}") from error
    return Linkage(interpreter=interpreter, needed=needed)


def _segments(data: bytes) -> list[_Segment]:
    start = struct.unpack_from("<Q", data, 32)[0]
    size, count = struct.unpack_from("<HH", data, 54)
    segments = []
    for index in range(count):
        kind, _, offset, address, _, in_file = struct.unpack_from(
            "<IIQQQQ", data, start + index * size
        )
        segments.append(_Segment(kind, offset, address, in_file))
    return segments


def _needed(data: bytes, segments: list[_Segment]) -> list[str]:
    names: list[int] = []
    table = 0
    for segment in segments:
        if segment.kind == _DYNAMIC:
            for at in range(segment.offset, segment.offset + segment.size, 16):
                tag, value = struct.unpack_from("<QQ", data, at)
                if tag == _NEEDED:
                    names.append(value)
                elif tag == _STRING_TABLE:
                    table = value
                elif tag == _END:
                    break
    if not names:
        return []
    offset = next(
        segment.offset + table - segment.address
        for segment in segments
        if segment.kind == _LOAD and segment.address <= table < segment.address + segment.size
    )
    return [_text(data, offset + name) for name in names]


def _text(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode()


# The few programs that our initramfs brings along, with the libraries that they load.
#
# They come from one Debian suite, whatever image or kernel the guest has: the initramfs is ours.

GUEST_TOOLS = {
    "bin/busybox": "busybox-static",
    "usr/sbin/dropbear": "dropbear-bin",
    "bin/tar": "tar",
    "usr/bin/perl": "perl-base",
}
"""Path of each program and the Debian package it comes from."""

_SUITE = "bookworm"
_TOOLS_RECIPE = 1
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
    recipe = {"tools": GUEST_TOOLS, "suite": _SUITE, "recipe": _TOOLS_RECIPE}

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


_RECIPE = 2
_SCRIPTS = (
    "init",
    "control",
    "wake",
    "freeze",
    "relay",
    "hold",
    "step",
    "stop",
    "artifacts",
    "serve",
    "session",
)
_APPLETS = tuple(
    """
    sh mkdir cat ip nsenter adjtimex kill dd reboot poweroff dmesg rm
    """.split()  # noqa: SIM905 - a list of quoted words is harder to read
)
_DIRECTORIES = ("proc", "sys", "dev", "lower", "upper", "root", "inputs", "run", "tmp")
_CONSOLE = (5, 1)


def build_initramfs(kernel: Kernel, cache: Cache, progress: Progress = SILENT) -> Path:
    """Return the initramfs for a kernel, made now if it is not in the cache."""
    tools = fetch_guest_tools(cache, progress)
    scripts = {name: files("buildvm_nb.image").joinpath("guest", name) for name in _SCRIPTS}
    modules = (*kernel.modules, *kernel.network_modules)
    recipe = {
        "recipe": _RECIPE,
        "applets": _APPLETS,
        "scripts": {name: script.read_text() for name, script in scripts.items()},
        "tools": cache.record(tools)["facts"],
        "modules": {name: file_digest(kernel.module_path(name)) for name in modules},
    }

    def make(work: Path) -> dict[str, Any]:
        with (work / "initramfs.cpio").open("wb") as stream:
            archive = CpioWriter(stream)
            for name in _DIRECTORIES:
                archive.directory(name)
            archive.character_device("dev/console", _CONSOLE)
            for program in [*GUEST_TOOLS, "lib", "lib64"]:
                _add(archive, tools, program)
            for applet in _APPLETS:
                archive.symlink(f"bin/{applet}", "busybox")
            for name, script in scripts.items():
                place = "init" if name == "init" else f"bin/{name}"
                archive.file(place, script.read_bytes(), 0o755)
            for name in modules:
                archive.file(f"modules/{name}.ko", kernel.module_path(name))
            archive.file("etc/buildvm/modules", _lines(kernel.modules))
            archive.file("etc/buildvm/network-modules", _lines(kernel.network_modules))
            # users of the SSH server get no more than a step, see `session`
            users = ("root", "build", "offloading")
            passwd = "".join(f"{user}:x:0:0::/home/{user}:/bin/sh\n" for user in users)
            archive.file("etc/passwd", passwd.encode())
            archive.file("etc/group", b"root:x:0:\n")
            archive.file("etc/shells", b"/bin/sh\n")
            archive.close()
        return {"release": kernel.release}

    label = "make the initramfs"
    place = cache.entry("initramfs", recipe, make, label=label, progress=progress)
    if not cache.is_sound("initramfs", place.name, progress=progress):
        place = cache.entry("initramfs", recipe, make, label=label, progress=progress)
    return place / "initramfs.cpio"


def _add(archive: CpioWriter, root: Path, name: str) -> None:
    if (root / name).is_dir():
        archive.directory(name)
        archive.tree(root / name, name)
    else:
        archive.file(name, root / name, 0o755)


def _lines(names: tuple[str, ...]) -> bytes:
    return "".join(f"{name}\n" for name in names).encode()
