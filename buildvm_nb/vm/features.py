"""What a CPU has under QEMU's emulation, asked of a QEMU that runs no guest."""

import socket

from buildvm_nb.host.interruption import interruptible
from buildvm_nb.vm.console import Console
from buildvm_nb.vm.emulator import Emulator, check_cpu
from buildvm_nb.vm.monitor import Monitor
from buildvm_nb.vm.process import OwnedProcess

__all__ = ["emulated_features"]


def emulated_features(cpu: str, emulator: Emulator) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the features that a CPU has under emulation, and those that it lacks there.

    Parameters
    ----------
    cpu : str
        Model, then features added or taken away.
    emulator : Emulator
        The QEMU to ask.

    Returns
    -------
    tuple of two tuples of str
        QEMU's names, sorted: what the CPU has, and what its model has but emulation cannot give.

    Raises
    ------
    UsageError
        If QEMU knows no such model or feature.
    LaunchError
        If QEMU does not start.
    GuestLost
        If it does not answer.
    """
    name = check_cpu(cpu, emulator)
    ours, theirs = socket.socketpair()
    argv = [emulator.path, "-nodefaults", "-no-user-config", "-display", "none", "-S"]
    argv += ["-machine", "q35,accel=tcg", "-m", "64M", "-cpu", name]
    argv += ["-chardev", f"socket,id=monitor,fd={theirs.fileno()}"]
    argv += ["-mon", "chardev=monitor,mode=control"]
    with ours, theirs:
        process = OwnedProcess(argv, inherit=[theirs.fileno()], console=Console())
        try:
            theirs.close()
            with interruptible(process.kill):
                monitor = Monitor(ours)
                try:
                    return monitor.cpu_features(name, emulator.features)
                finally:
                    monitor.close()
        finally:
            process.close()
