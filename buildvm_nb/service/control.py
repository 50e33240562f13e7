"""Named machines in the background: started, stopped, watched, made units of service managers."""

import fcntl
import grp
import json
import os
import select
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path

from pydantic import ValidationError

from buildvm_nb.errors import BootTimeout, HostError, LaunchError, MachineError, StateError
from buildvm_nb.guix.machinefile import SSH_PORT, MachineFile
from buildvm_nb.model.instants import Instant
from buildvm_nb.model.machine import Environment
from buildvm_nb.model.value import Value
from buildvm_nb.service.places import VARIABLE, Places, StatePlace, birth, end_process

__all__ = [
    "Claim",
    "Phase",
    "Record",
    "Status",
    "claimed",
    "image_command",
    "kvm_group",
    "machine_status",
    "restart_machine",
    "shepherd_service",
    "start_machine",
    "stop_machine",
    "systemd_unit",
    "write_record",
]

# What is known of a running machine, and whether it still runs.
#
# The process that runs a machine holds a lock, which the kernel frees when it dies, however it
# dies. So a record without a held lock is stale, and a process number is never trusted alone.


class Phase(StrEnum):
    """How far a machine is."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    """Its SSH server has answered."""
    FAILED = "failed"
    """It ended by itself, or the process that ran it was killed."""


class Record(Value):
    """What the process that runs a machine writes down."""

    machine: MachineFile
    file: str
    pid: int
    """Of the process that runs it."""
    born: int
    """When that process was started, in clock ticks since the host was: no two have both."""
    phase: Phase
    since: Instant
    qemu_pid: int | None = None
    environment: Environment | None = None
    """What was proven in it."""
    image_digest: str = ""
    kernel_digest: str = ""
    failure: str = ""


class Status(Value):
    """What a machine is doing."""

    name: str
    phase: Phase
    record: Record | None = None
    """None: it was never started, or was stopped in order."""

    @property
    def is_alive(self) -> bool:
        """Whether a process runs it."""
        return self.phase in {Phase.STARTING, Phase.READY}

    @property
    def ssh_port(self) -> int | None:
        """Port of the host's loopback interface that leads to its SSH server."""
        return self.record.machine.host_port(SSH_PORT) if self.record else None


class Claim:
    """Being the one process that runs a machine."""

    def __init__(self, starting: int) -> None:
        self._starting = starting

    def tell_ready(self) -> None:
        """Let those go on who wait for the machine to be ready; calling it twice does no harm."""
        if self._starting >= 0:
            os.close(self._starting)
        self._starting = -1


