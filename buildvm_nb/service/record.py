"""What is known of a running machine, and whether it still runs.

The process that runs a machine holds a lock, which the kernel frees when it dies, however it dies.
So a record without a held lock is stale, and a process number is never trusted alone.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from pydantic import ValidationError

from buildvm_nb.errors import HostError, StateError
from buildvm_nb.guix.machinefile import SSH_PORT, MachineFile
from buildvm_nb.model.instants import Instant
from buildvm_nb.model.machine import Environment
from buildvm_nb.model.value import Value
from buildvm_nb.service.places import StatePlace
from buildvm_nb.service.processes import birth

__all__ = [
    "Claim",
    "Phase",
    "Record",
    "Status",
    "claimed",
    "machine_status",
    "read_record",
    "wait_until_started",
    "write_record",
]


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
    """Be the one process that runs a machine.

    Parameters
    ----------
    place : StatePlace
        The machine's.
    name : str
        Its name, for messages.

    Yields
    ------
    Claim
        While the lock is held.

    Raises
    ------
    StateError
        If another process has it.
    HostError
        If the state cannot be written.
    """
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
    """Write what is known, as a whole.

    Parameters
    ----------
    place : StatePlace
        The machine's.
    record : Record
        What is known.

    Raises
    ------
    HostError
        If it cannot be written.
    """
    partial = place.record.with_suffix(".partial")
    try:
        partial.write_text(record.model_dump_json(indent=1) + "\n")
        partial.replace(place.record)
    except OSError as error:
        raise HostError(f"cannot write {place.record}: {error.strerror}") from error


def read_record(place: StatePlace) -> Record | None:
    """Read what is known.

    Parameters
    ----------
    place : StatePlace
        The machine's.

    Returns
    -------
    Record or None
        None: nothing, or what another version wrote.
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
