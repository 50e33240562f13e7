"""What one machine's guest is told at its start: an archive appended to the common initramfs."""

import shlex
import shutil
from collections.abc import Iterable
from pathlib import Path

from buildvm_nb.host.cpio import CpioWriter
from buildvm_nb.model.machine import Accelerator, MachineSpec, Network
from buildvm_nb.vm.keys import ChannelKeys

__all__ = ["write_initramfs"]

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

    Parameters
    ----------
    target : Path
        The file to write.
    common : Path
        The initramfs that all machines with this kernel share.
    spec : MachineSpec
        The machine.
    keys : ChannelKeys
        Its keys.
    disks : iterable of str
        Those it has besides the root file system, in the order of QEMU's command line: some of
        ``inputs``, ``exports`` and ``scratch``.
    processes : int
        Processes and threads that steps may have, all together.
    is_resumed : bool
        Whether the scratch disk is that of a frozen machine.
    """
    is_uml = spec.accelerator is Accelerator.UML
    kind = "/dev/ubd" if is_uml else "/dev/vd"
    named = zip(("root", *disks), "abcd", strict=False)
    devices = {name: f"{kind}{letter}" for name, letter in named}
    settings = {
        "ROOT": devices["root"],
        "RESUMED": "yes" if is_resumed else "",
        "CLOCK": f"{spec.date.timestamp():.6f}",
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
