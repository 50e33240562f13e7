"""Virtual build machines: QEMU started, its guest proven, commands run in it."""

from buildvm_nb.vm.accelerator import is_kvm_offered as is_kvm_offered
from buildvm_nb.vm.accelerator import prove_kvm as prove_kvm
from buildvm_nb.vm.command import BootFiles as BootFiles
from buildvm_nb.vm.command import MachineFiles as MachineFiles
from buildvm_nb.vm.command import Sockets as Sockets
from buildvm_nb.vm.command import qemu_argv as qemu_argv
from buildvm_nb.vm.disk import DiskImage as DiskImage
from buildvm_nb.vm.disk import DiskMachine as DiskMachine
from buildvm_nb.vm.disk import disk_argv as disk_argv
from buildvm_nb.vm.disk import inspect_disk as inspect_disk
from buildvm_nb.vm.events import INSTRUCTION_SETS as INSTRUCTION_SETS
from buildvm_nb.vm.events import linux_flag as linux_flag
from buildvm_nb.vm.instance import Checkpoint as Checkpoint
from buildvm_nb.vm.instance import Provision as Provision
from buildvm_nb.vm.instance import scratch_directory as scratch_directory
from buildvm_nb.vm.machine import BuildMachine as BuildMachine
from buildvm_nb.vm.machine import CommandResult as CommandResult
from buildvm_nb.vm.machine import emulated_features as emulated_features
from buildvm_nb.vm.qemu import QEMU as QEMU
from buildvm_nb.vm.qemu import Emulator as Emulator
from buildvm_nb.vm.qemu import check_cpu as check_cpu
from buildvm_nb.vm.qemu import find_emulator as find_emulator
from buildvm_nb.vm.session import ChannelKeys as ChannelKeys
from buildvm_nb.vm.uml import prove_uml as prove_uml
from buildvm_nb.vm.uml import uml_argv as uml_argv
