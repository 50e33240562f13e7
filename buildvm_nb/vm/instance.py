"""One run of an engine, from its launch over the proof of its guest to its end; QEMU's."""

import itertools
import secrets
import shutil
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from buildvm_nb.errors import (
    BootTimeout,
    GuestLost,
    HostError,
    StateError,
)
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.interruption import interruptible
from buildvm_nb.model.machine import Environment, MachineSpec
from buildvm_nb.vm.account import DYING_S, account_for
from buildvm_nb.vm.boot import BootFiles
from buildvm_nb.vm.checkpoint import Checkpoint
from buildvm_nb.vm.command import MachineFiles, Sockets, qemu_argv
from buildvm_nb.vm.console import Console
from buildvm_nb.vm.emulator import Emulator, check_wishes
from buildvm_nb.vm.events import Events, GuestFacts
from buildvm_nb.vm.keys import ChannelKeys
from buildvm_nb.vm.monitor import Monitor
from buildvm_nb.vm.process import OwnedProcess
from buildvm_nb.vm.proof import prove, prove_clock
from buildvm_nb.vm.provision import Provision, lay_out, lay_out_fork
from buildvm_nb.vm.workarounds import kernel_workarounds
from buildvm_nb.vm.workdir import scratch_directory

if TYPE_CHECKING:
    from buildvm_nb.vm.channel import GuestChannel

__all__ = ["Instance", "QemuInstance", "import_channel"]

_BOOT_TIMEOUT_S = 180.0
_STATE_TIMEOUT_S = 600.0
"""For writing or reading a guest's memory."""
_QUIET_TIMEOUT_S = 30.0
_SEED_BYTES = 64
_MAKE_ROOM = "make room on the disk that holds the cache, or choose another --cache"
_UNLIMITED = 1 << 60
"""Bytes per second; QEMU's own default is meant for networks."""


def import_channel() -> "type[GuestChannel]":
    """Import what needs paramiko, which takes a moment: best while a guest boots."""
    from buildvm_nb.vm.channel import GuestChannel  # noqa: PLC0415

    return GuestChannel


