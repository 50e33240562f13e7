"""One run of QEMU, from its launch over the proof of its guest to its end."""

import errno
import fcntl
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import socket
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from filelock import FileLock
from pydantic import ValidationError

from buildvm_nb.errors import (
    BootTimeout,
    BuildVMError,
    GuestLost,
    HostError,
    LaunchError,
    StateError,
)
from buildvm_nb.host.cache import Cache, file_digest
from buildvm_nb.host.process import find_tool, interruptible, run_tool
from buildvm_nb.model.machine import Accelerator, Environment, MachineSpec
from buildvm_nb.vm.command import BootFiles, MachineFiles, Sockets, qemu_argv
from buildvm_nb.vm.events import Events, GuestFacts, prove, prove_clock
from buildvm_nb.vm.qemu import QEMU, Console, Emulator, Monitor, OwnedProcess, Trouble, check_wishes
from buildvm_nb.vm.session import ChannelKeys
from buildvm_nb.vm.transfer import pack_inputs, write_initramfs

if TYPE_CHECKING:
    from buildvm_nb.vm.channel import GuestChannel

__all__ = [
    "Checkpoint",
    "Instance",
    "Provision",
    "QemuInstance",
    "account_for",
    "import_channel",
    "kernel_workarounds",
    "lay_out",
    "lay_out_copy",
    "scratch_directory",
]

# What happened to a guest that was lost: told from its console and from QEMU's end.

DYING_S = 5.0
"""How long QEMU may take to end after its guest has."""


def account_for(error: GuestLost, process: OwnedProcess, console: Console) -> BuildVMError:
    """Turn a lost guest into a clear account of what happened to it.

    Returns: `GuestLost` with kind of trouble and evidence, or `LaunchError` if QEMU refused its
    command line.
    """
    ended = process.wait(DYING_S)
    trouble = console.trouble()
    if trouble:
        kind, evidence = trouble
        hint = {
            Trouble.OUT_OF_MEMORY: "give the machine more memory with --memory",
            Trouble.OOPS: "another --kernel, or a newer QEMU, may do",
        }.get(kind, "")
        return GuestLost(
            f"the guest died: {kind}", evidence=evidence, is_oops=kind is Trouble.OOPS, hint=hint
        )
    if not ended:
        said = console.text[-4000:]
        return GuestLost(error.message, evidence=error.evidence or said, hint=error.hint)
    how = process.describe_end()
    if not console.text and "was killed" not in how:
        return LaunchError(f"QEMU did not start: {how}", evidence=how)
    return GuestLost(f"the guest is gone: {how}", evidence=console.text[-4000:])


# A frozen machine in a directory, from which any number of machines can be resumed.
#
# All state of a guest is in its memory, so one file with that is a whole machine; what it was
# booted from is only read. The directory holds the keys of its channel, so it is its user's alone.

