"""Host programs: found, run without a shell, and reported clearly when missing or failing."""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from buildvm_nb.errors import HostError
from buildvm_nb.host.interruption import interruptible, is_covered

__all__ = ["DEBIAN_PACKAGES", "find_tool", "run_process", "run_tool"]

DEBIAN_PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "fakechroot": "fakechroot",
    "fakeroot": "fakeroot",
    "sqfstar": "squashfs-tools",
    "mksquashfs": "squashfs-tools",
    "unsquashfs": "squashfs-tools",
    "apt-get": "apt",
    "apt-cache": "apt",
    "apt-config": "apt",
    "dpkg-deb": "dpkg",
    "dpkg-source": "dpkg-dev",
    "git": "git",
    "mke2fs": "e2fsprogs",
    "ssh": "openssh-client",
    "xz": "xz-utils",
    "zstd": "zstd",
    "lz4": "lz4",
    "bwrap": "bubblewrap",
    "cp": "coreutils",
}
"""Debian package of each host program that is used."""

_TAIL = 2000


def find_tool(name: str) -> str:
    """Return the path of a host program.

    Parameters
    ----------
    name : str
        Its name, as on the command line.

    Returns
    -------
    str
        Absolute path.

    Raises
    ------
    HostError
        If it is not on ``PATH`` nor in the directories of system programs.
    """
    system = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    if path := shutil.which(name, path=system):
        return path
    package = DEBIAN_PACKAGES.get(name, name)
    raise HostError(
        f"program not found on this host: {name}",
        hint=f"on Debian or Ubuntu: sudo apt-get install --no-install-recommends {package}",
    )


def run_process(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    stdout: IO[bytes] | int = subprocess.PIPE,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end; with all that it starts it is ended where that is requested.

    Parameters
    ----------
    argv : sequence of str
        Program and arguments.
    env : mapping, optional
        All its variables; None: the process's own.
    cwd : Path, optional
        Directory to run in.
    stdin, stdout : file or int
        As for `subprocess.Popen`.

    Returns
    -------
    CompletedProcess
        With what it said.

    Raises
    ------
    Interrupted
        If this thread's work is no longer wanted.
    """
    is_group = is_covered()  # else Ctrl-C of the terminal ends it
    with subprocess.Popen(
        argv,
        env=env,
        cwd=cwd,
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        process_group=0 if is_group else None,
    ) as process:
        try:
            with interruptible(lambda: _end_group(process)):
                said, complained = process.communicate()
        except BaseException:
            if is_group:  # interrupted before anybody could end it, perhaps
                _end_group(process, signal.SIGKILL)
            else:
                process.kill()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, said, complained)


def _end_group(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> None:
    if process.poll() is None:
        os.killpg(process.pid, number)


def run_tool(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    stdout: IO[bytes] | int = subprocess.PIPE,
) -> bytes:
    """Run a host program to its end and return what it printed.

    Parameters
    ----------
    argv : sequence of str or Path
        Program and arguments.
    env : mapping, optional
        Variables set on top of the process's own.
    cwd : Path, optional
        Directory to run in.
    stdin, stdout : file or int
        As for `subprocess.Popen`.

    Returns
    -------
    bytes
        Standard output; empty when it went to a file.

    Raises
    ------
    HostError
        If the program is missing or exits non-zero; the message has the end of its output.
    """
    program = find_tool(str(argv[0]))
    result = run_process(
        [program, *map(str, argv[1:])],
        env={**os.environ, **(env or {})},
        cwd=cwd,
        stdin=stdin,
        stdout=stdout,
    )
    if result.returncode != 0:
        said = (result.stderr or result.stdout or b"").decode(errors="replace").strip()[-_TAIL:]
        shown = " ".join(map(str, argv))[:300]
        raise HostError(f"{shown}\nexited with {result.returncode}; it said:\n{said}")
    return result.stdout or b""
