"""What this host has and lacks for virtual build machines."""

import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from buildvm_nb.debian import KEYRING, MIRROR_VARIABLE, host_mirrors, without_password
from buildvm_nb.errors import BuildVMError, HostError
from buildvm_nb.host.cache import Cache, free_bytes
from buildvm_nb.host.facts import available_mib, total_mib, usable_cores
from buildvm_nb.host.process import DEBIAN_PACKAGES, find_tool, run_tool
from buildvm_nb.model.machine import OLDEST_QEMU
from buildvm_nb.study.run import kvm_status, uml_status

__all__ = ["Check", "State", "check_host", "check_space", "qemu_version"]

_QEMU = "qemu-system-x86_64"
_KVM = Path("/dev/kvm")
_GIB = 2**30
_PURPOSES = {
    "git": "git sources",
    "dpkg-source": "Debian source packages",
    "mke2fs": "disks of machines (disk_mib, --accelerator uml)",
    "ssh": "`buildvm machine ssh`",
}
"""Programs that not everybody needs."""
_NEEDED_DISK = 4 * _GIB
_NEEDED_MIB = 1536


class State(StrEnum):
    """How a check came out."""

    OK = "ok"
    LIMITED = "limited"
    """It goes without, with less."""
    MISSING = "missing"
    """Needed, and not there."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    subject: str
    state: State
    found: str
    """What was seen."""
    hint: str = ""
    """How to get it."""


def check_host(cache: Cache | None) -> Iterator[Check]:
    """Look at programs, processor, memory and package mirror.

    `cache`: holds the kernel that KVM is tried with; None: there is no usable one.
    """
    yield _check_processor()
    yield _check_qemu()
    yield _check_kvm(cache)
    yield _check_uml(cache)
    needed = ["mmdebstrap", "sqfstar", "apt-get", "dpkg-deb"]
    needed += ["fakechroot", "fakeroot"] if os.geteuid() != 0 else []
    for tool in needed:
        yield _check_tool(tool, State.MISSING, "to make images")
    for tool, purpose in _PURPOSES.items():
        yield _check_tool(tool, State.LIMITED, f"for {purpose}")
    yield _check_mirror()
    yield _check_keyring()
    yield _check_memory()


def check_space(cache: Path) -> Check:
    """Look at the room for images, kernels and sources."""
    free = free_bytes(cache)
    enough = free >= _NEEDED_DISK
    return Check(
        subject="disk space",
        state=State.OK if enough else State.MISSING,
        found=f"{free / _GIB:.1f} GiB free for {cache}",
        hint=""
        if enough
        else f"{_NEEDED_DISK // _GIB} GiB are needed; make room or choose another --cache",
    )


def qemu_version(text: str) -> tuple[int, int] | None:
    """Read QEMU's version from what ``--version`` prints.

    Returns: major and minor number; None: there is none in it.
    """
    match = re.search(r"version (\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else None


def _check_processor() -> Check:
    machine, cores = platform.machine(), usable_cores()
    known = machine == "x86_64"
    return Check(
        subject="processor",
        state=State.OK if known else State.MISSING,
        found=f"{machine}, {cores} {'core' if cores == 1 else 'cores'}",
        hint="" if known else "images and kernels are made on x86_64 hosts only",
    )


def _check_qemu() -> Check:
    oldest = ".".join(map(str, OLDEST_QEMU))
    try:
        text = run_tool([_QEMU, "--version"]).decode(errors="replace")
        accelerators = run_tool([_QEMU, "-accel", "help"]).decode(errors="replace").split()
    except HostError as error:
        return Check(subject="QEMU", state=State.MISSING, found=error.message, hint=error.hint)
    found = text.splitlines()[0] if text else "nothing"
    version = qemu_version(text)
    if version is None or version < OLDEST_QEMU:
        hint = f"QEMU {oldest} or later is needed: {DEBIAN_PACKAGES[_QEMU]} of Debian 12 or later"
        return Check(subject="QEMU", state=State.MISSING, found=found, hint=hint)
    if "tcg" not in accelerators:
        hint = "this QEMU was built without TCG, which studies of CPUs need"
        return Check(subject="QEMU", state=State.LIMITED, found=found, hint=hint)
    return Check(subject="QEMU", state=State.OK, found=found)


def _check_kvm(cache: Cache | None) -> Check:
    emulated = "guests are emulated (TCG): slower, and CPU models are enforced"
    if not _KVM.exists():
        return Check(subject="KVM", state=State.LIMITED, found=f"no {_KVM}; {emulated}")
    if not os.access(_KVM, os.R_OK | os.W_OK):
        hint = f"for KVM join the group that owns {_KVM}: sudo adduser $USER kvm"
        found = f"{_KVM} is forbidden to this user; {emulated}"
        return Check(subject="KVM", state=State.LIMITED, found=found, hint=hint)
    if cache is None:
        return Check(subject="KVM", state=State.LIMITED, found=f"{_KVM} is there, not tried")
    try:
        works, why = kvm_status(cache)
    except BuildVMError as error:
        works, why = False, f"not tried: {error.message}"
    if works:
        return Check(subject="KVM", state=State.OK, found=why)
    return Check(subject="KVM", state=State.LIMITED, found=f"{why}; {emulated}")


def _check_uml(cache: Cache | None) -> Check:
    """Try the user-mode kernel that is in the cache; fetching one is for whoever asks for it."""
    try:
        found = find_tool("bwrap")
    except HostError as error:
        return Check(
            subject="user-mode Linux",
            state=State.LIMITED,
            found="bwrap not found; needed for --accelerator uml",
            hint=error.hint,
        )
    if cache is None or not list(cache.entries("uml-kernels")):
        return Check(
            subject="user-mode Linux", state=State.LIMITED, found=f"{found} is there, not tried"
        )
    try:
        works, why = uml_status(cache)
    except BuildVMError as error:
        works, why = False, f"not tried: {error.message}"
    return Check(subject="user-mode Linux", state=State.OK if works else State.LIMITED, found=why)


def _check_tool(name: str, without: State, purpose: str) -> Check:
    try:
        return Check(subject=name, state=State.OK, found=find_tool(name))
    except HostError as error:
        found = f"not found; needed {purpose}"
        return Check(subject=name, state=without, found=found, hint=error.hint)


def _check_mirror() -> Check:
    try:
        mirrors = host_mirrors()
    except BuildVMError as error:
        return Check(
            subject="package mirror", state=State.MISSING, found=error.message, hint=error.hint
        )
    found = without_password(mirrors.archive)
    if mirrors.is_default:
        found += f", mmdebstrap's default: apt names none of Debian's here, nor {MIRROR_VARIABLE}"
    return Check(subject="package mirror", state=State.OK, found=found)


def _check_keyring() -> Check:
    if Path(KEYRING).exists():
        return Check(subject="archive keys", state=State.OK, found=KEYRING)
    return Check(
        subject="archive keys",
        state=State.MISSING,
        found=f"no {KEYRING}",
        hint="sudo apt-get install --no-install-recommends debian-archive-keyring",
    )


def _check_memory() -> Check:
    available, total = available_mib(), total_mib()
    if available is None or total is None:
        return Check(subject="memory", state=State.LIMITED, found="this host does not tell")
    enough = available >= _NEEDED_MIB
    return Check(
        subject="memory",
        state=State.OK if enough else State.LIMITED,
        found=f"{available / 1024:.1f} of {total / 1024:.1f} GiB available",
        hint="" if enough else "give guests less: --memory 512",
    )
