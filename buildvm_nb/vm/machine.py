"""A running virtual build machine, proven to be what was asked for before anything runs in it."""

import shlex
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self, Unpack

from buildvm_nb.errors import (
    ClockError,
    CommandFailed,
    CpuError,
    GuestLost,
    HostError,
    MachineError,
    StateError,
)
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.process import interruptible
from buildvm_nb.model.display import card, environment_rows, machine_rows
from buildvm_nb.model.instants import format_instant
from buildvm_nb.model.machine import Accelerator, Environment, MachineSpec
from buildvm_nb.vm.accelerator import choose_accelerator
from buildvm_nb.vm.command import BootFiles
from buildvm_nb.vm.events import StepReport
from buildvm_nb.vm.instance import Checkpoint, Instance, Provision, QemuInstance
from buildvm_nb.vm.qemu import Console, Emulator, Monitor, OwnedProcess, check_cpu, find_emulator
from buildvm_nb.vm.session import (
    BUILD_ENVIRONMENT,
    ChannelKeys,
    GuestCommand,
    RunOptions,
    ask,
    stream,
    upload,
)
from buildvm_nb.vm.transfer import pack_exports, unpack_exports
from buildvm_nb.vm.uml import UmlInstance, prove_uml

__all__ = [
    "BuildMachine",
    "CommandResult",
    "emulated_features",
]

# What a CPU has under QEMU's emulation, asked of a QEMU that runs no guest.


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


# How a command in a guest ended.


@dataclass(frozen=True, kw_only=True)
class CommandResult:
    """One command, run once in a guest."""

    exit_status: int | None
    """None when it died of a signal or was stopped."""
    signal: int | None
    """The signal that it, or the last command of its shell, died of."""
    timed_out: bool
    """Whether we stopped it, as its time was over."""
    clock_started_at: datetime
    """The guest's clock just before it began."""
    clock_ended_at: datetime
    """The guest's clock just after it ended."""
    duration_s: float
    """By the host's monotonic clock."""
    free_kib: int
    """The least room for files that was seen in the guest while it ran."""
    shortage: str = ""
    """What of the machine's own resources ran out, as the guest's kernel counted: then a failure
    says nothing about the command. Empty: nothing did."""
    victim: str = ""
    """Name of the process that the kernel saw dying of `signal`."""
    drift_s: float | None = None
    """How far a held clock strayed from the beginning of its second; None: it was not held."""

    @property
    def status(self) -> int:
        """As a shell says it: 0 for success, 128 and the number of a signal."""
        if self.timed_out:
            return 124
        return 128 + self.signal if self.signal else self.exit_status or 0


_BOOT_ATTEMPTS = 3
_END_TIMEOUT_S = 120.0
_LATEST_START_S = 1.0
"""The guest sets its clock again until it reads it within 0.05 s (its script ``step``)."""
_EXPORT_TIMEOUT_S = 3600.0
_PLACES = {"disk": "the guest's disk", "tmp": "/tmp", "shm": "/dev/shm"}  # noqa: S108 - there
_FULL_KIB = 1024
_FEW_INODES = 16
_BUILD_USER = ("build", 1000)


