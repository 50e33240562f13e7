"""A machine that boots a disk image of somebody else's; nothing of ours is in its guest.

So what is set from outside (date, CPU, memory) is what QEMU was told, and nobody has read it back.
"""

import socket
from contextlib import ExitStack

from buildvm_nb.errors import GuestLost, StateError, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.instants import format_instant
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.vm.accelerator import choose_accelerator
from buildvm_nb.vm.account import account_for
from buildvm_nb.vm.boot import BootFiles
from buildvm_nb.vm.console import Console
from buildvm_nb.vm.diskcommand import disk_argv
from buildvm_nb.vm.diskimage import DiskImage
from buildvm_nb.vm.emulator import check_cpu, check_wishes, find_emulator
from buildvm_nb.vm.hardware import RTC_RANGE
from buildvm_nb.vm.monitor import Monitor
from buildvm_nb.vm.process import OwnedProcess
from buildvm_nb.vm.provision import Provision
from buildvm_nb.vm.workdir import scratch_directory

__all__ = ["DiskMachine"]


class DiskMachine:
    """A machine with a disk image; `boot` starts it, `close` ends it, the image stays as it is.

    Parameters
    ----------
    spec : MachineSpec
        What is asked for; image and kernel say nothing here.
    disk : DiskImage
        What it boots.
    cache : Cache
        Where what the guest writes is kept while it lives.
    provision : Provision
        Its QEMU and the log of its console count.
    boot : BootFiles, optional
        A kernel of ours to prove KVM with; None: KVM is not offered here, or not wanted.

    Raises
    ------
    UsageError
        If QEMU knows no such CPU, or the clock chip cannot hold the date.
    HostError
        If this host lacks QEMU, or KVM where it was asked for.
    """

    def __init__(
        self,
        spec: MachineSpec,
        disk: DiskImage,
        *,
        cache: Cache,
        provision: Provision,
        boot: BootFiles | None = None,
    ) -> None:
        first, end = RTC_RANGE
        if not first <= spec.date < end:
            raise UsageError(
                f"a disk cannot be booted at {format_instant(spec.date)}: its system takes the "
                f"date from the clock chip; allowed: {format_instant(first)} until before "
                f"{format_instant(end)}",
                hint="machines with `image` have their clock set from within, to any date",
            )
        self.emulator = find_emulator(cache.root, provision.qemu)
        memo = cache.root / "kvm.json"
        accelerator = choose_accelerator(spec.accelerator, self.emulator, boot, memo)
        cpu = check_cpu(spec.cpu, self.emulator)
        self.spec = spec.model_copy(update={"cpu": cpu, "accelerator": accelerator})
        self.disk = disk
        self._cache, self._provision = cache, provision
        self._console: Console | None = None
        self._process: OwnedProcess | None = None
        self._stack = ExitStack()

    @property
    def console_text(self) -> str:
        """What the serial console said."""
        return self._console.text if self._console else ""

    @property
    def pid(self) -> int:
        """Process number of QEMU."""
        return self._running().pid

    def boot(self) -> None:
        """Start QEMU; what the guest does then is not known here.

        Raises
        ------
        LaunchError
            If QEMU does not start.
        GuestLost
            If it ends at once.
        HostError
            If the CPU lacks a feature that was asked for by name, or the machine's directory or
            the console's log cannot be written.
        StateError
            If it was started before.
        """
        if self._process:
            raise StateError("the machine was started already")
        try:
            self._launch()
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Make sure that the machine still runs.

        Raises
        ------
        GuestLost
            If it has ended; with what it said last.
        """
        process = self._running()
        if not process.is_running and self._trouble:
            raise GuestLost(self._trouble)
        if not process.is_running and self._console:
            raise account_for(GuestLost("the guest is gone"), process, self._console)

    def close(self) -> None:
        """End guest and QEMU; calling it twice does no harm."""
        self._stack.close()

    def _give_up(self, trouble: str) -> None:
        """End a guest that can prove nothing any more."""
        self._trouble = trouble
        if self._process:
            self._process.kill()

    def _running(self) -> OwnedProcess:
        if self._process is None:
            raise StateError("the machine was not started", hint="call boot() first")
        return self._process

    def _launch(self) -> None:
        place = self._stack.enter_context(scratch_directory(self._cache.root / "machines"))
        self._console = console = Console(self._provision.console_log)
        self._stack.callback(console.close)
        ours, theirs = socket.socketpair()
        self._stack.enter_context(ours)
        with theirs:
            argv = disk_argv(self.emulator, self.spec, self.disk, monitor=theirs.fileno())
            inherit = [theirs.fileno()]
            process = OwnedProcess(argv, inherit=inherit, console=console, temporary=place)
        self._process = process
        self._stack.callback(process.close)
        try:
            monitor = Monitor(ours, on_trouble=self._give_up)
            self._stack.callback(monitor.close)
            _, lacking = monitor.cpu_features(self.spec.cpu, self.emulator.features)
        except GuestLost as error:
            raise account_for(error, process, console) from error
        check_wishes(self.spec, lacking, self.emulator)