@contextmanager
def claimed(place: StatePlace, name: str) -> Iterator[Claim]:
    """Be the one process that runs a machine."""
    place.make()
    locks = []
    try:
        for path in (place.lock, place.starting):
            locks.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        for lock in locks:
            os.close(lock)
        raise HostError(f"cannot write {path}: {error.strerror}") from error
    claim = Claim(locks[1])
    try:
        try:
            fcntl.flock(locks[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(locks[1], fcntl.LOCK_EX)  # who waits for an earlier run is gone at once
        except BlockingIOError as error:
            record = read_record(place)
            who = f" by process {record.pid}" if record else ""
            raise StateError(
                f"the machine {name} is run already{who}", hint=f"buildvm machine status {name}"
            ) from error
        yield claim
    finally:
        claim.tell_ready()
        os.close(locks[0])


def wait_until_started(place: StatePlace) -> None:
    """Wait while a machine is being started by another process, until it is ready or has ended."""
    lock = os.open(place.starting, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)  # the kernel frees it, however its holder dies
    finally:
        os.close(lock)


def _is_claimed(path: Path) -> bool:
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def write_record(place: StatePlace, record: Record) -> None:
    """Write what is known, as a whole."""
    partial = place.record.with_suffix(".partial")
    try:
        partial.write_text(record.model_dump_json(indent=1) + "\n")
        partial.replace(place.record)
    except OSError as error:
        raise HostError(f"cannot write {place.record}: {error.strerror}") from error


def read_record(place: StatePlace) -> Record | None:
    """Read what is known.

    Returns: None: nothing, or what another version wrote.
    """
    try:
        return Record.model_validate_json(place.record.read_bytes())
    except (OSError, ValidationError):
        return None


def machine_status(place: StatePlace, name: str) -> Status:
    """Tell what a machine is doing.

    Parameters
    ----------
    place : StatePlace
        The machine's.
    name : str
        Its name.

    Returns
    -------
    Status
        `Phase.FAILED` where nobody runs it although nobody has stopped it.
    """
    alive = _is_claimed(place.lock)
    record = read_record(place)
    if alive:
        is_current = record is not None and birth(record.pid) == record.born
        record = record if is_current else None  # of one that has crashed
        is_ready = record is not None and record.phase is Phase.READY
        return Status(name=name, phase=Phase.READY if is_ready else Phase.STARTING, record=record)
    if record is None:
        return Status(name=name, phase=Phase.STOPPED)
    if not record.failure:
        lost = f"the process that ran it, {record.pid}, was killed"
        record = record.model_copy(update={"failure": lost, "phase": Phase.FAILED})
    return Status(name=name, phase=Phase.FAILED, record=record)


# Machines as services: a unit for systemd, a service for the Shepherd.
#
# References: systemd.service(5), systemd.unit(5) (specifiers begin with %, and $ begins a variable
# in ExecStart); The Shepherd 1.0 Manual, "Defining Services".

_UNIT = """\
# Written by `buildvm machine unit {name} --systemd`.
[Unit]
Description=Virtual build machine {name}
{after}
[Service]
Type=notify
ExecStart={command}
{environment}# {making}
TimeoutStartSec=1h
TimeoutStopSec=40
# 143: ended by SIGTERM, in order
SuccessExitStatus=143
Restart=on-failure
RestartSec=10
{confinement}{install}"""
_MADE_BEFORE = "a kernel may have to be unpacked first; the image has to be there: {command}"
_CONFINEMENT = """\
# An account of its own, which exists while the machine runs; its files are in /var/lib/{root} and
# /var/cache/{root}: BUILDVM_STATE for `buildvm machine` and `buildvm guix machines`.
DynamicUser=yes
{groups}StateDirectory={root}
CacheDirectory={root}
StateDirectoryMode=0700
CacheDirectoryMode=0700
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
DevicePolicy=closed
DeviceAllow=/dev/kvm rw
ProtectClock=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
LockPersonality=yes
SystemCallArchitectures=native
"""
_INSTALL = """
[Install]
WantedBy={target}
"""
_NOT_BY_ITSELF = """
# It does not start by itself: auto_start is false in the machine's file. Where it is true, a unit
# written then has an [Install] section for `systemctl enable`.
"""
SYSTEM_ROOT = "buildvm-nb"
"""Of a system unit, below /var/lib and /var/cache."""
_SHEPHERD = """\
;; Written by `buildvm machine unit {name} --shepherd`.
;; Load it from the Shepherd's init.scm, or with: herd load root FILE
(register-services
 (list (service
        '({name})
        #:documentation "Virtual build machine {name}."
        #:start (make-forkexec-constructor
                 '({command})
                 #:environment-variables
                 (append (list {environment}) (default-environment-variables))
                 #:log-file {log})
        #:stop (make-kill-destructor #:grace-period 40)
        #:respawn? #t)))
{start}"""


def image_command(machine: MachineFile) -> str:
    """Say how root makes the image of a system unit, whose account may not.

    The unit's directory is its account's; what root adds later has to be as well.
    """
    cache = f"/var/cache/{SYSTEM_ROOT}"
    return (
        f"sudo buildvm --cache {cache} image build {machine.image} && "
        f"sudo chown -R --reference={cache}/ {cache}/"
    )


def kvm_group(device: Path = Path("/dev/kvm")) -> str:
    """Name the group that may use KVM here; empty: there is none.

    A unit that names a group which is not there does not start.
    """
    try:
        name = grp.getgrgid(device.stat().st_gid).gr_name
    except (OSError, KeyError):
        return ""
    return "" if name == "root" else name


def systemd_unit(
    machine: MachineFile,
    argv: Sequence[str],
    environment: Mapping[str, str],
    *,
    is_system: bool,
    group: str = "",
) -> str:
    """Write a unit for systemd.

    Parameters
    ----------
    machine : MachineFile
        The machine.
    argv : sequence of str
        Absolute program and arguments that run it in the foreground.
    environment : mapping of str to str
        Variables that it needs.
    is_system : bool
        Whether for the system's manager, or for a user's.
    group : str
        Of `kvm_group`, for a system unit.

    Returns
    -------
    str
        The unit. Where the machine's file says `auto_start`, it can be enabled, to start with the
        system or at the user's login. For the system it runs as an account of its own.
    """
    target = "multi-user.target" if is_system else "default.target"
    variables = "".join(
        f"Environment={_quoted(f'{name}={value}')}\n" for name, value in environment.items()
    )
    return _UNIT.format(
        name=machine.name,
        after="After=network.target\n" if is_system else "",
        command=" ".join(_quoted(word).replace("$", "$$") for word in argv),
        environment=variables,
        making=_MADE_BEFORE.format(command=image_command(machine))
        if is_system and not machine.disk
        else "an image may have to be made first",
        confinement=_CONFINEMENT.format(
            root=SYSTEM_ROOT, groups=f"SupplementaryGroups={group}\n" if group else ""
        )
        if is_system
        else "",
        install=_INSTALL.format(target=target) if machine.auto_start else _NOT_BY_ITSELF,
    )


def _quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def shepherd_service(
    machine: MachineFile, argv: Sequence[str], environment: Mapping[str, str], *, log: str
) -> str:
    """Write a service for the Shepherd.

    Parameters
    ----------
    machine : MachineFile
        The machine; `auto_start` starts it when the file is loaded.
    argv : sequence of str
        Absolute program and arguments that run it in the foreground.
    environment : mapping of str to str
        Variables that it needs.
    log : str
        File for what it says.

    Returns
    -------
    str
        Scheme.
    """
    return _SHEPHERD.format(
        name=machine.name,
        command=" ".join(map(_scheme, argv)),
        environment=" ".join(_scheme(f"{name}={value}") for name, value in environment.items()),
        log=_scheme(log),
        start=f"(start-in-the-background '({machine.name}))\n" if machine.auto_start else "",
    )


def _scheme(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


_START_TIMEOUT_S = 3600.0
"""An image may have to be made first."""
_STOP_TIMEOUT_S = 30.0
_TRIES = 1000
"""Looks at a machine that is being started; between the first two the other one may just begin."""
_TAIL = 4000
_LONGEST_LOG = 2**20


def start_machine(name: str, argv: Sequence[str], *, places: Places) -> Status:
    """Start a machine in the background and wait until it is ready.

    Parameters
    ----------
    name : str
        The machine's.
    argv : sequence of str
        Command line that runs it in the foreground.
    places : Places
        Where its state is.

    Returns
    -------
    Status
        Ready; at once, if it was. Where another process is starting it, that is waited for; it is
        started anew if that did not succeed.

    Raises
    ------
    LaunchError
        If it does not come up; the evidence is what its process said.
    BootTimeout
        If it takes more than an hour.
    """
    place = places.state(name)
    for _ in range(_TRIES):
        if (status := machine_status(place, name)).phase is not Phase.STARTING:
            break
        wait_until_started(place)  # somebody else is at it
    if status.is_alive:
        return status
    place.make()
    _rotate(place.log)
    with (
        tempfile.TemporaryDirectory(prefix="buildvm-") as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as news,
        place.log.open("ab") as log,
    ):
        address = f"{directory}/notify"
        news.bind(address)
        start = log.tell()
        # in a thread of its own: a Ctrl-C inside Popen would leave a process that nobody knows
        with ThreadPoolExecutor(1) as starter:
            starting = starter.submit(
                subprocess.Popen,
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={**os.environ, VARIABLE: address},
                start_new_session=True,
            )
            try:
                process = starting.result()
                is_ready = _wait_ready(process, news, _START_TIMEOUT_S)
            except BaseException:  # nobody waits for it any more
                process = starting.result()
                process.terminate()
                process.wait()
                raise
        if not is_ready:
            raise _not_started(name, process, _said(place.log, start))
    # it is on its own now, and is reaped if it ends before we do
    threading.Thread(target=process.wait, name=name, daemon=True).start()
    return machine_status(place, name)


def _wait_ready(process: "subprocess.Popen[bytes]", news: socket.socket, timeout_s: float) -> bool:
    """Wait until a process has told that its machine is ready, or has ended, or time is over."""
    deadline = time.monotonic() + timeout_s
    end = os.pidfd_open(process.pid)
    try:
        while (left_s := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([news.fileno(), end], [], [], left_s)
            if news.fileno() in ready and b"READY=1" in news.recv(4096).splitlines():
                return True
            if end in ready:
                return False
        return False
    finally:
        os.close(end)


def _not_started(name: str, process: "subprocess.Popen[bytes]", said: str) -> MachineError:
    try:
        status = process.wait(0)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()
        text = f"the machine {name} did not start in {_START_TIMEOUT_S:.0f} s"
        return BootTimeout(text, evidence=said)
    text = f"the machine {name} did not start: its process ended with {status}"
    return LaunchError(text, evidence=said)


def _rotate(log: Path) -> None:
    with suppress(FileNotFoundError):
        if log.stat().st_size > _LONGEST_LOG:
            log.replace(log.with_suffix(".1"))


def _said(log: Path, start: int) -> str:
    try:
        return log.read_bytes()[start:][-_TAIL:].decode(errors="replace")
    except OSError:
        return ""


def stop_machine(name: str, *, places: Places) -> bool:
    """Stop a machine and clear away what is left of a crashed one.

    Parameters
    ----------
    name : str
        The machine's.
    places : Places
        Where its state is.

    Returns
    -------
    bool
        Whether it was running.

    Raises
    ------
    StateError
        If it cannot be told who runs it.
    """
    place = places.state(name)
    status = machine_status(place, name)
    if status.is_alive:
        if status.record is None:
            raise StateError(
                f"the machine {name} is just being started, or by another version of buildvm",
                hint="try again in a moment",
            )
        end_process(status.record.pid, status.record.born, timeout_s=_STOP_TIMEOUT_S)
    place.record.unlink(missing_ok=True)
    return status.is_alive


def restart_machine(name: str, argv: Sequence[str], *, places: Places) -> Status:
    """Stop a machine and start it again; its SSH keys stay.

    Parameters
    ----------
    name : str
        The machine's.
    argv : sequence of str
        Command line that runs it in the foreground.
    places : Places
        Where its state is.

    Returns
    -------
    Status
        Ready.

    Raises
    ------
    StateError, LaunchError, BootTimeout
        As `stop_machine` and `start_machine` do.
    """
    stop_machine(name, places=places)
    return start_machine(name, argv, places=places)
