"""mmdebstrap, told what to make and watched while it does.

References
----------
mmdebstrap(1). As root it installs in a chroot; an ordinary user gets the same through fakechroot
and fakeroot, which need no user namespaces (see also `buildvm_nb.image.toolbox`).
"""

import os
import re
from collections import deque
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import IO

from buildvm_nb.debian import MIRROR_HINT, AptSource, acquire_settings, is_archives_answer
from buildvm_nb.errors import BuildVMError, HostError, SourceError, Unreachable
from buildvm_nb.host.progress import Task
from buildvm_nb.host.tools import find_tool

__all__ = [
    "BootstrapMode",
    "Watcher",
    "bootstrap_mode",
    "clean_environment",
    "extract_arguments",
    "mmdebstrap_arguments",
]

_EXCLUDED = (
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/doc/*",
    "/usr/share/locale/*",
    "/usr/share/lintian/*",
    "/usr/share/bug/*",
)
_INCLUDED = ("/usr/share/doc/*/copyright", "/usr/share/locale/locale.alias")
_MAN_DIRECTORIES = 'mkdir -p "$1"/usr/share/man/man1 "$1"/usr/share/man/man7'
"""Some packages' scripts fail when these are not there."""
_DATED = ('Acquire::Check-Valid-Until "false";', 'Acquire::Check-Date "false";')
_STAGES = (
    ("running apt-get update", 0, "reading package lists"),
    ("downloading packages", 5, "retrieving packages"),
    ("extracting archives", 25, "extracting"),
    ("installing essential packages", 35, "installing"),
    ("installing remaining packages", 60, "installing"),
    ("cleaning package lists", 90, "cleaning"),
    ("creating tarball", 92, "packing"),
)
_PACKAGE = re.compile(r"(Unpacking|Setting up|Get:\d+ \S+ \S+ \S+) ([a-z0-9][a-z0-9+.-]*)")
_TELLING = re.compile(
    r"^(E: (?!Sub-process|mmdebstrap|apt-get|run_chroot|env |setup failed|/usr/bin)|dpkg: error"
    r"|tar: | *\S+ : (Pre)?(Depends|Conflicts|Breaks): | {4,}(Depends|Conflicts|Breaks): "
    r"|.*(No space left|symbol lookup error|version `GLIBC|proot (error|warning)))"
)
_UNFIT = re.compile("(Depends|Conflicts|Breaks): |held br")
"""What apt says of packages that the archive has, and that do not go together."""
_SHOWN_LINES = 8
_LONGEST_LINE = 300
_KEPT_LINES = 400


class BootstrapMode(StrEnum):
    """How packages are installed into an image."""

    ROOT = "root"
    """In a chroot, by root."""
    FAKECHROOT = "fakechroot"
    """In a pretended chroot; only with the C library of the host."""
    TOOLBOX = "toolbox"
    """In a pretended chroot inside the suite's own toolbox."""


def bootstrap_mode(libc_version: str) -> BootstrapMode:
    """Return the way in which this user can make an image.

    Parameters
    ----------
    libc_version : str
        Version of the suite's package ``libc6``.

    Returns
    -------
    BootstrapMode
        The fastest that works.

    Raises
    ------
    HostError
        If a program that is needed is missing.
    """
    find_tool("mmdebstrap")
    find_tool("sqfstar")
    if os.geteuid() == 0:
        return BootstrapMode.ROOT
    find_tool("fakechroot")
    find_tool("fakeroot")
    same = os.confstr("CS_GNU_LIBC_VERSION") == f"glibc {re.split('[-+]', libc_version)[0]}"
    return BootstrapMode.FAKECHROOT if same else BootstrapMode.TOOLBOX


def clean_environment(scratch: Path) -> dict[str, str]:
    """Return the variables with which packages are installed: nothing of the user's leaks in.

    Parameters
    ----------
    scratch : Path
        Directory for temporary files.

    Returns
    -------
    dict of str to str
        All variables; of the user's own, only where programs and proxies are.
    """
    proxies = {k: v for k, v in os.environ.items() if k.lower().endswith("_proxy")}
    return {
        **proxies,
        "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin",
        "HOME": "/nonexistent",
        "LC_ALL": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
        "TMPDIR": str(scratch),
    }


def mmdebstrap_arguments(
    suite: str,
    sources: Sequence[AptSource],
    packages: Iterable[str],
    *,
    mode: BootstrapMode,
    dated: bool,
) -> list[str]:
    """Write the command that makes a root file system and prints it as a tar archive.

    Parameters
    ----------
    suite : str
        Debian suite.
    sources : sequence of AptSource
        Where its packages come from.
    packages : iterable of str
        Extra packages, ``name`` or ``name=version``.
    mode : BootstrapMode
        As `bootstrap_mode` gives it.
    dated : bool
        Whether the mirror shows the past.

    Returns
    -------
    list of str
        Program and arguments.
    """
    return [
        *("mmdebstrap", f"--mode={'root' if mode is BootstrapMode.ROOT else 'fakechroot'}"),
        *("--variant=minbase", "--format=tar", "--verbose"),
        *_common(suite, dated=dated),
        *(f"--dpkgopt=path-exclude={path}" for path in _EXCLUDED),
        *(f"--dpkgopt=path-include={path}" for path in _INCLUDED),
        "--dpkgopt=force-unsafe-io",
        f"--essential-hook={_MAN_DIRECTORIES}",
        *(f"--include={package}" for package in packages),
        *(suite.removesuffix("-backports"), "-"),
        *(source.line() for source in sources),
    ]


def extract_arguments(
    suite: str, sources: Sequence[AptSource], packages: Iterable[str], into: Path, *, dated: bool
) -> list[str]:
    """Write the command that unpacks packages, and what they depend on, without installing them.

    Parameters
    ----------
    suite : str
        Debian suite.
    sources : sequence of AptSource
        Where its packages come from.
    packages : iterable of str
        Names.
    into : Path
        Directory, made by it.
    dated : bool
        Whether the mirror shows the past.

    Returns
    -------
    list of str
        Program and arguments.
    """
    return [
        *("mmdebstrap", "--mode=fakechroot", "--variant=extract", "--format=directory"),
        *("--verbose", "--skip=output/dev"),
        *_common(suite, dated=dated),
        *(f"--include={package}" for package in packages),
        *(suite.removesuffix("-backports"), str(into)),
        *(source.line() for source in sources),
    ]


def _common(suite: str, *, dated: bool) -> list[str]:
    settings = [*acquire_settings(), *(_DATED if dated else ())]
    if suite.endswith("-backports"):
        # mmdebstrap has to know the suite and gets its base; apt has to prefer the backports
        settings.append(f'APT::Default-Release "{suite}";')
    return ["--architectures=amd64", *(f"--aptopt={line}" for line in settings)]


class Watcher:
    """Reads what mmdebstrap says: progress while it goes well, the trouble when it does not.

    Parameters
    ----------
    task : Task
        Told how far it is, in percent.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._done = 0.0
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)

    def watch(self, stream: IO[bytes]) -> None:
        """Read to the end.

        Parameters
        ----------
        stream : binary file
            mmdebstrap's standard error.
        """
        for raw in stream:
            self.hear(raw.decode(errors="replace").rstrip())

    def hear(self, line: str) -> None:
        """Take up one line.

        Parameters
        ----------
        line : str
            Without its end.
        """
        self._lines.append(line)
        for words, done, note in _STAGES:
            if line.startswith("I: ") and words in line:
                self._done = done
                self._task.update(done, 100, note)
                return
        if match := _PACKAGE.match(line):
            verb = "retrieving" if match[1].startswith("Get") else match[1].lower()
            self._task.update(self._done, 100, f"{verb} {match[2]}")

    def error(self, subject: str, *, exit_status: int) -> BuildVMError:
        """Word the error out of what was said last.

        Parameters
        ----------
        subject : str
            What was to be made.
        exit_status : int
            mmdebstrap's.

        Returns
        -------
        BuildVMError
            To be raised: a SourceError for what the archive cannot give, else a HostError.
        """
        telling = [line.strip() for line in self._lines if _TELLING.search(line)]
        shown = list(dict.fromkeys(telling or self._lines))[-_SHOWN_LINES:]
        said = "\n".join(line[:_LONGEST_LINE] for line in shown)
        message = f"image {subject} cannot be made, mmdebstrap exited with {exit_status}:\n{said}"
        if "No space left" in said:
            return HostError(message, hint="make room, or choose another place with --cache")
        if _UNFIT.search(said) or is_archives_answer(said):
            return SourceError(message)
        if "Failed to fetch" in said:
            return Unreachable(message, hint=MIRROR_HINT)
        return HostError(message)
