"""User-mode Linux: a guest whose kernel is a process in a sandbox of its own.

It controls the date and the kernel, not the CPU: the guest runs on the host's, at nearly its speed.
The sandbox (bubblewrap) gives it name spaces of its own and no network; it sees its own root
directory, the machine's files and nothing else of the host, and all its processes end with it.
A frozen machine is its scratch disk: forks boot anew with a copy of it.

References
----------
Linux, Documentation/virt/uml/user_mode_linux_howto_v2.rst; arch/um/drivers/ubd_kern.c (disks),
chan_kern.c (lines from descriptors); bwrap(1).
"""

import json
import os
import re
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from buildvm_nb.errors import GuestLost, HostError, MachineError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.process import find_tool, interruptible
from buildvm_nb.model.machine import Accelerator, CpuIdentity, Environment, MachineSpec
from buildvm_nb.vm.command import KERNEL_PARAMETERS, BootFiles, MachineFiles
from buildvm_nb.vm.events import INSTRUCTION_SETS, Events, GuestFacts, linux_flag, prove_machine
from buildvm_nb.vm.instance import Checkpoint, Instance, import_channel, lay_out, lay_out_copy
from buildvm_nb.vm.qemu import Console, OwnedProcess, write_memo
from buildvm_nb.vm.session import ChannelKeys, ask

__all__ = ["UmlInstance", "prove_uml", "uml_argv"]

_DEADLINE_S = 60.0
_UP = "buildvm: a guest without settings has come up"
"""What our init says when it is booted with the common initramfs alone."""
_OF_QEMU = frozenset({"console=ttyS0", "mitigations=off", "no_timer_check", "quiet"})
_PARAMETERS = (
    *(one for one in KERNEL_PARAMETERS if one not in _OF_QEMU),
    "loglevel=4",
    "ENGINE=uml",  # becomes a variable of init's environment
    # from 6.16 on: in its other mode programs of the guest could reach all of the guest's memory
    "seccomp=off",
    # btrfs is built in, and with it a race between ways to compute RAID 6, which takes a second of
    # each boot; without it no such array can be mounted. The second is its name in 7.x
    "initcall_blacklist=raid6_select_algo,raid6_init",
)
_CPUINFO = Path("/proc/cpuinfo")
_DISK_ERROR = re.compile(r"I/O error, dev ubd\w.*|ubd\w?: .*(?:failed|error).*", re.IGNORECASE)
_FREEZE_TIMEOUT_S = 600.0
_WINDOW = 2048
"""Bytes that the guest can take at once: see the guest's script ``relay``."""


def uml_argv(
    spec: MachineSpec,
    boot: BootFiles,
    files: MachineFiles,
    lines: Mapping[str, int],
    cpu: int | None = None,
) -> list[str]:
    """Write the command line that runs a machine in its sandbox: a pure function but for bwrap.

    Parameters
    ----------
    spec : MachineSpec
        What is asked for.
    boot : BootFiles
        What is booted; the kernel is a program below a root directory of its own.
    files : MachineFiles
        This machine's own files.
    lines : mapping of str to int
        Descriptors of ``events`` and ``channel``, which the program inherits.
    cpu : int, optional
        The host's CPU that it keeps to.

    Returns
    -------
    list of str
        Program and arguments.
    """
    disks = {"root": boot.root, "inputs": files.inputs, "exports": files.exports}
    disks["scratch"] = files.scratch
    binds: list[str] = []
    arguments = ["initrd=/initramfs", f"mem={spec.memory_mib}M", "con=null", "con0=null,fd:1"]
    for number, (name, path) in enumerate((n, p) for n, p in disks.items() if p):
        is_read = name in {"root", "inputs"}
        binds += ["--ro-bind" if is_read else "--bind", str(path), f"/{name}"]
        arguments.append(f"ubd{number}{'r' if is_read else ''}=/{name}")
    binds += ["--ro-bind", str(files.initramfs), "/initramfs"]
    arguments += ["ssl=null"]
    arguments += [f"ssl{n}=fd:{lines[name]}" for n, name in enumerate(("events", "channel"))]
    keeping = [] if cpu is None else [find_tool("taskset"), "--cpu-list", str(cpu)]
    inside = [*keeping, *_sandbox(boot.kernel, binds)]
    return [*inside, *arguments, *_PARAMETERS, *boot.kernel_parameters]


