"""The process that runs one machine, in the foreground, until it or the guest ends."""

import os
import select
from contextlib import closing, suppress
from pathlib import Path

from buildvm_nb.errors import BuildVMError, GuestLost
from buildvm_nb.guix.machinefile import SSH_PORT, MachineFile
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.instants import now
from buildvm_nb.service.installing import install_secrets
from buildvm_nb.service.keys import machine_keys
from buildvm_nb.service.notify import Notifier
from buildvm_nb.service.places import Places, StatePlace
from buildvm_nb.service.processes import birth
from buildvm_nb.service.readiness import check_ports, wait_for_banner
from buildvm_nb.service.record import Phase, Record, claimed, write_record
from buildvm_nb.study import open_machine
from buildvm_nb.vm import BuildMachine, Provision

__all__ = ["supervise"]

_BANNER_TIMEOUT_S = 120.0


def supervise(
    file: Path,
    machine: MachineFile,
    *,
    places: Places,
    cache: Cache,
    progress: Progress = SILENT,
) -> None:
    """Run a machine until this process is told to end.

    Whoever started the process is told, as systemd is, when the machine's SSH server answers.

    Parameters
    ----------
    file : Path
        Where the machine's description came from.
    machine : MachineFile
        The machine.
    places : Places
        Where its state is.
    cache : Cache
        Keeps image, kernel and initramfs.
    progress : Progress
        Shows what is being made and booted.

    Raises
    ------
    StateError
        If it is run already.
    HostError
        If a port is in use, or this host lacks something.
    MachineError
        Of the fitting class, if it does not come up or its guest dies.
    """
    place = places.state(machine.name)
    notifier = Notifier()
    with claimed(place, machine.name):
        record = Record(
            machine=machine,
            file=str(file),
            pid=os.getpid(),
            born=birth(os.getpid()) or 0,
            phase=Phase.STARTING,
            since=now(),
        )
        write_record(place, record)
        try:
            _run(machine, place, record, notifier, cache, progress)
        except BuildVMError as error:
            failed = {"failure": error.message, "phase": Phase.FAILED, "since": now()}
            write_record(place, record.model_copy(update=failed))
            raise
        except BaseException:
            place.record.unlink(missing_ok=True)
            raise


def _run(
    machine: MachineFile,
    place: StatePlace,
    record: Record,
    notifier: Notifier,
    cache: Cache,
    progress: Progress,
) -> None:
    check_ports(machine)
    keys = machine_keys(place, machine.name)
    with suppress(FileNotFoundError):
        place.console.replace(place.console.with_suffix(".log.1"))
    provision = Provision(console_log=place.console, qemu=machine.qemu)
    guest = open_machine(machine.spec(), cache=cache, progress=progress, provision=provision)
    with closing(guest):
        with progress.task(f"boot {machine.name}"):
            guest.boot()
            if machine.secrets:
                install_secrets(guest, Path(machine.secrets))
            guest.serve_ssh(keys)
            if port := machine.host_port(SSH_PORT):
                wait_for_banner(port, _BANNER_TIMEOUT_S)
        update = {"phase": Phase.READY, "since": now(), "qemu_pid": guest.pid}
        write_record(place, record.model_copy(update=update))
        notifier.tell(READY="1", STATUS=f"{machine.name} is up")
        _wait_for_end(guest)
    raise GuestLost(
        f"the machine {machine.name} has ended by itself",
        evidence=guest.console_text[-2000:],
        hint=f"buildvm machine console {machine.name}",
    )


def _wait_for_end(guest: BuildMachine) -> None:
    """Wait for QEMU's end; a signal ends the wait by an exception, as everywhere."""
    process = os.pidfd_open(guest.pid)
    try:
        select.select([process], [], [])
    finally:
        os.close(process)
