"""Virtual build machines: QEMU started, its guest proven, commands run in it."""

from buildvm_nb.vm.accelerator import is_kvm_offered, prove_kvm
from buildvm_nb.vm.boot import BootFiles
from buildvm_nb.vm.checkpoint import Checkpoint
from buildvm_nb.vm.command import MachineFiles, Sockets, qemu_argv
from buildvm_nb.vm.diskcommand import disk_argv
from buildvm_nb.vm.diskimage import DiskImage, inspect_disk
from buildvm_nb.vm.diskmachine import DiskMachine
from buildvm_nb.vm.emulator import QEMU, Emulator, check_cpu, find_emulator
from buildvm_nb.vm.features import emulated_features
from buildvm_nb.vm.keys import ChannelKeys
from buildvm_nb.vm.machine import BuildMachine
from buildvm_nb.vm.proof import INSTRUCTION_SETS, linux_flag
from buildvm_nb.vm.provision import Provision
from buildvm_nb.vm.result import CommandResult
from buildvm_nb.vm.uml import prove_uml, uml_argv
from buildvm_nb.vm.workdir import scratch_directory

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
