"""The initramfs: our guest programs, scripts and the modules of one kernel, as one cpio archive.

It is not compressed, as the guest would have to unpack it under emulation, and the same for every
machine with the same kernel: what is particular to a machine (keys, clock, limits) comes in a
second archive that is appended by `buildvm_nb.vm`.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

from buildvm_nb.host.cache import Cache, file_digest
from buildvm_nb.host.cpio import CpioWriter
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.image.guest_tools import GUEST_TOOLS, fetch_guest_tools
from buildvm_nb.image.kernel import Kernel

__all__ = ["build_initramfs"]

_RECIPE = 2
_SCRIPTS = (
    "init",
    "event",
    "control",
    "wake",
    "freeze",
    "relay",
    "hold",
    "step",
    "inside",
    "stop",
    "artifacts",
    "serve",
    "session",
)
_APPLETS = tuple(
    """
    sh mount mkdir mkfifo insmod cat ln chown ip nc nsenter awk stat adjtimex env rmdir kill dd
    reboot poweroff usleep dmesg rm stty
    """.split()  # noqa: SIM905 - a list of 20 quoted words is harder to read
)
_DIRECTORIES = ("proc", "sys", "dev", "lower", "upper", "root", "inputs", "run", "tmp")
_CONSOLE = (5, 1)


def build_initramfs(kernel: Kernel, cache: Cache, progress: Progress = SILENT) -> Path:
    """Return the initramfs for a kernel, made now if it is not in the cache.

    Parameters
    ----------
    kernel : Kernel
        Whose modules go in.
    cache : Cache
        Keeps it.
    progress : Progress
        Shows what is fetched.

    Returns
    -------
    Path
        A cpio archive to which others can be appended.

    Raises
    ------
    HostError
        If this host lacks a program or space.
    SourceError
        If the guest's programs cannot be fetched.
    """
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