_FACTS = "machine.json"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a machine is resumed from."""

    place: Path
    environment: Environment
    """What was proven in the machine before it was frozen."""
    keys: ChannelKeys
    exports_mib: int
    """Size of its exports disk."""
    steps_run: int
    """Commands that have run in it; a fork counts on from there."""

    @property
    def state(self) -> Path:
        """The guest's memory and devices, as QEMU writes them."""
        return self.place / "state"

    def take(self, files: MachineFiles) -> None:
        """Take over the disks of a machine that has ended."""
        if files.inputs:
            shutil.copyfile(files.inputs, self.place / "inputs.squashfs")
        if files.scratch:
            shutil.move(files.scratch, self.place / "scratch.ext4")

    @property
    def initramfs(self) -> Path:
        """What it was booted with."""
        return self.place / "initramfs.cpio"

    @property
    def scratch(self) -> Path | None:
        """Its scratch disk, where it has one; forks write to copies."""
        path = self.place / "scratch.ext4"
        return path if path.exists() else None

    @property
    def inputs(self) -> Path | None:
        """Its inputs disk, where it has one."""
        path = self.place / "inputs.squashfs"
        return path if path.exists() else None

    def write(self) -> None:
        """Write down what is not in the other files; the last thing that makes it whole."""
        facts = {
            "environment": self.environment.model_dump(mode="json"),
            "keys": self.keys.to_text(),
            "exports_mib": self.exports_mib,
            "steps_run": self.steps_run,
            "state_digest": file_digest(self.state) if self.state.exists() else None,
            "scratch_digest": self.scratch and _disk_digest(self.scratch),
        }
        target = self.place / _FACTS
        target.touch(mode=0o600)
        target.write_text(json.dumps(facts))
        self.place.chmod(0o700)

    @classmethod
    def read(cls, place: Path) -> "Checkpoint":
        """Read a checkpoint and verify it.

        Parameters
        ----------
        place : Path
            Its directory.

        Returns
        -------
        Checkpoint
            Whole, as far as can be told without resuming it.

        Raises
        ------
        StateError
            If it is damaged or of another version.
        """
        try:
            facts = json.loads((place / _FACTS).read_text())
            checkpoint = cls(
                place=place,
                environment=Environment.model_validate(facts["environment"]),
                keys=ChannelKeys.from_text(facts["keys"]),
                exports_mib=facts["exports_mib"],
                steps_run=facts["steps_run"],
            )
            of_disk = facts["state_digest"] is None
            digest = None if of_disk else file_digest(checkpoint.state)
            scratch = checkpoint.scratch and _disk_digest(checkpoint.scratch)
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            raise StateError(f"the checkpoint cannot be read: {place}: {error}") from error
        if digest != facts["state_digest"]:
            raise StateError(
                f"the checkpoint is damaged: {checkpoint.state} has SHA-256 {digest}; "
                f"it was written with {facts['state_digest']}"
            )
        if scratch != facts["scratch_digest"]:
            raise StateError(f"the checkpoint's scratch disk is damaged or gone: {place}")
        os.utime(place)  # it is in use: evicted later than others
        return checkpoint


def _disk_digest(disk: Path) -> str:
    """Return the SHA-256 of what a sparse file holds, and of where: its holes would take long."""
    digest = hashlib.sha256()
    with disk.open("rb") as stream:
        end = 0
        while (start := _next_data(stream.fileno(), end)) is not None:
            end = os.lseek(stream.fileno(), start, os.SEEK_HOLE)
            digest.update(f"{start} {end}\n".encode())
            stream.seek(start)
            left = end - start
            while left and (piece := stream.read(min(1 << 20, left))):
                digest.update(piece)
                left -= len(piece)
    return digest.hexdigest()


