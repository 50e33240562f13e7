"""What Guix on this host must know of a machine of ours before it can send builds there."""

from buildvm_nb.errors import HostError, StateError
from buildvm_nb.guix.acl import read_signing_key
from buildvm_nb.guix.hostside import Introduction
from buildvm_nb.guix.machinefile import SSH_PORT, MachineFile
from buildvm_nb.guix.machinelist import OffloadMachine
from buildvm_nb.service.daemon import OFFLOADING, signing_key_file
from buildvm_nb.service.keys import host_key_line, identity_file
from buildvm_nb.service.places import Places

__all__ = ["introduction", "known_signing_key"]


def introduction(
    machine: MachineFile, *, places: Places, speed: float = 1.0, parallel_builds: int = 1
) -> Introduction:
    """Gather what Guix must know of a machine.

    Parameters
    ----------
    machine : MachineFile
        The machine.
    places : Places
        Where its state is.
    speed : float
        As Guix compares it with other machines'; faster ones are asked first.
    parallel_builds : int
        How many builds Guix may send there at a time.

    Returns
    -------
    Introduction
        The same at every date of the machine.

    Raises
    ------
    StateError
        If Guix cannot build there: it is not meant to, no port leads there, or it was never
        started and so has no keys.
    HostError
        If its keys cannot be read.
    """
    name, place = machine.name, places.state(machine.name)
    port = machine.host_port(SSH_PORT)
    if machine.disk:
        raise StateError(
            f"Guix cannot be sent to the machine {name} by us: what is on its disk has a daemon, a "
            "user and keys of its own, which we do not know",
            hint="docs/guix.md says what to put into /etc/guix/machines.scm and the acl by hand",
        )
    if not machine.offload or port is None:
        raise StateError(
            f"Guix cannot build in the machine {name}: "
            + ("no port leads to its SSH server" if machine.offload else "its daemon is not there"),
            hint='say in its file: offload = true, image = "debian:sid,guix", and port_forwardings '
            "with guest = 22",
        )
    signing_key = known_signing_key(machine, places=places)
    if not signing_key:
        raise StateError(
            f"the machine {name} has no signing key yet in {place.root}",
            hint=f"Guix makes it at the first start: buildvm machine start {name}; if another user "
            "started it, say where the state is: BUILDVM_STATE=DIRECTORY",
        )
    identity = identity_file(place)
    listed = OffloadMachine(
        port=port,
        systems=machine.systems,
        user=OFFLOADING[0],
        host_key=host_key_line(place),
        private_key=str(identity),
        speed=speed,
        parallel_builds=parallel_builds,
    )
    try:
        text = identity.read_text()
    except OSError as error:
        raise HostError(f"cannot read {identity}: {error.strerror}") from error
    return Introduction(name=name, machine=listed, signing_key=signing_key, identity=text)


def known_signing_key(machine: MachineFile, *, places: Places) -> str:
    """Return the public key with which a machine signs what it has built.

    Parameters
    ----------
    machine : MachineFile
        The machine.
    places : Places
        Where its state is.

    Returns
    -------
    str
        Empty: it has none yet.

    Raises
    ------
    HostError
        If it cannot be read.
    UsageError
        If the file of the machine's state is no key.
    """
    path = signing_key_file(places.state(machine.name))
    return read_signing_key(path) if path.exists() else ""
