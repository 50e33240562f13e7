"""Secrets of our own machines: put into place over the private channel, where nothing listens."""

import io
import stat
import tarfile
from pathlib import Path

from buildvm_nb.errors import CommandFailed, MachineError
from buildvm_nb.guix.secretfiles import gather
from buildvm_nb.vm import BuildMachine

__all__ = ["install_secrets"]

_TIMEOUT_S = 120.0
_UNPACK = ("tar", "--extract", "--preserve-permissions", "--file=-", "--directory=/")


def install_secrets(guest: BuildMachine, directory: Path) -> int:
    """Put the files of a directory below a guest's root directory, owned by root.

    Parameters
    ----------
    guest : BuildMachine
        It is up.
    directory : Path
        Plain files, 64 MiB at most; links are refused.

    Returns
    -------
    int
        How many there were.

    Raises
    ------
    UsageError
        If there is no such directory, or it has what cannot be sent.
    HostError
        If a file cannot be read.
    MachineError
        If the guest cannot take them.
    """
    files = gather(directory)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as writer:
        for file, content in files:
            member = tarfile.TarInfo(file.name.lstrip("/"))
            member.size, member.mode = file.size, stat.S_IMODE(file.mode)
            member.mtime = guest.spec.date.timestamp()
            writer.addfile(member, io.BytesIO(content))
    archive.seek(0)
    said = bytearray()
    try:
        guest.run(
            _UNPACK,
            check=True,
            as_root=True,
            timeout_s=_TIMEOUT_S,
            stdin=archive,
            stderr=said.extend,
        )
    except CommandFailed as error:
        raise MachineError(
            f"the machine cannot take its secrets from {directory}: {error.message}",
            evidence=said.decode(errors="replace"),
        ) from error
    return len(files)
