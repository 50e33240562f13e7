"""A machine that boots a disk image: started, given its secrets, waited for."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from buildvm_nb.errors import MachineError
from buildvm_nb.guix.endpoint import Endpoint, EndpointKind
from buildvm_nb.guix.machinefile import SECRETS_PORT, SSH_PORT, MachineFile
from buildvm_nb.guix.secrets import ClientPatience, send_files
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import Progress
from buildvm_nb.service.disksecrets import secrets_of
from buildvm_nb.service.places import StatePlace
from buildvm_nb.service.readiness import wait_for_banner
from buildvm_nb.study import open_disk
from buildvm_nb.vm import DiskMachine, Provision

__all__ = ["running_disk", "secrets_endpoint"]

_BOOT_TIMEOUT_S = 900.0
"""A whole distribution takes minutes under emulation."""
_PATIENCE = ClientPatience(retries=round(_BOOT_TIMEOUT_S), handshake_timeout_s=_BOOT_TIMEOUT_S)
_TAIL = 4000


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