class BuildMachine:
    """A virtual build machine; entering the context boots it, leaving it ends it.

    Parameters
    ----------
    spec : MachineSpec
        What is asked for.
    boot : BootFiles
        Kernel, initramfs and image to boot.
    cache : Cache
        Where the machine's own files are kept while it lives.
    provision : Provision, optional
        What else it is given.
    checkpoint : Checkpoint, optional
        Resume this frozen machine at the date of `spec` instead of booting; all else in `spec`
        must be as it was there.

    Raises
    ------
    UsageError
        If QEMU knows no such CPU.
    HostError
        If this host lacks QEMU, or KVM where it was asked for.
    """

    def __init__(
        self,
        spec: MachineSpec,
        boot: BootFiles,
        *,
        cache: Cache,
        provision: Provision | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.provision = provision or Provision()
        self._may_emulate = spec.accelerator is Accelerator.AUTO and checkpoint is None
        self.boot_files = boot
        if spec.accelerator is Accelerator.UML:
            works, seen = prove_uml(boot, cache.root / "uml.json")
            if not works:
                raise HostError(
                    f"user-mode Linux does not work on this host: {seen}",
                    hint="use --accelerator tcg (emulation), or auto",
                )
            self.spec = spec
        else:
            self._choose(spec, cache, checkpoint)
        self._checkpoint = checkpoint
        self._cache = cache
        self._instance: Instance | None = None
        self._environment: Environment | None = None
        self._is_used = False
        self._last_console = ""

    def _choose(self, spec: MachineSpec, cache: Cache, checkpoint: Checkpoint | None) -> None:
        """Choose QEMU's accelerator and check the CPU."""
        self.emulator = find_emulator(cache.root, self.provision.qemu)
        if checkpoint and spec.accelerator is Accelerator.AUTO:
            accelerator = checkpoint.environment.accelerator
        else:
            memo = cache.root / "kvm.json"
            accelerator = choose_accelerator(spec.accelerator, self.emulator, self.boot_files, memo)
        cpu = check_cpu(spec.cpu, self.emulator)
        self.spec = spec.model_copy(update={"cpu": cpu, "accelerator": accelerator})

    def __enter__(self) -> Self:
        self.boot()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        spec = self.spec
        return (
            f"<BuildMachine {spec.name}: {self._state()}, {format_instant(spec.date)}, {spec.cpu}, "
            f"{spec.kernel}, {spec.accelerator.value}, {spec.image}>"
        )

    def _repr_html_(self) -> str:
        known = environment_rows(self._environment)
        rows = [("state", self._state()), *machine_rows(self.spec), *known]
        return card(f"Build machine {self.spec.name}", rows)

    def _state(self) -> str:
        if self._instance is None:
            return "down"
        return "booting" if self._environment is None else "up"

    @property
    def environment(self) -> Environment:
        """What was proven in the guest; only a machine that is up has it."""
        if self._environment is None:
            raise StateError("the machine is not up", hint="use it inside `with BuildMachine(…)`")
        return self._environment

    @property
    def console_text(self) -> str:
        """What the serial console of the guest, or of the last one, said."""
        return self._instance.console.text if self._instance else self._last_console

    @property
    def pid(self) -> int:
        """Process number of QEMU."""
        return self._up().process.pid

    def boot(self) -> None:
        """Boot the machine and prove it; tried again where the kernel oopsed on the way.

        Where KVM was chosen for us and gives the guest another CPU than was asked for, the guest
        is emulated instead, and its environment says why.

        Raises
        ------
        LaunchError
            If QEMU does not start.
        BootTimeout
            If the guest does not come up in time.
        GuestLost
            If the guest dies on the way.
        MachineError
            If the guest is not what was asked for; `ClockError` where it is the clock, `CpuError`
            where it is the CPU.
        StateError
            If it is up already.
        """
        if self._instance:
            raise StateError("the machine is up already")
        try:
            self._boot("")
        except CpuError as error:
            if not self._may_emulate or self.spec.accelerator is not Accelerator.KVM:
                raise
            self.spec = self.spec.model_copy(update={"accelerator": Accelerator.TCG})
            self._boot(f"under KVM {error.message}")

    def _boot(self, reason: str) -> None:
        for attempt in range(1, _BOOT_ATTEMPTS + 1):
            self._instance = self._new_instance()
            try:
                found = self._start(self._instance)
                if reason:
                    found = found.model_copy(update={"accelerator_reason": reason})
                self._environment = found
            except GuestLost as error:
                self.close()
                if attempt == _BOOT_ATTEMPTS or not error.is_oops:
                    raise
            except BaseException:
                self.close()
                raise
            else:
                return

    def _new_instance(self) -> Instance:
        if self.spec.accelerator is Accelerator.UML:
            return UmlInstance(self.spec, self.boot_files, self.provision)
        return QemuInstance(self.spec, self.boot_files, self.emulator, self.provision)

    def _start(self, instance: Instance) -> Environment:
        self._is_used = False
        if self._checkpoint:
            return instance.resume(self._cache, self._checkpoint)
        return instance.start(self._cache)

    def freeze(self, place: Path) -> Checkpoint:
        """Write the machine's state to a directory and end it.

        Parameters
        ----------
        place : Path
            An empty directory; it will hold the keys of the channel.

        Returns
        -------
        Checkpoint
            From which machines can be resumed.

        Raises
        ------
        HostError
            If the state cannot be written.
        MachineError
            If the guest or QEMU does not do its part.
        StateError
            If the machine is not up.
        """
        try:
            return self._up().freeze(place, self.environment)
        finally:
            self.close()

    def run(
        self,
        command: str | Sequence[str],
        *,
        cwd: str = "",
        check: bool = False,
        **options: Unpack[RunOptions],
    ) -> CommandResult:
        """Run a command in the guest, as its unprivileged user unless it is told otherwise.

        Parameters
        ----------
        command : str or sequence of str
            Text for ``/bin/sh -e``, or a program and its arguments.
        cwd : str
            Directory in the guest; a relative one is below ``/build``.
        check : bool
            Raise if it fails.
        **options
            Fields of `RunOptions`: ``env``, ``timeout_s``, ``clock``, ``held``, ``stdout``,
            ``stderr``, ``merged``, ``stdin``, ``as_root``.

        Returns
        -------
        CommandResult
            How it ended.

        Raises
        ------
        GuestLost
            If the guest or QEMU dies, or the guest stops answering.
        MachineError
            If the guest ran out of memory.
        CommandFailed
            If `check` is set and it failed.
        StateError
            If the machine is not up.
        """
        argv = ("/bin/sh", "-e", "-c", command) if isinstance(command, str) else tuple(command)
        result = self._run(GuestCommand(argv=argv, cwd=str(Path("/build") / cwd), **options))
        if check and result.status:
            raise CommandFailed(
                f"{shlex.join(argv)} ended with {result.status}",
                exit_status=result.exit_status,
                signal=result.signal,
            )
        return result

    def kernel_log(self) -> str:
        """Return what the guest's kernel has logged; a process that crashed is named there.

        Returns
        -------
        str
            The end of ``dmesg``.

        Raises
        ------
        GuestLost
            If the guest is gone.
        """
        return self._ask(["dmesg"])[1].decode(errors="replace")

    def export(self, patterns: Iterable[str], into: Path) -> tuple[Path, ...]:
        """Take files out of the guest's build directory.

        Parameters
        ----------
        patterns : iterable of str
            Shell patterns relative to ``/build``; a directory stands for all that is in it.
        into : Path
            Directory of the host that they are put into.

        Returns
        -------
        tuple of Path
            The files, relative to `into`, sorted; links are left out.

        Raises
        ------
        MachineError
            If they do not fit the exports disk, or the archive is damaged.
        HostError
            If this host's disk is full.
        """
        self._write_exports(patterns)
        return unpack_exports(self._up().files.exports, into)

    def export_built(self, target: Path) -> None:
        """Write the whole build directory to a file from which another machine can go on.

        Parameters
        ----------
        target : Path
            A squashfs, for `Provision.built`. Links, owners and times are as in the guest.

        Raises
        ------
        MachineError
            If the build directory does not fit the exports disk.
        HostError
            If this host's disk is full.
        """
        self._write_exports(["."])
        pack_exports(self._up().files.exports, target)

    def shell(self) -> int:
        """Give the terminal of this process to a shell in the guest until that ends.

        Returns
        -------
        int
            Its exit status.

        Raises
        ------
        GuestLost
            If the guest is gone.
        UsageError
            If standard input is no terminal.
        """
        from buildvm_nb.vm.session import interact  # noqa: PLC0415 - rarely needed

        instance = self._up()
        order = GuestCommand(argv=("/bin/sh", "-c", "exec $(command -v bash || echo sh)"))
        order = self._dated(order)
        with instance.watched():
            return interact(instance.channel, order, instance.next_step())

    def serve_ssh(
        self, keys: ChannelKeys, *, others: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        """Start an SSH server on port 22 of the guest, for whoever has a forwarded port to it.

        Its user is ``build``, whose commands run as those of `run` do; so do those of others.

        Parameters
        ----------
        keys : ChannelKeys
            Of this server; not those of the guest's channel.
        others : mapping of str to int
            Further users whom the same key lets in, and their numbers in the image; those that
            ``/etc/passwd`` of the initramfs names.

        Raises
        ------
        MachineError
            If it does not start.
        GuestLost
            If the guest is gone.
        StateError
            If the machine is not up.
        """
        variables = "".join(f"{name}={value}\n" for name, value in BUILD_ENVIRONMENT.items())
        self._put("/etc/buildvm/environment", variables.encode())
        self._put("/etc/dropbear/service_key", keys.host_key_file())
        for user, number in (_BUILD_USER, *others.items()):
            line = f'command="/bin/session {user} {number}" '.encode() + keys.authorized_keys()
            self._put(f"/home/{user}/.ssh/authorized_keys", line)
        status, _, _ = self._ask(["serve"])
        if status != 0:
            raise MachineError("the guest's SSH server does not start", evidence=self.console_text)

    def resident_bytes(self) -> int:
        """Return how much of the host's memory QEMU occupies.

        Returns
        -------
        int
            Resident set size.
        """
        return self._up().process.resident_bytes()

    def close(self) -> None:
        """End the machine; calling it twice does no harm."""
        instance, self._instance, self._environment = self._instance, None, None
        if instance:
            instance.close()
            self._last_console = instance.console.text

    def _write_exports(self, patterns: Iterable[str]) -> None:
        status, _, said = self._ask(["artifacts", *patterns], timeout_s=_EXPORT_TIMEOUT_S)
        if status != 0:
            text = said.decode(errors="replace").strip()
            raise MachineError(
                f"the guest could not write its artifacts: {text or f'status {status}'}",
                hint=f"the exports disk has {self.provision.exports_mib} MiB",
            )

    def _put(self, path: str, content: bytes) -> None:
        """Write a file of the guest's initramfs, for root alone."""
        instance = self._up()
        with instance.watched():
            upload(instance.channel, path, content)

    def _up(self) -> Instance:
        if self._instance is None or self._environment is None:
            raise StateError("the machine is not up", hint="use it inside `with BuildMachine(…)`")
        return self._instance

    def _run(self, order: GuestCommand) -> CommandResult:
        instance = self._up()
        step = instance.next_step()
        order = self._dated(order)
        began = time.monotonic()
        with instance.watched():
            timed_out = stream(instance.channel, order, step)
            duration_s = time.monotonic() - began
            report = instance.events.wait_end(step, _END_TIMEOUT_S)
            if report is None or report.over_at is None:
                raise GuestLost("the guest does not say how a command ended")
            instance.check_disks()
        started_at = self._prove_start(report, order)
        if report.oom_kills or report.ooms:
            raise self._out_of_memory(report)
        if report.ended_at is None and not timed_out:
            raise MachineError(
                "the guest cannot tell how a command ended: its process 1 was killed"
            )
        signal = _signal_of(report)
        return CommandResult(
            exit_status=None if timed_out or signal else report.exit_status,
            signal=signal,
            timed_out=timed_out,
            clock_started_at=started_at,
            clock_ended_at=report.ended_at or report.over_at,
            duration_s=duration_s,
            free_kib=min((room.free_kib for room in report.room), default=0),
            shortage=self._shortage(report),
            victim=report.killed.get(signal, "") if signal else "",
            drift_s=report.drift_s,
        )

    def _dated(self, order: GuestCommand) -> GuestCommand:
        """Begin the first command of a machine at its date: booting has taken time, and connecting.

        Later ones find the clock as it went on, unless they are given one of their own.
        """
        is_first, self._is_used = not self._is_used, True
        return replace(order, clock=self.spec.date) if is_first and not order.clock else order

    def _prove_start(self, report: StepReport, order: GuestCommand) -> datetime:
        if report.broken or report.started_at is None:
            raise MachineError(
                f"the guest cannot run a command: {report.broken or 'its set-up failed'}",
                evidence=self.console_text[-4000:],
                hint="a directory to run in is relative to the source's top directory",
            )
        if order.clock:
            wanted = order.clock.replace(microsecond=0) if order.held else order.clock
            off_s = (report.started_at - wanted).total_seconds()
            if not 0 <= off_s <= _LATEST_START_S:
                raise ClockError(
                    f"a command began at {format_instant(report.started_at)} by the guest's "
                    f"clock; expected {format_instant(order.clock)} or less than "
                    f"{_LATEST_START_S:g} s later",
                    hint="the host may be overloaded; try again, or with fewer --jobs",
                )
        return report.started_at

    def _out_of_memory(self, report: StepReport) -> MachineError:
        killed = report.oom_kills
        return MachineError(
            f"the guest ran out of memory: {killed} process{'es were' if killed != 1 else ' was'} "
            f"killed; it has {self.spec.memory_mib} MiB",
            evidence="\n".join(
                line for line in self.kernel_log().splitlines() if "Killed process" in line
            ),
            hint="give the machine more memory with --memory (a case: limits.memory_mib)",
        )

    def _shortage(self, report: StepReport) -> str:
        if report.refused_forks:
            return (
                f"the guest refused {report.refused_forks} processes or threads: "
                f"more than {self.provision.processes} at once"
            )
        for room in report.room:
            place = _PLACES.get(room.place, room.place)
            if room.free_kib < _FULL_KIB:
                return f"{place} was full ({room.free_kib} KiB left)"
            if room.free_inodes < _FEW_INODES:
                return f"{place} had no room for more files ({room.free_inodes} inodes left)"
        return ""

    def _ask(self, argv: list[str], **limits: float) -> tuple[int, bytes, bytes]:
        """Run one of our own programs in the guest's initramfs."""
        instance = self._up()
        with instance.watched():
            return ask(instance.channel, argv, **limits)


def _signal_of(report: StepReport) -> int | None:
    """Return the signal that a command died of, by the word of the guest's kernel.

    A shell passes on a signal as 128 + N, but a test runner may count 132 failures: it is a signal
    only where a process of the step did die of N.
    """
    if report.signal:
        return report.signal
    number = report.exit_status - 128
    return number if number in report.killed else None
