"""What a guest is given at its start, and bulk data in and out of it.

What goes in becomes a squashfs that the guest mounts as its build directory, so nothing is copied
there. What comes out is a tar archive on a sparse disk; it was written by an untrusted guest.
"""

import errno
import os
import re
import secrets
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path, PurePosixPath

from buildvm_nb.errors import HostError, MachineError
from buildvm_nb.host.cache import free_bytes, tree_bytes
from buildvm_nb.host.cpio import CpioWriter
from buildvm_nb.host.process import find_tool, run_tool
from buildvm_nb.model.machine import Accelerator, MachineSpec, Network
from buildvm_nb.vm.session import ChannelKeys

__all__ = [
    "pack_exports",
    "pack_inputs",
    "unpack_exports",
    "write_initramfs",
]

# What one machine's guest is told at its start: an archive appended to the common initramfs.

_RESERVED_MIB = 112
"""Memory for the guest's kernel and our own programs, which no step may take."""


def write_initramfs(  # noqa: PLR0913 - all that one machine's guest is told
    target: Path,
    common: Path,
    spec: MachineSpec,
    keys: ChannelKeys,
    *,
    disks: Iterable[str],
    processes: int,
    is_resumed: bool = False,
) -> None:
    """Write the initramfs of one machine.

    `disks`: those it has besides the root file system, in the order of QEMU's command line: some of
    ``inputs``, ``exports`` and ``scratch``.
    """
    is_uml = spec.accelerator is Accelerator.UML
    kind = "/dev/ubd" if is_uml else "/dev/vd"
    named = zip(("root", *disks), "abcd", strict=False)
    devices = {name: f"{kind}{letter}" for name, letter in named}
    settings = {
        "ROOT": devices["root"],
        "RESUMED": "yes" if is_resumed else "",
        "CLOCK": f"{spec.date.timestamp():.6f}",
        "SEED": secrets.token_hex(32) if is_uml else "",  # QEMU gives a device for that
        "INPUTS": devices.get("inputs", ""),
        "EXPORTS": devices["exports"],
        "SCRATCH": devices.get("scratch", ""),
        "NETWORK": "" if spec.network is Network.OFF else spec.network.value,
        "DISK_MIB": str(spec.memory_mib * 3 // 4),
        "MEMORY_BYTES": str((spec.memory_mib - _RESERVED_MIB) * 2**20),
        "PROCESSES": str(processes),
    }
    text = "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
    shutil.copyfile(common, target)
    with target.open("ab") as stream:
        archive = CpioWriter(stream)
        archive.file("etc/buildvm/settings", text.encode())
        archive.file("etc/dropbear/host_key", keys.host_key_file(), 0o600)
        archive.directory("home/root/.ssh", 0o700)
        archive.file("home/root/.ssh/authorized_keys", keys.authorized_keys(), 0o600)
        archive.close()
    target.chmod(0o600)


_BUILD_USER = 1000
_PIPE = 1 << 20
_NAMES_FAULT = {errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG}
_LONGEST_NAME = 500
_PACK = ("sqfstar", "-quiet", "-no-progress", "-noI", "-noD", "-noF", "-noX")
"""Not compressed: the guest would have to undo it under emulation."""


_NOTED = re.compile(
    r"^\S*tar: (.*: (?:socket ignored|file changed as we read it|File removed before we read it"
    r"|File shrank by .*|(?:Warning: )?Cannot (?:open|stat|read|readlink).*))$",
    re.MULTILINE,
)
"""What GNU tar says of files that it cannot pack as they are."""
_NOTES = 8


def pack_inputs(
    trees: Mapping[str, Path],
    target: Path,
    *,
    newest: datetime,
    without: Path | None = None,
    on_note: Callable[[str], None] | None = None,
) -> None:
    """Write directories of the host into a squashfs, owned by the guest's unprivileged user.

    `trees`: place below the build directory (``""`` for itself) to a directory of this host.
    `newest`: times of files after this instant become it, so that none lies in the guest's future:
    make(1) and its kin would rebuild or refuse.
    `without`: a directory that is left out where it lies in one of the trees, as the cache does in
    a home.
    `on_note`: gets a sentence about each file that could not be packed, or changed meanwhile. None:
    a file that cannot be read is an error.
    Raises `HostError` if a file cannot be read, or the disk has no room.
    """
    left_out = [path for tree in trees.values() if (path := _inside(tree, without))]
    _check_room(trees, target, left_out)
    argv = [find_tool(_PACK[0]), *_PACK[1:]]
    with tempfile.TemporaryFile() as complaints:
        packer = subprocess.Popen(
            [*argv, str(target)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=complaints,
        )
        with packer:
            try:
                result = subprocess.run(
                    _tar(trees, newest, left_out, is_lenient=on_note is not None),
                    stdin=subprocess.DEVNULL,
                    stdout=packer.stdin,
                    stderr=subprocess.PIPE,
                    env={**os.environ, "LANGUAGE": "C"},  # as its words are read
                    check=False,
                )
            except BaseException:
                packer.kill()
                raise
        complaints.seek(0)
        said = complaints.read().decode(errors="replace").strip()[:2000]
    if packer.returncode != 0:
        raise HostError(f"cannot pack the inputs: sqfstar exited with {packer.returncode}: {said}")
    said = result.stderr.decode(errors="replace").strip()
    if result.returncode not in {0, 1}:  # 1: a file changed while it was read, as logs do
        raise HostError(
            f"cannot read an input: tar exited with {result.returncode}: {said[-2000:]}"
        )
    if on_note:
        _tell(_NOTED.findall(said), on_note)


def _inside(tree: Path, place: Path | None) -> Path | None:
    """Return a place by the way that leads there from a tree; None: it lies elsewhere."""
    if place is None or tree.resolve() not in place.resolve().parents:
        return None
    return tree.absolute() / place.resolve().relative_to(tree.resolve())


def _check_room(trees: Mapping[str, Path], target: Path, left_out: list[Path]) -> None:
    if not target.parent.is_dir():
        return  # the packer tells
    free = free_bytes(target.parent)
    sizes = [tree_bytes(tree.absolute(), without=left_out, enough=free) for tree in trees.values()]
    if sum(sizes) > free:
        named = ", ".join(map(str, trees.values()))
        raise HostError(
            f"no room to copy {named} for a guest: {free // 2**20} MiB are free in {target.parent}",
            hint="share a smaller directory, make room, or choose another --cache",
        )


def _tell(notes: list[str], on_note: Callable[[str], None]) -> None:
    for note in notes[:_NOTES]:
        on_note(f"not copied as it is: /{note}")
    if (more := len(notes) - _NOTES) and more > 0:
        on_note(f"so were {more} more files")


def pack_exports(disk: Path, target: Path) -> None:
    """Turn what a guest exported into a squashfs, unpacking nothing on this host."""
    with disk.open("rb") as archive:
        run_tool([find_tool(_PACK[0]), *_PACK[1:], target], stdin=archive)


def _tar(
    trees: Mapping[str, Path], newest: datetime, left_out: list[Path], *, is_lenient: bool
) -> list[str]:
    """Return the command that writes the trees as one archive: GNU tar clamps times on the way."""
    argv = [find_tool("tar"), "--create", "--format=pax", "--sort=name", "--numeric-owner"]
    argv += ["--pax-option=delete=atime,delete=ctime"]
    argv += ["--clamp-mtime", f"--mtime=@{int(newest.timestamp())}"]
    argv += [f"--owner=:{_BUILD_USER}", f"--group=:{_BUILD_USER}", "--directory=/"]
    if is_lenient:
        argv.append("--ignore-failed-read")
    argv += ["--anchored", "--no-wildcards"]
    argv += [f"--exclude={str(path).lstrip('/')}" for path in left_out]
    for place, tree in trees.items():
        name = str(tree.absolute()).lstrip("/")
        here = re.sub(r"([\\.\[\]*^$,])", r"\\\1", name)
        there = re.sub(r"([\\&,])", r"\\\1", place or ".")
        argv += [f"--transform=s,^{here},{there},S", name]
    return argv


def unpack_exports(disk: Path, into: Path) -> tuple[Path, ...]:
    """Unpack what a guest exported: regular files and directories inside the target, no more.

    Raises `MachineError` if the archive is damaged or holds names that no files inside the target
    can have.
    """
    into.mkdir(parents=True, exist_ok=True)
    try:
        with (
            disk.open("rb") as stream,
            tarfile.open(fileobj=stream, mode="r|", bufsize=_PIPE) as archive,
        ):
            return tuple(sorted(_unpack(archive, into, disk.stat().st_size)))
    except (tarfile.TarError, ValueError) as error:  # tarfile lets bad numbers in a header by
        raise MachineError(f"the guest's artifacts cannot be unpacked: {error}") from error
    except OSError as error:
        if error.errno in _NAMES_FAULT:
            what = f"{error.filename}: {error.strerror}"[:_LONGEST_NAME]
            raise MachineError(f"the guest's artifacts cannot be unpacked: {what}") from error
        raise HostError(f"cannot write artifacts: {error.filename}: {error.strerror}") from error


def _unpack(archive: tarfile.TarFile, into: Path, room: int) -> Iterator[Path]:
    """Unpack without links, so that no name can lead elsewhere; the room bounds what is claimed."""
    for member in archive:
        if not (member.isreg() or member.isdir()):
            continue
        name = PurePosixPath(member.name)
        room -= member.size
        if name.is_absolute() or ".." in name.parts or member.issparse() or room < 0:
            message = f"not acceptable: {member.name!r} of {member.size} bytes"
            raise tarfile.TarError(message)
        target = into / name
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        content = archive.extractfile(member)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as stream:
            if content:
                shutil.copyfileobj(content, stream, _PIPE)
        yield Path(name)