def _claim_cpu(name: str = "buildvm-cpu") -> tuple[int, socket.socket] | None:
    """Choose a CPU that no other guest of this kind keeps to.

    At each system call and each page fault of the guest its kernel and the program that it traces
    take turns. On two CPUs each turn wakes one that sleeps, which takes longer than the turn.
    `name`: begins the names of the sockets by which processes of this host know each other's.
    Returns: its number, and what is to be closed when the guest has ended; None: each has a guest.
    """
    for number in sorted(os.sched_getaffinity(0)):
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0{name}-{number}")  # abstract: it is gone with its process
        except OSError:
            claim.close()
            continue
        return number, claim
    return None


def _sandbox(program: Path, binds: list[str]) -> list[str]:
    root = program.parents[2]
    inside = [
        word
        for path in sorted(root.iterdir())
        for word in ("--ro-bind", str(path), f"/{path.name}")
    ]
    return [
        find_tool("bwrap"),
        *("--unshare-all", "--die-with-parent", "--clearenv", "--setenv", "TMPDIR", "/tmp"),  # noqa: S108
        *("--setenv", "HOME", "/tmp"),  # noqa: S108 - in the sandbox
        *inside,
        *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),  # noqa: S108
        *binds,
        "--",
        f"/{program.relative_to(root)}",
    ]


class UmlInstance(Instance):
    """A user-mode Linux with its guest."""

    engine_name = "user-mode Linux"

    def start(self, cache: Cache) -> Environment:
        """Launch the kernel, wait for its guest and prove it."""
        self.keys = ChannelKeys.generate()
        place = self._make_place(cache)
        self.files = lay_out(
            place, self.spec, self.boot, self.provision, self.keys, cache_root=cache.root
        )
        return self._come_up()

    def resume(self, cache: Cache, checkpoint: Checkpoint) -> Environment:
        """Boot anew with a copy of a frozen machine's disk."""
        self.keys = ChannelKeys.generate()
        place = self._make_place(cache)
        self.files = lay_out_copy(
            place, self.spec, self.boot, self.provision, self.keys, checkpoint=checkpoint
        )
        found = self._come_up()
        if found.kernel_release != checkpoint.environment.kernel_release:
            raise MachineError(
                f"the fork runs kernel {found.kernel_release}; "
                f"expected {checkpoint.environment.kernel_release}, as the frozen machine had"
            )
        return found

    def _come_up(self) -> Environment:
        started = time.monotonic()
        cpu = None
        if claimed := _claim_cpu():
            cpu, claim = claimed
            self._stack.callback(claim.close)
        lines = self._launch(
            ("events", "channel"),
            lambda theirs: uml_argv(self.spec, self.boot, self.files, theirs, cpu),
            None,
        )
        with self.watched():
            import_channel()  # while the guest boots
            facts = self._wait_ready()
            prove_machine(
                facts,
                spec=self.spec,
                elapsed_s=time.monotonic() - started,
                kernel_release=self.boot.kernel_release,
            )
            paced = _PacedLine(lines["channel"], self.events)
            self._stack.callback(paced.close)
            self._connect(paced.ours)
        return Environment(
            cpu=self.spec.cpu,
            cpu_features=tuple(
                sorted(name for name in INSTRUCTION_SETS if linux_flag(name) in facts.cpu_flags)
            ),
            cpu_flags=tuple(sorted(facts.cpu_flags)),
            cpu_identity=_identity_of_host(),
            cpu_count=facts.cpu_count,
            kernel_release=facts.kernel_release,
            accelerator=Accelerator.UML,
            engine=f"uml {facts.kernel_release}",
        )

    def freeze(self, place: Path, environment: Environment) -> Checkpoint:
        """Keep the machine's scratch disk, once all is written to it."""
        with self.watched():
            status, _, said = ask(self.channel, ["freeze"], timeout_s=_FREEZE_TIMEOUT_S)
            if status != 0:
                raise MachineError(
                    "the guest cannot write its disk to the end: "
                    + said.decode(errors="replace").strip()
                )
            self.check_disks()
        self.process.kill()
        self.process.wait(_DEADLINE_S)
        checkpoint = Checkpoint(
            place=place,
            environment=environment,
            keys=self.keys,
            exports_mib=self.provision.exports_mib,
            steps_run=0,
        )
        try:
            checkpoint.take(self.files)
            checkpoint.write()
        except OSError as error:
            raise HostError(
                f"cannot freeze a machine: {error}", hint="make room, or choose another --cache"
            ) from error
        return checkpoint

    def check_disks(self) -> None:
        """Make sure that the kernel has had no trouble with its disks, nor has ended."""
        if match := _DISK_ERROR.search(self.console.text):
            raise GuestLost(
                f"the guest's disk failed below it: {match[0]}",
                hint="make room on the disk that holds the cache, or choose another --cache",
            )
        if not self.process.is_running:
            raise GuestLost("the guest has ended")


