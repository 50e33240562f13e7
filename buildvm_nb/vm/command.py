"""From a machine's description to QEMU's command line: a pure function.

References
----------
QEMU, qemu-system-x86_64(1) 7.2 and 10.0; Linux, Documentation/admin-guide/kernel-parameters.txt.
"""

from dataclasses import dataclass
from pathlib import Path

from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.vm.boot import BootFiles
from buildvm_nb.vm.emulator import Emulator
from buildvm_nb.vm.hardware import clock, entropy, lines, network, processor

__all__ = ["MachineFiles", "Sockets", "qemu_argv"]

_WRITABLE = "cache=unsafe,discard=unmap"
_COPIED = "snapshot=on"
"""What is written goes to a nameless temporary file of QEMU's own."""

KERNEL_PARAMETERS = (
    "console=ttyS0",
    "quiet",
    # a kernel that oopsed proves nothing any more: end at once, so that the host notices
    "oops=panic",
    "panic=-1",
    # page table isolation and the like guard a guest's users against each other; under emulation
    # they cost much and mean nothing
    "mitigations=off",
    "cryptomgr.notests",
    # on a busy host an emulated timer may be late, and the kernel's check of it ends in a panic
    "no_timer_check",
    "nowatchdog",
    "random.trust_cpu=on",
    "apparmor=0",
    "audit=0",
)
"""What every guest's kernel is told."""


@dataclass(frozen=True, kw_only=True)
class MachineFiles:
    """The files that belong to one machine."""

    initramfs: Path
    """The common one with this machine's settings appended."""
    inputs: Path | None
    """A squashfs that becomes the build directory; None: the build directory is empty."""
    exports: Path
    """A sparse file that the guest writes artifacts to."""
    scratch: Path | None = None
    """An ext4 file system for all that is written in the guest; a fork leaves it as it is."""
    is_fork: bool = False
    """Whether the machine waits for the state of a frozen one instead of booting."""


@dataclass(frozen=True, kw_only=True)
class Sockets:
    """File descriptors of the connected sockets that QEMU inherits."""

    monitor: int
    channel: int
    events: int


def qemu_argv(
    emulator: Emulator, spec: MachineSpec, boot: BootFiles, files: MachineFiles, sockets: Sockets
) -> list[str]:
    """Write the command line that runs a machine.

    Nothing in it listens: monitor, channel and events are sockets that are connected already, and
    forwarded ports, where asked for, listen on the loopback interface only.

    Parameters
    ----------
    emulator : Emulator
        The QEMU that will run.
    spec : MachineSpec
        What is asked for; `Accelerator.AUTO` must have been decided.
    boot : BootFiles
        What is booted.
    files : MachineFiles
        This machine's own files.
    sockets : Sockets
        Descriptors that QEMU inherits.

    Returns
    -------
    list of str
        Program and arguments.
    """
    argv = processor(emulator.path, spec, emulator.vendor_of(spec.cpu))
    argv += ["-kernel", str(boot.kernel), "-initrd", str(files.initramfs)]
    argv += ["-append", " ".join((*KERNEL_PARAMETERS, *boot.kernel_parameters))]
    argv += clock(spec.date)
    if files.is_fork:
        argv += ["-incoming", "defer"]
    argv += lines(sockets.monitor)
    argv += _disk("root", boot.root)
    if files.inputs:
        argv += _disk("inputs", files.inputs)
    argv += _disk("exports", files.exports, _WRITABLE)
    if files.scratch:
        argv += _disk("scratch", files.scratch, _COPIED if files.is_fork else _WRITABLE)
    argv += ["-device", "virtio-serial-pci"]
    for name, descriptor in (("channel", sockets.channel), ("events", sockets.events)):
        argv += ["-chardev", f"socket,id={name},fd={descriptor}"]
        argv += ["-device", f"virtserialport,chardev={name},name=buildvm.{name}"]
    return argv + entropy() + network(spec)


def _disk(name: str, path: Path, mode: str = "readonly=on") -> list[str]:
    escaped = str(path).replace(",", ",,")
    # by default a full disk of the host pauses the guest; the monitor hears of it in any case
    drive = f"if=none,id={name},format=raw,werror=report,rerror=report"
    drive += f",file.locking=off,{mode},file.filename={escaped}"
    return ["-drive", drive, "-device", f"virtio-blk-pci,drive={name}"]
