"""The process that runs one machine, in the foreground, until it or the guest ends."""

import os
import select
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildvm_nb.errors import BuildVMError, GuestLost
from buildvm_nb.guix.acl import read_signing_key
from buildvm_nb.guix.machinefile import SSH_PORT, MachineFile
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.instants import now
from buildvm_nb.service.daemon import OFFLOADING, GuixDaemon
from buildvm_nb.service.diskrun import running_disk
from buildvm_nb.service.installing import install_secrets
from buildvm_nb.service.keys import machine_keys
from buildvm_nb.service.notify import Notifier
from buildvm_nb.service.places import Places, StatePlace
from buildvm_nb.service.processes import birth
from buildvm_nb.service.readiness import check_ports, wait_for_banner
from buildvm_nb.service.record import Claim, Phase, Record, claimed, write_record
from buildvm_nb.study import open_machine
from buildvm_nb.vm import Provision

__all__ = ["supervise"]

_BANNER_TIMEOUT_S = 120.0
_DYING_S = 2.0


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
    with claimed(place, machine.name) as claim:
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
            _run(machine, record, _News(place, claim, notifier), cache, progress)
        except BuildVMError as error:
            failed = {"failure": error.message, "phase": Phase.FAILED, "since": now()}
            write_record(place, record.model_copy(update=failed))
            raise
        except BaseException:
            place.record.unlink(missing_ok=True)
            raise


@dataclass(frozen=True)
class _News:
    """Who is told that a machine is ready."""

    place: StatePlace
    claim: Claim
    notifier: Notifier

    def tell_ready(self, record: Record, known: Mapping[str, Any]) -> None:
        ready = {"phase": Phase.READY, "since": now(), **known}
        write_record(self.place, record.model_copy(update=ready))
        self.claim.tell_ready()
        self.notifier.tell(READY="1", STATUS=f"{record.machine.name} is up")


def _run(
    machine: MachineFile, record: Record, news: _News, cache: Cache, progress: Progress
) -> None:
    place = news.place
    check_ports(machine)
    if machine.offload:  # before anything is made for it
        read_signing_key(Path(machine.signing_key))
    with suppress(FileNotFoundError):
        place.console.replace(place.console.with_suffix(".log.1"))
    if machine.disk:
        with running_disk(machine, place, cache=cache, progress=progress) as disk:
            news.tell_ready(record, {"qemu_pid": disk.pid})
            _wait_for_end(disk.pid)
        raise _ended(machine, disk.console_text)
    keys = machine_keys(place, machine.name)
    provision = Provision(
        console_log=place.console, qemu=machine.qemu, scratch_mib=machine.disk_mib or None
    )
    guest = open_machine(machine.spec(), cache=cache, progress=progress, provision=provision)
    with ExitStack() as stack:
        daemon = GuixDaemon(guest, place, machine) if machine.offload else None
        if daemon:
            stack.callback(daemon.close)
        stack.enter_context(closing(guest))
        with progress.task(f"boot {machine.name}"):
            guest.boot()
            if machine.secrets:
                install_secrets(guest, Path(machine.secrets))
            if daemon:
                daemon.start()
            guest.serve_ssh(keys, others=dict([OFFLOADING]) if daemon else {})
            if port := machine.host_port(SSH_PORT):
                wait_for_banner(port, _BANNER_TIMEOUT_S)
        proven = {
            "qemu_pid": guest.pid,
            "environment": guest.environment,
            "image_digest": guest.boot_files.image_digest,
            "kernel_digest": guest.boot_files.kernel_digest,
        }
        news.tell_ready(record, proven)
        if _wait_for_end(guest.pid, daemon) and daemon:
            raise daemon.lost()
    raise _ended(machine, guest.console_text)


def _ended(machine: MachineFile, said: str) -> GuestLost:
    return GuestLost(
        f"the machine {machine.name} has ended by itself",
        evidence=said[-2000:],
        hint=f"buildvm machine console {machine.name}",
    )


def _wait_for_end(qemu_pid: int, daemon: GuixDaemon | None = None) -> bool:
    """Wait for an end; a signal ends the wait by an exception, as everywhere.

    Returns whether it was the daemon's, with the guest still there.
    """
    process = os.pidfd_open(qemu_pid)
    watched = [process, daemon.end] if daemon else [process]
    try:
        ended, _, _ = select.select(watched, [], [])
        if process in ended:
            return False
        # the daemon's run ends with its guest, too, and may be the first to be noticed
        return not select.select([process], [], [], _DYING_S)[0]
    finally:
        os.close(process)
