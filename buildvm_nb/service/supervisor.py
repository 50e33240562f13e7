"""The process that runs one machine, in the foreground, until it or the guest ends."""

import os
import select
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildvm_nb.errors import BuildVMError, GuestLost, MachineError
from buildvm_nb.guix.endpoint import Endpoint, EndpointKind
from buildvm_nb.guix.machinefile import SECRETS_PORT, SSH_PORT, MachineFile
from buildvm_nb.guix.secrets import ClientPatience, SecretFile, gather, send_files
from buildvm_nb.guix.sexp import read_signing_key
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.instants import now
from buildvm_nb.service.control import Claim, Phase, Record, claimed, write_record
from buildvm_nb.service.guixdaemon import OFFLOADING, GuixDaemon, install_secrets
from buildvm_nb.service.places import (
    Notifier,
    Places,
    StatePlace,
    birth,
    check_ports,
    machine_keys,
    openssh_host_key,
    remember_host_keys,
    wait_for_banner,
)
from buildvm_nb.study import open_disk, open_machine
from buildvm_nb.vm import DiskMachine, Provision

__all__ = [
    "secrets_endpoint",
    "secrets_of",
    "supervise",
]

# A machine that boots a disk image: started, given its secrets, waited for.

_BOOT_TIMEOUT_S = 900.0
"""A whole distribution takes minutes under emulation."""
_PATIENCE = ClientPatience(retries=round(_BOOT_TIMEOUT_S), handshake_timeout_s=_BOOT_TIMEOUT_S)
_TAIL = 4000
_SSH = "/etc/ssh/"
_HOST_KEY = f"{_SSH}ssh_host_"


def secrets_endpoint(machine: MachineFile) -> Endpoint | None:
    """Return where a disk's secret service is reached.

    Parameters
    ----------
    machine : MachineFile
        The machine.

    Returns
    -------
    Endpoint or None
        A port of the loopback interface; None: it has no disk, or no port leads there.
    """
    port = machine.host_port(SECRETS_PORT)
    if not machine.disk or port is None:
        return None
    return Endpoint(kind=EndpointKind.TCP, host="127.0.0.1", port=port)


@contextmanager
def running_disk(
    machine: MachineFile, place: StatePlace, *, cache: Cache, progress: Progress
) -> Iterator[DiskMachine]:
    """Have a machine with a disk up; it is ended on leaving.

    Yields: it has its secrets, and its SSH server has answered, where ports lead there.
    """
    endpoint = secrets_endpoint(machine)
    secrets = secrets_of(machine, place) if endpoint else []
    provision = Provision(console_log=place.console, qemu=machine.qemu)
    guest = open_disk(
        machine.spec(), Path(machine.disk), cache=cache, progress=progress, provision=provision
    )
    with closing(guest):
        guest.boot()
        try:
            if endpoint:
                with progress.task(f"boot {machine.name} until it takes its secrets"):
                    send_files(secrets, endpoint, _PATIENCE, check=guest.check)
            if port := machine.host_port(SSH_PORT):
                with progress.task(f"boot {machine.name}"):
                    wait_for_banner(port, _BOOT_TIMEOUT_S, check=guest.check)
        except MachineError as error:
            error.evidence = error.evidence or guest.console_text[-_TAIL:]
            raise
        yield guest


def secrets_of(machine: MachineFile, place: StatePlace) -> list[tuple[SecretFile, bytes]]:
    """Gather what a machine is given, and note which host keys it will show.

    As Guix does for its build machines, SSH keys are added: the server's, unless the user has given
    it one, and the one that lets `buildvm machine ssh` in.
    """
    given = gather(Path(machine.secrets)) if machine.secrets else []
    files = {file.name: (file, content) for file, content in given}
    keys = machine_keys(place, machine.name)
    if any(name.startswith(_HOST_KEY) for name in files):
        public = [files[name][1] for name in files if _is_public_host_key(name)]
        remember_host_keys(place, machine.name, public)
    else:
        files |= _host_key(*openssh_host_key(keys))
    name = f"{_SSH}authorized_keys.d/{machine.ssh_user}"
    others = files[name][1].rstrip() + b"\n" if name in files else b""
    files[name] = _file(name, others + keys.authorized_keys(), 0o644)
    return [files[name] for name in sorted(files)]


def _is_public_host_key(name: str) -> bool:
    return name.startswith(_HOST_KEY) and name.endswith(".pub")


def _host_key(private: bytes, public: bytes) -> dict[str, tuple[SecretFile, bytes]]:
    name = f"{_HOST_KEY}ed25519_key"
    return {
        name: _file(name, private, 0o600),
        f"{name}.pub": _file(f"{name}.pub", public, 0o644),
    }


def _file(name: str, content: bytes, mode: int) -> tuple[SecretFile, bytes]:
    return SecretFile(name=name, size=len(content), mode=stat.S_IFREG | mode), content


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
