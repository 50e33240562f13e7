"""From Debian's packages to one squashfs file: mmdebstrap, its tar stream, the finishing pass.

References
----------
mmdebstrap(1). As root it installs in a chroot; an ordinary user gets the same through fakechroot
and fakeroot, which need no user namespaces (see also `buildvm_nb.image.toolbox`).
"""

import io
import os
import re
import shutil
import subprocess
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import IO, Any

from buildvm_nb.debian import (
    MIRROR_HINT,
    AptSource,
    PackageArchive,
    acquire_settings,
    is_archives_answer,
    unpack_deb,
)
from buildvm_nb.errors import BuildVMError, HostError, SourceError, Unreachable
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.process import find_tool, owned_group
from buildvm_nb.host.progress import SILENT, Progress, Task

__all__ = [
    "COMPRESSION",
    "FILE_TIME",
    "TOOLBOX_PACKAGES",
    "BootstrapMode",
    "FinishedRoot",
    "RootMaker",
    "Watcher",
    "bootstrap_mode",
    "clean_environment",
    "extract_arguments",
    "fetch_toolbox",
    "finish",
    "mmdebstrap_arguments",
    "read_packages",
    "toolbox_command",
]

# The last touch to a root file system, as a pass over its tar stream.
#
# What a guest needs is added (a user, a build directory, a hosts file), what belongs to the making
# is taken out, and all times become one instant. A guest may live in any year, so times of today's
# making, or of a package made after that year, would lie in its future: make(1) would warn and
# rebuild. Guix and Nix have shown over many years that software builds well with one old time on
# all files. That time is not before 1980, because zip archives cannot hold an earlier one.
#
# Python's compiled files hold their source's time. They get the new one, or each import in a guest
# would compile anew.
#
# References: Python, Lib/importlib/_bootstrap_external.py (``.pyc`` header); APPNOTE.TXT 4.4.6 (DOS
# time); shadow(5).

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

    `target`: where the finished one is written; not closed.
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
    """Read the versions of installed packages from dpkg's status file."""
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
    """Return the way in which this user can make an image."""
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

    Returns: all variables; of the user's own, only where programs and proxies are.
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
    """Write the command that makes a root file system and prints it as a tar archive."""
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
    """Write the command that unpacks packages, and what they depend on, without installing them."""
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
    """Reads what mmdebstrap says: progress while it goes well, the trouble when it does not."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._done = 0.0
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)

    def watch(self, stream: IO[bytes]) -> None:
        """Read to the end."""
        for raw in stream:
            self.hear(raw.decode(errors="replace").rstrip())

    def hear(self, line: str) -> None:
        """Take up one line."""
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

        Returns: to be raised: a SourceError for what the archive cannot give, else a HostError.
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


# From mmdebstrap's tar stream through the finishing pass into one squashfs file.

COMPRESSION = ("-comp", "lz4", "-Xhc")
"""Options of sqfstar. Unpacking by an emulated processor costs more than reading."""


@dataclass(frozen=True, kw_only=True)
class RootMaker:
    """Runs mmdebstrap, owned and watched."""

    subject: str
    """What is made, for messages."""
    hold: int
    """Descriptor of the lock that all programs hold."""
    scratch: Path
    """Directory for temporary files."""

    def extract(self, argv: list[str], task: Task) -> None:
        """Run a command that writes no archive."""
        with self._running(argv, task, stdout=subprocess.DEVNULL):
            pass

    def pack(self, argv: list[str], target: Path, task: Task) -> FinishedRoot:
        """Run a command that prints a root file system as a tar archive, and pack that."""
        with self._running(argv, task, stdout=subprocess.PIPE) as process:
            finished = _squash(process, target)
        task.update(100, 100, "done")
        return finished

    @contextmanager
    def _running(
        self, argv: list[str], task: Task, *, stdout: int
    ) -> Iterator["subprocess.Popen[bytes]"]:
        watcher = Watcher(task)
        environment = clean_environment(self.scratch)
        trouble: HostError | None = None
        with owned_group(
            argv, hold=self.hold, listen=watcher.watch, env=environment, stdout=stdout
        ) as process:
            try:
                yield process
            except HostError as error:
                trouble = error  # its own words come second to mmdebstrap's
            process.wait()
        if trouble and isinstance(trouble.__cause__, BrokenPipeError):
            raise trouble  # the packer has ended, and mmdebstrap only for that
        if process.returncode != 0:
            raise watcher.error(self.subject, exit_status=process.returncode) from trouble
        if trouble:
            raise trouble


def _squash(source: "subprocess.Popen[bytes]", target: Path) -> FinishedRoot:
    # squashfs-tools 4.5 gives the root directory to whoever runs it, whatever -root-uid says
    as_root = [] if os.geteuid() == 0 else [find_tool("fakeroot")]
    argv = [
        *(*as_root, find_tool("sqfstar"), *COMPRESSION),
        *("-no-progress", "-quiet", "-exit-on-error", "-root-mode", "755"),
        *("-mkfs-time", str(FILE_TIME), "-all-time", str(FILE_TIME)),
        str(target),
    ]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as packer:
        if packer.stdin is None or packer.stderr is None or source.stdout is None:
            raise HostError("sqfstar or mmdebstrap was started without a pipe")
        try:
            finished = finish(source.stdout, packer.stdin)
            shutil.copyfileobj(source.stdout, _Nowhere())
            packer.stdin.close()
        except (OSError, tarfile.TarError) as error:
            source.stdout.close()
            with suppress(OSError):
                packer.stdin.close()
            if isinstance(error.__context__, KeyboardInterrupt):
                raise error.__context__ from None  # left then, tarfile writes what it still has
            said = packer.stderr.read().decode(errors="replace").strip()
            raise HostError(f"the image's stream broke off: {error}; {said[-500:]}") from error
        said = packer.stderr.read().decode(errors="replace").strip()
        if packer.wait() != 0:
            raise HostError(f"sqfstar exited with {packer.returncode}; it said:\n{said[-1000:]}")
    return finished


class _Nowhere:
    """Where the padding after an archive's end goes, so that its writer can finish."""

    def write(self, data: bytes) -> int:
        return len(data)


# A root directory with a suite's own installer, for users who are not root.
#
# fakechroot makes a chroot out of preloaded libraries, so programs of the host and of the image
# load the same C library: it works only where both have the same version of it. For any other suite
# mmdebstrap runs inside a toolbox: the suite's own mmdebstrap, apt and fakechroot, unpacked but not
# installed. proot makes it the root directory by ptrace(2), which needs no privileges and no user
# namespaces; it costs time.
#
# References: fakechroot(1); proot(1); mmdebstrap(1), variant ``extract``.

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

    `extract`: given a new directory and one for temporary files, unpacks `TOOLBOX_PACKAGES` with
    all that they depend on into the former.
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

    `work`: the only directory of the host that the program may write to.
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
