"""A machine that boots a disk image: started, given its secrets, waited for."""

import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from buildvm_nb.errors import MachineError
from buildvm_nb.guix.endpoint import Endpoint, EndpointKind
from buildvm_nb.guix.machinefile import SECRETS_PORT, SSH_PORT, MachineFile
from buildvm_nb.guix.secretfiles import SecretFile, gather
from buildvm_nb.guix.secrets import ClientPatience, send_files
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import Progress
from buildvm_nb.service.keys import machine_keys, openssh_host_key, remember_host_keys
from buildvm_nb.service.places import StatePlace
from buildvm_nb.service.readiness import wait_for_banner
from buildvm_nb.study import open_disk
from buildvm_nb.vm import DiskMachine, Provision

__all__ = ["running_disk", "secrets_endpoint", "secrets_of"]

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

    Parameters
    ----------
    machine : MachineFile
        The machine; its ports are free.
    place : StatePlace
        Where its state is.
    cache : Cache
        Where what the guest writes is kept while it lives.
    progress : Progress
        Shows what is being waited for.

    Yields
    ------
    DiskMachine
        It has its secrets, and its SSH server has answered, where ports lead there.

    Raises
    ------
    UsageError
        If the disk image or the machine is not possible.
    HostError
        If this host lacks something.
    MachineError
        Of the fitting class, if it does not come up.
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
