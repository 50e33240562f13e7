"""A root directory with a suite's own installer, for users who are not root.

fakechroot makes a chroot out of preloaded libraries, so programs of the host and of the image load
the same C library: it works only where both have the same version of it. For any other suite
mmdebstrap runs inside a toolbox: the suite's own mmdebstrap, apt and fakechroot, unpacked but not
installed. proot makes it the root directory by ptrace(2), which needs no privileges and no user
namespaces; it costs time.

References
----------
fakechroot(1); proot(1); mmdebstrap(1), variant ``extract``.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from buildvm_nb.debian import PackageArchive, unpack_deb
from buildvm_nb.errors import SourceError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import SILENT, Progress

__all__ = ["TOOLBOX_PACKAGES", "fetch_toolbox", "toolbox_command"]

_KIND = "toolboxes"
_RECIPE = 1
TOOLBOX_PACKAGES = (
    *("apt", "base-files", "base-passwd", "bash", "coreutils", "dash", "debianutils"),
    *("diffutils", "dpkg", "fakechroot", "fakeroot", "findutils", "grep", "gzip", "hostname"),
    *(
        "libc-bin",
        "login",
        "mawk",
        "mmdebstrap",
        "passwd",
        "perl",
        "python3",
        "sed",
        "tar",
        "util-linux",
    ),
)
_PROOT_SUITE = "bookworm"
_PROOT_PACKAGES = ("proot", "libtalloc2")
_LINKS = {
    # what the packages' scripts would have made
    "usr/bin/fakeroot": "fakeroot-sysv",
    "usr/bin/faked": "faked-sysv",
    "usr/bin/awk": "mawk",
    "usr/bin/which": "which.debianutils",
    "bin/sh": "dash",
}
_FROM_HOST = (
    *("/dev", "/proc", "/sys", "/usr/share/keyrings"),
    *("/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf"),
    *("/etc/ssl", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates"),
    *("/etc/apt/auth.conf", "/etc/apt/auth.conf.d"),
)
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def fetch_toolbox(
    archive: PackageArchive,
    extract: Callable[[Path, Path], None],
    cache: Cache,
    progress: Progress = SILENT,
) -> Path:
    """Return the toolbox of a suite, made now if it is not in the cache.

    Parameters
    ----------
    archive : PackageArchive
        The suite.
    extract : callable
        Given a new directory and one for temporary files, unpacks `TOOLBOX_PACKAGES` with all
        that they depend on into the former.
    cache : Cache
        Keeps it.
    progress : Progress
        Shows what is fetched.

    Returns
    -------
    Path
        A directory with ``root`` and ``proot``.

    Raises
    ------
    SourceError
        If a package cannot be fetched.
    HostError
        If this host lacks a program or space.
    """
    recipe = {
        "suite": archive.suite,
        "mirror": archive.mirror,
        "packages": TOOLBOX_PACKAGES,
        "recipe": _RECIPE,
    }

    def make(work: Path) -> dict[str, Any]:
        proot = PackageArchive(_PROOT_SUITE, cache=cache, progress=progress)
        for deb in proot.download(_PROOT_PACKAGES):
            unpack_deb(deb, work / "proot")
        scratch = work / "tmp"
        scratch.mkdir()
        extract(work / "root", scratch)
        shutil.rmtree(scratch)
        _complete(work / "root")
        return {"mmdebstrap": archive.candidate("mmdebstrap")}

    label = f"unpack the installer of {archive.suite}"
    return cache.entry(_KIND, recipe, make, label=label, progress=progress)


def toolbox_command(toolbox: Path, work: Path, argv: list[str]) -> list[str]:
    """Write the command that runs a program inside a toolbox.

    Parameters
    ----------
    toolbox : Path
        As `fetch_toolbox` returned it.
    work : Path
        The only directory of the host that the program may write to.
    argv : list of str
        Program and arguments.

    Returns
    -------
    list of str
        Program and arguments, for the host.
    """
    libraries = toolbox / "proot/usr/lib/x86_64-linux-gnu"
    bound = [path for path in _FROM_HOST if os.access(path, os.R_OK)]
    # the programs inside must not see the library path that proot itself needs
    clean = ["/usr/bin/env", "--unset=LD_LIBRARY_PATH", f"PATH={_PATH}"]
    ready = 'ldconfig && exec "$@"'
    return [
        *("env", f"LD_LIBRARY_PATH={libraries}", str(toolbox / "proot/usr/bin/proot")),
        f"--rootfs={toolbox / 'root'}",
        *(f"--bind={path}" for path in [*bound, str(work)]),
        f"--cwd={work}",
        *(*clean, "/bin/sh", "-c", ready, "toolbox"),
        *argv,
    ]


def _complete(root: Path) -> None:
    """Do the little that the packages' scripts would have done."""
    for name in ("passwd", "group"):
        master = root / f"usr/share/base-passwd/{name}.master"
        if not master.is_file():
            raise SourceError(f"base-passwd was unpacked without {master.name}")
        shutil.copyfile(master, root / "etc" / name)
    for name, target in _LINKS.items():
        link = root / name
        if link.exists():
            continue
        if not (link.parent / target).exists():
            raise SourceError(f"the installer's packages lack {target}, which {name} stands for")
        link.unlink(missing_ok=True)
        link.symlink_to(target)