class _PacedLine:
    """A socket for the SSH session, of which the guest gets no more at once than it can take.

    The other direction needs no pace: who writes to a line waits until it is read.
    """

    def __init__(self, line: socket.socket, events: Events) -> None:
        self._line = line
        self._events = events
        self.ours, self._theirs = socket.socketpair()
        self._threads = [
            threading.Thread(target=work, name="guest line", daemon=True)
            for work in (self._send, self._receive)
        ]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        sent = 0
        with suppress(OSError):  # closed, or the guest is gone
            while data := self._theirs.recv(_WINDOW):
                sent += len(data)
                self._line.sendall(data)
                if not self._events.wait_taken(sent):
                    break
        self._end()

    def _receive(self) -> None:
        with suppress(OSError):
            while data := self._line.recv(1 << 16):
                self._theirs.sendall(data)
        self._end()

    def _end(self) -> None:
        for one in (self._line, self._theirs):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it; calling it twice does no harm."""
        self._end()
        self._events.close()  # a guest that hangs never says that it has taken the last bytes
        for thread in self._threads:
            thread.join()
        self._theirs.close()
        self.ours.close()


def _identity_of_host() -> CpuIdentity | None:
    """Read what the host's CPU says that it is, which is what programs in the guest see."""
    words: dict[str, str] = {}
    for line in _CPUINFO.read_text().partition("\n\n")[0].splitlines():
        name, _, value = line.partition(":")
        words[name.strip().replace(" ", "_")] = " ".join(value.split())
    return GuestFacts(cpu_words=words).cpu_identity


def prove_uml(boot: BootFiles, memo: Path | None = None) -> tuple[bool, str]:
    """Tell whether user-mode Linux runs a guest on this host, and what was seen.

    Parameters
    ----------
    boot : BootFiles
        The kernel to try it with.
    memo : Path, optional
        File in which success is remembered until the kernel, or bubblewrap, changes.

    Returns
    -------
    tuple of bool and str
        Whether it works, and a sentence with the evidence.
    """
    try:
        bwrap = Path(find_tool("bwrap"))
    except HostError as error:
        return False, error.message
    key = [boot.kernel_digest or str(boot.kernel), bwrap.stat().st_mtime_ns]
    if memo and _remembered(memo) == key:
        return True, "a guest came up before"
    binds = ["--ro-bind", str(boot.initramfs), "/initramfs"]
    argv = _sandbox(boot.kernel, binds)
    argv += ["initrd=/initramfs", "mem=192M", "con=null", "con0=null,fd:1", *_PARAMETERS]
    console = Console()
    process = OwnedProcess(argv, name="user-mode Linux", inherit=(), console=console)
    try:
        with interruptible(process.kill):
            ended = process.wait(_DEADLINE_S)
        if _UP in console.text:
            if memo:
                write_memo(memo, key)
            return True, "a guest came up"
        how = process.describe_end() if ended else f"it hung for {_DEADLINE_S:.0f} s"
        return False, f"a guest did not come up: {how}"
    finally:
        process.kill()
        process.close()


def _remembered(memo: Path) -> object:
    try:
        return json.loads(memo.read_bytes())
    except (OSError, ValueError):
        return None