def _next_data(descriptor: int, start: int) -> int | None:
    try:
        return os.lseek(descriptor, start, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # there is none to the end
            return None
        raise


# What a machine is given beside its description, and the files made for it.

_UML_SCRATCH_MIB = 8192
"""Sparse: only what is written takes room."""


@dataclass(frozen=True, kw_only=True)
class Provision:
    """What a machine is given besides its description."""

    inputs: Mapping[str, Path] | None = None
    """Place below ``/build`` to a directory of the host; the guest gets copies."""
    on_note: Callable[[str], None] | None = None
    """Gets a sentence about each input file that could not be copied; None: that is an error."""
    built: Path | None = None
    """Instead of inputs: a build directory that `BuildMachine.export_built` wrote."""
    exports_mib: int = 1024
    """Room for artifacts."""
    scratch_mib: int | None = None
    """Size of a disk for all that is written in the guest; None: it is kept in memory."""
    processes: int = 2048
    """Processes and threads that commands may have, all together."""
    console_log: Path | None = None
    """A file that what the serial console says is written to as well."""
    qemu: str = QEMU
    """Program that runs the machine: a name on ``PATH``, or a path."""


def lay_out(
    place: Path,
    spec: MachineSpec,
    boot: BootFiles,
    provision: Provision,
    keys: ChannelKeys,
    *,
    cache_root: Path,
) -> MachineFiles:
    """Write the files that a machine needs to boot.

    `cache_root`: left out of inputs that hold it.
    """
    inputs = place / "inputs.squashfs" if provision.inputs else provision.built
    initramfs = place / "initramfs.cpio"
    try:
        if provision.inputs and inputs:
            pack_inputs(
                provision.inputs,
                inputs,
                newest=spec.date,
                without=cache_root,
                on_note=provision.on_note,
            )
        exports = _make_disk(place / "exports.tar", provision.exports_mib)
        scratch = None
        if (size_mib := _scratch_mib(spec, provision)) is not None:
            scratch = _make_disk(place / "scratch.ext4", size_mib)
            _format(scratch)
        files = {"inputs": inputs, "exports": exports, "scratch": scratch}
        disks = [name for name, path in files.items() if path]
        processes = provision.processes
        write_initramfs(initramfs, boot.initramfs, spec, keys, disks=disks, processes=processes)
    except OSError as error:
        raise _unwritable(error, place) from error
    return MachineFiles(initramfs=initramfs, inputs=inputs, exports=exports, scratch=scratch)


def lay_out_fork(place: Path, checkpoint: Checkpoint) -> MachineFiles:
    """Write the files that a fork does not share with its checkpoint."""
    try:
        exports = _make_disk(place / "exports.tar", checkpoint.exports_mib)
    except OSError as error:
        raise _unwritable(error, place) from error
    return MachineFiles(
        initramfs=checkpoint.initramfs,
        inputs=checkpoint.inputs,
        exports=exports,
        scratch=checkpoint.scratch,
        is_fork=True,
    )


def lay_out_copy(
    place: Path,
    spec: MachineSpec,
    boot: BootFiles,
    provision: Provision,
    keys: ChannelKeys,
    *,
    checkpoint: Checkpoint,
) -> MachineFiles:
    """Write the files of a fork that boots anew with a copy of a frozen machine's disk."""
    initramfs = place / "initramfs.cpio"
    inputs, scratch = checkpoint.inputs, place / "scratch.ext4"
    if checkpoint.scratch is None:
        raise StateError(f"the checkpoint has no disk: {checkpoint.place}")
    try:
        run_tool(
            [find_tool("cp"), "--reflink=auto", "--sparse=always", checkpoint.scratch, scratch]
        )
        exports = _make_disk(place / "exports.tar", checkpoint.exports_mib)
        files = {"inputs": inputs, "exports": exports, "scratch": scratch}
        write_initramfs(
            initramfs,
            boot.initramfs,
            spec,
            keys,
            disks=[name for name, path in files.items() if path],
            processes=provision.processes,
            is_resumed=True,
        )
    except OSError as error:
        raise _unwritable(error, place) from error
    return MachineFiles(
        initramfs=initramfs, inputs=inputs, exports=exports, scratch=scratch, is_fork=True
    )


def _scratch_mib(spec: MachineSpec, provision: Provision) -> int | None:
    """Return the size of the scratch disk: user-mode Linux always has one, to be frozen."""
    if provision.scratch_mib is None and spec.accelerator is Accelerator.UML:
        return _UML_SCRATCH_MIB
    return provision.scratch_mib


def _make_disk(path: Path, size_mib: int) -> Path:
    with path.open("wb") as stream:
        os.truncate(stream.fileno(), size_mib * 2**20)
    return path


def _format(disk: Path) -> None:
    """Make an empty file system; a guest is never mended, so a journal would only cost time."""
    features = "^has_journal,^resize_inode"
    lazily = "lazy_itable_init=1,nodiscard,root_owner=0:0"
    run_tool(
        [find_tool("mke2fs"), "-q", "-t", "ext4", "-m", "0", "-O", features, "-E", lazily, disk]
    )


def _unwritable(error: OSError, place: Path) -> HostError:
    return HostError(
        f"cannot write the machine's files: {error.strerror}: {error.filename or place}",
        hint="make room, or choose another --cache",
    )


# What certain kernels need to run well under certain emulators.

_FIXED_IN_QEMU = 10
_AFFECTED = ((6, 5), (7, 0))


def kernel_workarounds(
    kernel_release: str, accelerator: Accelerator, qemu_version: str
) -> tuple[str, ...]:
    """Return the kernel parameters that a known fault of the emulator calls for.

    Linux 6.12 corrupts its slab lists under the emulation of QEMU 7.2, in most boots, by way of
    ``cmpxchg16b``; 5.10, 6.1 and 7.2 do not, and QEMU 10.0 does not (measured: 8 of 8 boots oopsed
    without, 0 of 5 with this). Taking the feature away from the CPU would change what software
    finds. Slabs with consistency checks use a lock instead (mm/slub.c, ``SLAB_NO_CMPXCHG``), which
    no software sees.

    `qemu_version`: for example ``7.2.22``.
    """
    match = re.match(r"(\d+)\.(\d+)", kernel_release)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    emulated = accelerator is Accelerator.TCG
    old = int(qemu_version.split(".", maxsplit=1)[0]) < _FIXED_IN_QEMU
    affected = _AFFECTED[0] <= version < _AFFECTED[1]
    return ("slab_debug=F",) if emulated and old and affected else ()


# Directories for scratch: private, and cleared by the next start when their owner was killed.


@contextmanager
def scratch_directory(parent: Path, prefix: str = "machine-") -> Iterator[Path]:
    """Make a directory that is removed on leaving, or by the next start if we are killed.

    Parameters
    ----------
    parent : Path
        Where all such directories are; nothing else is.
    prefix : str
        How its name begins: what it is for.

    Yields
    ------
    Path
        An empty directory, readable by this user alone.

    Raises
    ------
    HostError
        If it cannot be made.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(parent / ".lock"):
            _clear(parent)
            place = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise HostError(
            f"cannot make a directory for scratch: {error.strerror}: {parent}",
            hint="choose another directory with --cache or BUILDVM_CACHE",
        ) from error
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(lock)


def _clear(parent: Path) -> None:
    """Remove directories whose owner holds no lock any more, so is dead."""
    for place in parent.glob("[!.]*"):
        try:
            lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(place, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)


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
    """An engine's process with its guest; `start` brings it up, `close` ends it."""

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

        Raises `MachineError` (Of the fitting class, if the engine or the guest does not do its
        part).
        """

    @abstractmethod
    def resume(self, cache: Cache, checkpoint: Checkpoint) -> Environment:
        """Bring up a machine that goes on where a frozen one was, and prove its new clock.

        `checkpoint`: made with the same description but for the date, and the same engine.
        Raises `MachineError` (Of the fitting class, if the engine or the guest does not do its
        part).
        """

    @abstractmethod
    def freeze(self, place: Path, environment: Environment) -> Checkpoint:
        """Write the machine's state to a directory; it only can be closed then.

        `place`: an empty directory.
        """

    @abstractmethod
    def check_disks(self) -> None:
        """Make sure that nothing has gone wrong below the guest up to now, which runs on.

        An error of its disk reaches the guest too, so a command may have failed for it.
        """

    def next_step(self) -> str:
        """Return an identifier for the next command, unique in this guest."""
        return f"s{next(self._steps)}"

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Turn a lost guest into a clear account of what happened to it.

        Raises `Interrupted` if this thread's work is no longer wanted; the engine is ended then.
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
    """A QEMU with its guest."""

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

        Raises `MachineError` (Of the fitting class, if QEMU or the guest does not do its part).
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

        `checkpoint`: made with the same description but for the date, and the same QEMU.
        Raises `MachineError` (Of the fitting class, if QEMU or the guest does not do its part).
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

        `place`: an empty directory.
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
