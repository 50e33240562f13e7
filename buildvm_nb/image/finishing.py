"""The last touch to a root file system, as a pass over its tar stream.

What a guest needs is added (a user, a build directory, a hosts file), what belongs to the making
is taken out, and all times become one instant. A guest may live in any year, so times of today's
making, or of a package made after that year, would lie in its future: make(1) would warn and
rebuild. Guix and Nix have shown over many years that software builds well with one old time on all
files. That time is not before 1980, because zip archives cannot hold an earlier one.

Python's compiled files hold their source's time. They get the new one, or each import in a guest
would compile anew.

References
----------
Python, Lib/importlib/_bootstrap_external.py (``.pyc`` header); APPNOTE.TXT 4.4.6 (DOS time);
shadow(5).
"""

import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO

__all__ = ["BUILD_USER", "FILE_TIME", "FinishedRoot", "finish", "read_packages"]

FILE_TIME = 315619200
"""1980-01-02T00:00:00Z: the time of every file of an image."""

BUILD_USER = ("build", 1000)
"""Name and number of the unprivileged user of a guest."""

_STATUS = "var/lib/dpkg/status"
_DROPPED = re.compile(
    r"etc/(\.pwd\.lock|machine-id|apt/(sources\.list|apt\.conf\.d/99mmdebstrap)"
    r"|dpkg/dpkg\.cfg\.d/99mmdebstrap|(passwd|group|shadow|gshadow|subuid|subgid)-)"
    r"|var/lib/dpkg/[a-z]+-old|var/lib/dpkg/lock.*|var/lib/apt/lists/.+|var/cache/apt/.+"
    r"|var/cache/debconf/.+-old|var/cache/ldconfig/aux-cache|var/log/.+\.log(\.xz)?"
    r"|run/.+|tmp/.+|dev/.+|proc/.+|sys/.+"
)
_ACCOUNTS = {
    "etc/passwd": "build:x:1000:1000::/home/build:/bin/sh\n",
    "etc/group": "build:x:1000:\n",
    "etc/shadow": "build:*::0:99999:7:::\n",
    "etc/gshadow": "build:!::\n",
}
_FILES = {
    "etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    "etc/hostname": "build-vm\n",
    "etc/resolv.conf": "",
    "etc/machine-id": "",
}
_DIRECTORIES = {
    "build": (0o755, 1000),
    "home": (0o755, 0),
    "home/build": (0o755, 1000),
    "proc": (0o555, 0),
    "sys": (0o555, 0),
    "dev": (0o755, 0),
    "run": (0o755, 0),
    "tmp": (0o1777, 0),
}
_PYC_HEADER = 16
_DROPPED_PAX = re.compile(r"[mac]time|GNU\.sparse\..*")
"""Times would differ from image to image; holes of files are filled in, as they are read."""


@dataclass
class FinishedRoot:
    """What was seen on the way."""

    packages: dict[str, str] = field(default_factory=dict)
    """Version of each installed package."""
    size: int = 0
    """Bytes in files, unpacked."""


def finish(source: IO[bytes], target: IO[bytes]) -> FinishedRoot:
    """Copy a root file system's tar stream and finish it on the way.

    Parameters
    ----------
    source : binary file
        A tar archive, read in one go.
    target : binary file
        Where the finished one is written; not closed.

    Returns
    -------
    FinishedRoot
        What was seen.

    Raises
    ------
    tarfile.TarError
        If the source is no whole tar archive.
    """
    seen = FinishedRoot()
    with (
        tarfile.open(fileobj=source, mode="r|", bufsize=1 << 20) as old,
        tarfile.open(fileobj=target, mode="w|", bufsize=1 << 20, format=tarfile.PAX_FORMAT) as new,
    ):
        for member in old:
            name = str(PurePosixPath(member.name))
            if _is_dropped(name, member):
                continue
            member.mtime = FILE_TIME
            kept = {k: v for k, v in member.pax_headers.items() if not _DROPPED_PAX.fullmatch(k)}
            member.pax_headers = kept
            if not member.isreg():
                new.addfile(member)
                continue
            content = old.extractfile(member)
            data = _rewrite(name, content.read() if content else b"")
            member.size, member.type = len(data), tarfile.REGTYPE
            if name == _STATUS:
                seen.packages = read_packages(data.decode(errors="replace"))
            seen.size += len(data)
            new.addfile(member, io.BytesIO(data))
        for member, data in _additions():
            new.addfile(member, io.BytesIO(data))
    return seen


def read_packages(status: str) -> dict[str, str]:
    """Read the versions of installed packages from dpkg's status file.

    Parameters
    ----------
    status : str
        Its content.

    Returns
    -------
    dict of str to str
        Name to version, sorted by name.
    """
    packages = {}
    for stanza in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Status|Version): (.+)$", stanza, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            packages[fields["Package"]] = fields["Version"]
    return dict(sorted(packages.items()))


def _is_dropped(name: str, member: tarfile.TarInfo) -> bool:
    is_ours = name in _FILES or name in _DIRECTORIES
    return is_ours or member.isdev() or _DROPPED.fullmatch(name) is not None


def _rewrite(name: str, data: bytes) -> bytes:
    if name in _ACCOUNTS:
        text = data.decode()
        if name == "etc/shadow":
            # the day of the last change of a password is the day of the making
            text = re.sub(r"^([^:]*:[^:]*):\d+:", r"\1::", text, flags=re.MULTILINE)
        return (text + _ACCOUNTS[name]).encode()
    if name.endswith(".pyc") and len(data) >= _PYC_HEADER and data[4:8] == bytes(4):
        return data[:8] + FILE_TIME.to_bytes(4, "little") + data[12:]
    return data


def _additions() -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    for name, (mode, owner) in _DIRECTORIES.items():
        member = tarfile.TarInfo(f"./{name}")
        member.type = tarfile.DIRTYPE
        member.mode, member.mtime = mode, FILE_TIME
        member.uid = member.gid = owner
        yield member, b""
    for name, text in _FILES.items():
        member = tarfile.TarInfo(f"./{name}")
        member.mode, member.mtime = 0o644, FILE_TIME
        member.size = len(text.encode())
        yield member, text.encode()
