"""The SSH keys of a machine that stays: made once, the same at every start and every date."""

import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from buildvm_nb.errors import HostError
from buildvm_nb.host.tools import find_tool
from buildvm_nb.service.places import StatePlace
from buildvm_nb.vm import ChannelKeys

__all__ = ["machine_keys", "ssh_argv"]

_USER = "build"


def machine_keys(place: StatePlace, name: str) -> ChannelKeys:
    """Return the keys of a machine's SSH server and of its user, made now if there are none.

    Parameters
    ----------
    place : StatePlace
        The machine's; it gets the files that ssh(1) needs, too.
    name : str
        The machine's, which ssh(1) knows its host key by.

    Returns
    -------
    ChannelKeys
        The same as before.

    Raises
    ------
    HostError
        If they cannot be read or written.
    """
    path = place.root / "keys"
    try:
        if path.exists():
            keys = ChannelKeys.from_text(path.read_text())
        else:
            keys = ChannelKeys.generate()
            _write(path, keys.to_text().encode())
        _write(_identity(place), _private(keys))
        _write(_known_hosts(place), f"{name} ".encode() + _public(keys))
    except OSError as error:
        raise HostError(f"cannot keep the machine's keys: {path}: {error.strerror}") from error
    except ValueError as error:
        raise HostError(
            f"the machine's keys are damaged: {path}", hint="remove the file: new ones are made"
        ) from error
    return keys


def ssh_argv(place: StatePlace, name: str, port: int) -> list[str]:
    """Write the command line that logs in to a machine.

    Parameters
    ----------
    place : StatePlace
        The machine's.
    name : str
        Its name.
    port : int
        Of the host's loopback interface, which leads to its SSH server.

    Returns
    -------
    list of str
        ssh(1) and its arguments; it knows the machine's key and takes no other.

    Raises
    ------
    HostError
        If this host has no ssh(1).
    """
    options = {
        "UserKnownHostsFile": f'"{_known_hosts(place)}"',
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "HostKeyAlias": name,
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
    }
    argv = [find_tool("ssh"), "-F", "none", "-p", str(port), "-i", str(_identity(place))]
    for option, value in options.items():
        argv += ["-o", f"{option}={value}"]
    return [*argv, f"{_USER}@127.0.0.1"]


def _identity(place: StatePlace) -> Path:
    return place.root / "identity"


def _known_hosts(place: StatePlace) -> Path:
    return place.root / "known_hosts"


def _private(keys: ChannelKeys) -> bytes:
    form = serialization.PrivateFormat.OpenSSH
    pem = serialization.Encoding.PEM
    return keys.client.private_bytes(pem, form, serialization.NoEncryption())


def _public(keys: ChannelKeys) -> bytes:
    form = serialization.PublicFormat.OpenSSH
    return keys.host.public_key().public_bytes(serialization.Encoding.OpenSSH, form) + b"\n"


def _write(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
    partial.replace(path)
