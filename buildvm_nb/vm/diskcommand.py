"""From a machine with a disk of its own to QEMU's command line: a pure function.

References
----------
QEMU, qemu-system-x86_64(1) 7.2 and 10.0; qapi/block-core.json (``BlockdevOptionsQcow2``);
target/i386/kvm/kvm.c (``kvmclock``).
"""

import json

from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.vm.diskimage import DiskImage
from buildvm_nb.vm.emulator import Emulator
from buildvm_nb.vm.hardware import clock, entropy, lines, network, processor

__all__ = ["disk_argv"]

_WITHOUT_HOST_TIME = ",-kvmclock"
"""KVM's own clock begins with the host's time, whatever the clock chip says."""


def disk_argv(emulator: Emulator, spec: MachineSpec, disk: DiskImage, *, monitor: int) -> list[str]:
    """Write the command line that boots a disk by its own boot loader, as a PC's BIOS does.

    The image is opened for reading only; what the guest writes goes to a nameless file in the
    directory for temporary files, and is gone with QEMU.

    Parameters
    ----------
    emulator : Emulator
        The QEMU that will run.
    spec : MachineSpec
        CPU, accelerator, date, memory, network and ports; image and kernel say nothing here.
    disk : DiskImage
        What is booted.
    monitor : int
        Descriptor of a connected socket that QEMU inherits.

    Returns
    -------
    list of str
        Program and arguments.
    """
    vendor = emulator.vendor_of(spec.cpu)
    argv = processor(emulator.path, spec, vendor, without=_WITHOUT_HOST_TIME)
    argv += clock(spec.date) + lines(monitor)
    # boot loaders may want a screen to write to; nobody sees it
    argv += ["-device", "VGA"]
    argv += ["-drive", f"if=none,id=disk,werror=report,rerror=report,snapshot=on,{_drive(disk)}"]
    argv += ["-device", "virtio-blk-pci,drive=disk,bootindex=0"]
    return argv + entropy() + network(spec)


def _drive(disk: DiskImage) -> str:
    """Write a drive with its format, and without any base whatever its header says by now."""
    node: dict[str, object] = {
        "driver": disk.format,
        "file": {"driver": "file", "filename": str(disk.path)},
    }
    if disk.format == "qcow2":
        node["backing"] = None
    return "file=json:" + json.dumps(node).replace(",", ",,")
