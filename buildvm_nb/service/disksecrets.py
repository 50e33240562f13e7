"""What a machine with a disk is given by Guix's secret service: the user's files and SSH keys."""

import stat
from pathlib import Path

from buildvm_nb.guix.machinefile import MachineFile
from buildvm_nb.guix.secretfiles import SecretFile, gather
from buildvm_nb.service.keys import machine_keys, openssh_host_key, remember_host_keys
from buildvm_nb.service.places import StatePlace

__all__ = ["secrets_of"]

_SSH = "/etc/ssh/"
_HOST_KEY = f"{_SSH}ssh_host_"


def secrets_of(machine: MachineFile, place: StatePlace) -> list[tuple[SecretFile, bytes]]:
    """Gather what a machine is given, and note which host keys it will show.

    As Guix does for its build machines, SSH keys are added: the server's, unless the user has given
    it one, and the one that lets `buildvm machine ssh` in.

    Parameters
    ----------
    machine : MachineFile
        The machine.
    place : StatePlace
        Keeps its keys.

    Returns
    -------
    list of (SecretFile, bytes)
        Sorted by name.

    Raises
    ------
    UsageError
        If its directory of secrets has what cannot be sent.
    HostError
        If a file cannot be read or a key not kept.
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
