"""Virtual build machines: QEMU started, its guest proven, commands run in it."""

from buildvm_nb.vm.accelerator import prove_kvm
from buildvm_nb.vm.boot import BootFiles
from buildvm_nb.vm.checkpoint import Checkpoint
from buildvm_nb.vm.command import MachineFiles, Sockets, qemu_argv
from buildvm_nb.vm.emulator import QEMU, Emulator, check_cpu, find_emulator
from buildvm_nb.vm.features import emulated_features
from buildvm_nb.vm.keys import ChannelKeys
from buildvm_nb.vm.machine import BuildMachine
from buildvm_nb.vm.proof import INSTRUCTION_SETS, linux_flag
from buildvm_nb.vm.provision import Provision
from buildvm_nb.vm.result import CommandResult

__all__ = [
    "INSTRUCTION_SETS",
    "QEMU",
    "BootFiles",
    "BuildMachine",
    "ChannelKeys",
    "Checkpoint",
    "CommandResult",
    "Emulator",
    "MachineFiles",
    "Provision",
    "Sockets",
    "check_cpu",
    "emulated_features",
    "find_emulator",
    "linux_flag",
    "prove_kvm",
    "qemu_argv",
]
