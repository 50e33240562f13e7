"""Virtual build machines: QEMU started, its guest proven, commands run in it."""

from buildvm_nb.vm.accelerator import is_kvm_offered, prove_kvm
from buildvm_nb.vm.command import BootFiles, MachineFiles, Sockets, qemu_argv
from buildvm_nb.vm.disk import DiskImage, DiskMachine, disk_argv, inspect_disk
from buildvm_nb.vm.events import INSTRUCTION_SETS, linux_flag
from buildvm_nb.vm.instance import Checkpoint, Provision, scratch_directory
from buildvm_nb.vm.machine import BuildMachine, CommandResult, emulated_features
from buildvm_nb.vm.qemu import QEMU, Emulator, check_cpu, find_emulator
from buildvm_nb.vm.session import ChannelKeys
from buildvm_nb.vm.uml import prove_uml, uml_argv

__all__ = [
    "INSTRUCTION_SETS",
    "QEMU",
    "BootFiles",
    "BuildMachine",
    "ChannelKeys",
    "Checkpoint",
    "CommandResult",
    "DiskImage",
    "DiskMachine",
    "Emulator",
    "MachineFiles",
    "Provision",
    "Sockets",
    "check_cpu",
    "disk_argv",
    "emulated_features",
    "find_emulator",
    "inspect_disk",
    "is_kvm_offered",
    "linux_flag",
    "prove_kvm",
    "prove_uml",
    "scratch_directory",
    "qemu_argv",
    "uml_argv",
]