class Instance(ABC):
    """An engine's process with its guest; `start` brings it up, `close` ends it.

    Parameters
    ----------
    spec : MachineSpec
        CPU and accelerator must have been decided.
    boot : BootFiles
        What is booted.
    provision : Provision
        What the machine is given.
    """

    engine_name: ClassVar[str]
    process: OwnedProcess
    events: Events
    channel: "GuestChannel"
    files: MachineFiles
    keys: ChannelKeys

    def __init__(self, spec: MachineSpec, boot: BootFiles, provision: Provision) -> None:
        self.spec = spec
        self.boot = boot
        self.provision = provision
        self.console = Console(provision.console_log)
        self._steps = itertools.count(1)
        self._trouble = ""
        self._stack = ExitStack()
        self._stack.callback(self.console.close)

    @abstractmethod
    def start(self, cache: Cache) -> Environment:
        """Launch the engine, wait for its guest and prove it.

        Parameters
        ----------
        cache : Cache
            Where the machine's own files are while it lives.

        Returns
        -------
        Environment
            What was proven.

        Raises
        ------
        HostError
            If this host lacks something.
        MachineError
            Of the fitting class, if the engine or the guest does not do its part.
        """

    @abstractmethod
    def resume(self, cache: Cache, checkpoint: Checkpoint) -> Environment:
        """Bring up a machine that goes on where a frozen one was, and prove its new clock.

        Parameters
        ----------
        cache : Cache
            Where the fork's own files are while it lives.
        checkpoint : Checkpoint
            Made with the same description but for the date, and the same engine.

        Returns
        -------
        Environment
            What was proven.

        Raises
        ------
        HostError
            If this host lacks something.
        StateError
            If the engine cannot use the checkpoint.
        MachineError
            Of the fitting class, if the engine or the guest does not do its part.
        """

    @abstractmethod
    def freeze(self, place: Path, environment: Environment) -> Checkpoint:
        """Write the machine's state to a directory; it only can be closed then.

        Parameters
        ----------
        place : Path
            An empty directory.
        environment : Environment
            What was proven in it.

        Returns
        -------
        Checkpoint
            Written.

        Raises
        ------
        HostError
            If the state cannot be written.
        MachineError
            If the guest or the engine does not do its part.
        """

    @abstractmethod
    def check_disks(self) -> None:
        """Make sure that nothing has gone wrong below the guest up to now, which runs on.

        An error of its disk reaches the guest too, so a command may have failed for it.

        Raises
        ------
        GuestLost
            If something has.
        """

    def next_step(self) -> str:
        """Return an identifier for the next command, unique in this guest."""
        return f"s{next(self._steps)}"

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Turn a lost guest into a clear account of what happened to it.

        Yields
        ------
        None
            While something is asked of the guest.

        Raises
        ------
        GuestLost
            With the kind of trouble and the evidence.
        LaunchError
            If the engine refused its command line.
        Interrupted
            If this thread's work is no longer wanted; the engine is ended then.
        """
        try:
            with interruptible(self.process.kill):
                yield
        except GuestLost as error:
            if self._trouble:
                raise GuestLost(self._trouble, hint=_MAKE_ROOM) from error
            raise account_for(error, self.process, self.console) from error

    def close(self) -> None:
        """End guest and engine; calling it twice does no harm."""
        self._stack.close()

    def _launch(
        self,
        names: Iterable[str],
        argv_of: Callable[[Mapping[str, int]], list[str]],
        temporary: Path | None,
    ) -> dict[str, socket.socket]:
        """Start the engine; it inherits one end of a connected pair of sockets for each name."""
        pairs = {name: socket.socketpair() for name in names}
        theirs = {name: pair[1] for name, pair in pairs.items()}
        ours = {name: self._stack.enter_context(pair[0]) for name, pair in pairs.items()}
        try:
            inherit = {name: end.fileno() for name, end in theirs.items()}
            self.process = OwnedProcess(
                argv_of(inherit),
                name=self.engine_name,
                inherit=inherit.values(),
                console=self.console,
                temporary=temporary,
            )
        finally:
            for end in theirs.values():
                end.close()
        self._stack.callback(self.process.close)
        self.events = Events(ours["events"])
        self._stack.callback(self.events.close)
        return ours

    def _connect(self, channel: socket.socket) -> None:
        """Open the SSH session."""
        self.channel = import_channel()(channel, self.keys, timeout_s=_BOOT_TIMEOUT_S)
        self._stack.callback(self.channel.close)

    def _make_place(self, cache: Cache) -> Path:
        return self._stack.enter_context(scratch_directory(cache.root / "machines"))

    def _wait_ready(self) -> GuestFacts:
        if facts := self.events.wait_ready(_BOOT_TIMEOUT_S):
            return facts
        if self.process.wait(DYING_S):
            raise GuestLost("the guest ended while it booted")
        raise BootTimeout(
            f"the guest did not come up in {_BOOT_TIMEOUT_S:.0f} s",
            evidence=self.console.text[-4000:],
            hint="the host may be overloaded; try again, or with another --kernel",
        )


class QemuInstance(Instance):
    """A QEMU with its guest.

    Parameters
    ----------
    spec, boot, provision
        As for `Instance`.
    emulator : Emulator
        The QEMU to run.
    """

    engine_name = "QEMU"
    monitor: Monitor

    def __init__(
        self, spec: MachineSpec, boot: BootFiles, emulator: Emulator, provision: Provision
    ) -> None:
        needed = kernel_workarounds(boot.kernel_release, spec.accelerator, emulator.version)
        boot = replace(boot, kernel_parameters=(*boot.kernel_parameters, *needed))
        super().__init__(spec, boot, provision)
        self.emulator = emulator

    def start(self, cache: Cache) -> Environment:
        """Launch QEMU, wait for its guest and prove it.

        Parameters
        ----------
        cache : Cache
            Where the machine's own files are while it lives.

        Returns
        -------
        Environment
            What was proven.

        Raises
        ------
        HostError
            If this host lacks something.
        MachineError
            Of the fitting class, if QEMU or the guest does not do its part.
        """
        started = time.monotonic()
        self.keys = ChannelKeys.generate()
        place = self._make_place(cache)
        self.files = lay_out(
            place, self.spec, self.boot, self.provision, self.keys, cache_root=cache.root
        )
        channel, monitor = self._launch_qemu()
        with self.watched():
            self.monitor = Monitor(monitor, on_trouble=self._give_up)
            self._stack.callback(self.monitor.close)
            features, lacking = self.monitor.cpu_features(self.spec.cpu, self.emulator.features)
            check_wishes(self.spec, lacking, self.emulator)
            vendor = self.emulator.vendor_of(self.spec.cpu)
            identity = self.monitor.cpu_identity(self.spec.cpu, vendor)
            import_channel()  # while the guest boots
            facts = self._wait_ready()
            prove(
                facts,
                spec=self.spec,
                elapsed_s=time.monotonic() - started,
                features=features,
                identity=identity,
                kernel_release=self.boot.kernel_release,
            )
            self._connect(channel)
        return Environment(
            cpu=self.spec.cpu,
            cpu_features=features,
            cpu_features_lacking=lacking,
            cpu_flags=tuple(sorted(facts.cpu_flags)),
            cpu_identity=facts.cpu_identity,
            cpu_count=facts.cpu_count,
            kernel_release=facts.kernel_release,
            accelerator=self.spec.accelerator,
            engine=f"qemu {self.emulator.version}",
        )

    def resume(self, cache: Cache, checkpoint: Checkpoint) -> Environment:
        """Launch QEMU with the state of a frozen machine and prove its new clock.

        Parameters
        ----------
        cache : Cache
            Where the fork's own files are while it lives.
        checkpoint : Checkpoint
            Made with the same description but for the date, and the same QEMU.

        Returns
        -------
        Environment
            What was proven before it was frozen.

        Raises
        ------
        HostError
            If this host lacks something.
        StateError
            If QEMU cannot use the state.
        MachineError
            Of the fitting class, if QEMU or the guest does not do its part.
        """
        self.keys = checkpoint.keys
        self._steps = itertools.count(checkpoint.steps_run + 1)
        self.files = lay_out_fork(self._make_place(cache), checkpoint)
        channel, monitor = self._launch_qemu()
        with self.watched():
            self.monitor = Monitor(monitor, on_trouble=self._give_up)
            self._stack.callback(self.monitor.close)
            with checkpoint.state.open("rb") as state:
                self.monitor.migrate("migrate-incoming", state.fileno(), timeout_s=_STATE_TIMEOUT_S)
            self.monitor.execute("cont")
            started = time.monotonic()
            clock = f"{self.spec.date.timestamp():.6f}"
            self.events.order(f"wake {clock} {secrets.token_hex(_SEED_BYTES)}")
            import_channel()  # while the guest wakes
            awakening = self.events.wait_awake(_BOOT_TIMEOUT_S)
            if awakening is None:
                raise GuestLost("the resumed guest does not say what its clock is")
            prove_clock(awakening, self.spec.date, time.monotonic() - started)
            self._connect(channel)
        return checkpoint.environment

    def freeze(self, place: Path, environment: Environment) -> Checkpoint:
        """Write the machine's state to a directory; it only can be closed then.

        Parameters
        ----------
        place : Path
            An empty directory.
        environment : Environment
            What was proven in it.

        Returns
        -------
        Checkpoint
            Written.

        Raises
        ------
        HostError
            If the state cannot be written.
        MachineError
            If the guest or QEMU does not do its part.
        """
        with self.watched():
            self.events.order("quiet")
            if not self.events.wait_quiet("closing", _QUIET_TIMEOUT_S):
                raise GuestLost("the guest does not make ready to be frozen")
            self.channel.close()
            if not self.events.wait_quiet("quiet", _QUIET_TIMEOUT_S):
                raise GuestLost("the guest's end of the channel stays open")
            self.monitor.execute("stop")
            self.monitor.execute("migrate-set-parameters", max_bandwidth=_UNLIMITED)
            checkpoint = Checkpoint(
                place=place,
                environment=environment,
                keys=self.keys,
                exports_mib=self.provision.exports_mib,
                steps_run=next(self._steps) - 1,
            )
            try:
                self._write_state(checkpoint)
            except (OSError, StateError) as error:
                raise HostError(
                    f"cannot freeze a machine: {error}", hint="make room, or choose another --cache"
                ) from error
        return checkpoint

    def check_disks(self) -> None:
        """Make sure that nothing has gone wrong below the guest up to now, which runs on.

        An error of its disk reaches the guest too, so a command may have failed for it.
        """
        status = self.monitor.execute("query-status")["status"]  # what happened before comes first
        if self._trouble or status != "running":
            raise GuestLost(self._trouble or f"QEMU says that the guest is {status}")

    def _give_up(self, trouble: str) -> None:
        """End a guest that can prove nothing any more."""
        self._trouble = trouble
        self.process.kill()

    def _write_state(self, checkpoint: Checkpoint) -> None:
        shutil.copyfile(self.files.initramfs, checkpoint.initramfs)
        checkpoint.initramfs.chmod(0o600)
        if self.files.inputs:
            shutil.copyfile(self.files.inputs, checkpoint.place / self.files.inputs.name)
        with checkpoint.state.open("xb") as state:
            checkpoint.state.chmod(0o600)
            self.monitor.migrate("migrate", state.fileno(), timeout_s=_STATE_TIMEOUT_S)
        if self.files.scratch:
            self.process.close()  # all that it wrote is in the file now
            shutil.move(self.files.scratch, checkpoint.place)
        checkpoint.write()

    def _launch_qemu(self) -> tuple[socket.socket, socket.socket]:
        def argv(theirs: Mapping[str, int]) -> list[str]:
            return qemu_argv(self.emulator, self.spec, self.boot, self.files, Sockets(**theirs))

        ours = self._launch(("monitor", "channel", "events"), argv, self.files.exports.parent)
        return ours["channel"], ours["monitor"]
