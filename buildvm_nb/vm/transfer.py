"""Bulk data in and out of a guest: as disks, which is much faster than any channel.

What goes in becomes a squashfs that the guest mounts as its build directory, so nothing is copied
there. What comes out is a tar archive on a sparse disk; it was written by an untrusted guest.
"""

import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, cast

from buildvm_nb.errors import HostError, MachineError
from buildvm_nb.host.tools import find_tool

__all__ = ["pack_inputs", "unpack_exports"]

_BUILD_USER = 1000
_PIPE = 1 << 20


def pack_inputs(trees: Mapping[str, Path], target: Path, *, newest: datetime) -> None:
    """Write directories of the host into a squashfs, owned by the guest's unprivileged user.

    Parameters
    ----------
    trees : mapping of str to Path
        Place below the build directory (``""`` for itself) to a directory of this host.
    target : Path
        The squashfs.
    newest : datetime
        Times of files after this instant become it, so that none lies in the guest's future:
        make(1) and its kin would rebuild or refuse.

    Raises
    ------
    HostError
        If a file cannot be read, or the disk is full.
    """
    argv = [find_tool("sqfstar"), "-quiet", "-no-progress", "-noI", "-noD", "-noF", "-noX"]
    argv += ["-force-uid", str(_BUILD_USER), "-force-gid", str(_BUILD_USER), str(target)]
    packer = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    with packer:
        try:
            with (
                cast("IO[bytes]", packer.stdin) as pipe,
                tarfile.open(
                    fileobj=pipe, mode="w|", bufsize=_PIPE, format=tarfile.PAX_FORMAT
                ) as archive,
            ):
                for place, tree in trees.items():
                    _add(archive, place, tree, newest.timestamp())
        except BrokenPipeError:
            pass  # sqfstar says below what was wrong
        except OSError as error:
            packer.kill()
            raise HostError(f"cannot read an input: {error.filename}: {error.strerror}") from error
        except BaseException:
            packer.kill()
            raise
        said = packer.stderr.read().decode(errors="replace") if packer.stderr else ""
    if packer.returncode != 0:
        raise HostError(f"cannot pack the inputs: sqfstar exited with {packer.returncode}: {said}")


def _add(archive: tarfile.TarFile, place: str, tree: Path, newest: float) -> None:
    def settle(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        member.mtime = min(member.mtime, newest)
        if member.isdir() or member.isreg() or member.issym() or member.islnk():
            return member
        return None  # sockets and devices mean nothing elsewhere

    if not place:
        for child in sorted(tree.iterdir()):
            archive.add(child, child.name, filter=settle)
        return
    parents = Path(place).parents
    for parent in list(parents)[-2::-1]:
        directory = tarfile.TarInfo(str(parent))
        directory.type, directory.mode, directory.mtime = tarfile.DIRTYPE, 0o755, newest
        archive.addfile(directory)
    archive.add(tree, place, filter=settle)


def unpack_exports(disk: Path, into: Path) -> tuple[Path, ...]:
    """Unpack what a guest exported: regular files and directories inside the target, no more.

    Parameters
    ----------
    disk : Path
        The exports disk, with a tar archive at its beginning.
    into : Path
        Directory to unpack into; made if missing.

    Returns
    -------
    tuple of Path
        The files, relative to `into`, sorted.

    Raises
    ------
    MachineError
        If the archive is damaged or holds a name that leads out of the target.
    HostError
        If the disk of this host is full.
    """
    into.mkdir(parents=True, exist_ok=True)
    try:
        with disk.open("rb") as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            return tuple(sorted(_unpack(archive, into)))
    except tarfile.TarError as error:
        raise MachineError(f"the guest's artifacts cannot be unpacked: {error}") from error
    except OSError as error:
        raise HostError(f"cannot write artifacts: {error.filename}: {error.strerror}") from error


def _unpack(archive: tarfile.TarFile, into: Path) -> Iterator[Path]:
    for member in archive:
        if not (member.isreg() or member.isdir()):
            continue  # a link could lead what is unpacked next, or a reader, elsewhere
        safe = tarfile.data_filter(member, str(into))
        target = into / safe.name
        if safe.isdir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        content = archive.extractfile(member)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as stream:
            if content:
                shutil.copyfileobj(content, stream, _PIPE)
        yield Path(safe.name)
