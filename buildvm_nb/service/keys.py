"""The SSH keys of a machine that stays: made once, the same at every start and every date."""

import os
from collections.abc import Iterable
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from buildvm_nb.errors import HostError
from buildvm_nb.host.tools import find_tool
from buildvm_nb.service.places import StatePlace
from buildvm_nb.vm import ChannelKeys

__all__ = [
    "host_key_line",
    "identity_file",
    "machine_keys",
    "openssh_host_key",
    "remember_host_keys",
    "ssh_argv",
]

USER = "build"
"""Of our own machines."""


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
        _write(identity_file(place), _private(keys.client))
        _write(_known_hosts(place), f"{name} ".encode() + _public(keys))
    except OSError as error:
        raise HostError(f"cannot keep the machine's keys: {path}: {error.strerror}") from error
    except ValueError as error:
        raise HostError(
            f"the machine's keys are damaged: {path}", hint="remove the file: new ones are made"
        ) from error
    return keys


def ssh_argv(place: StatePlace, name: str, port: int, user: str = USER) -> list[str]:
    """Write the command line that logs in to a machine.

    Parameters
    ----------
    place : StatePlace
        The machine's.
    name : str
        Its name.
    port : int
        Of the host's loopback interface, which leads to its SSH server.
    user : str
        Whom to log in as.

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
    argv = [find_tool("ssh"), "-F", "none", "-p", str(port), "-i", str(identity_file(place))]
    for option, value in options.items():
        argv += ["-o", f"{option}={value}"]
    return [*argv, f"{user}@127.0.0.1"]


def identity_file(place: StatePlace) -> Path:
    """Tell where the private key is that lets in to a machine.

    Parameters
    ----------
    place : StatePlace
        The machine's.

    Returns
    -------
    Path
        In OpenSSH's form; there once the keys were made.
    """
    return place.root / "identity"


def host_key_line(place: StatePlace) -> str:
    """Return the public key of a machine's SSH server.

    Parameters
    ----------
    place : StatePlace
        The machine's; it was started once.

    Returns
    -------
    str
        As OpenSSH writes it: type and key.

    Raises
    ------
    HostError
        If it cannot be read.
    """
    path = _known_hosts(place)
    try:
        return path.read_text().partition(" ")[2].strip()
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}") from error


def openssh_host_key(keys: ChannelKeys) -> tuple[bytes, bytes]:
    """Return the key of a machine's SSH server as sshd(8) reads it.

    Parameters
    ----------
    keys : ChannelKeys
        The machine's.

    Returns
    -------
    tuple of bytes and bytes
        Contents of the private and of the public file.
    """
    return _private(keys.host), _public(keys)


def remember_host_keys(place: StatePlace, name: str, public: Iterable[bytes]) -> None:
    """Have ssh(1) take these host keys for a machine's, and no others.

    Parameters
    ----------
    place : StatePlace
        The machine's.
    name : str
        Its name.
    public : iterable of bytes
        Contents of public files: type, key and perhaps a comment.

    Raises
    ------
    HostError
        If they cannot be written.
    """
    path = _known_hosts(place)
    try:
        _write(path, b"".join(f"{name} ".encode() + line.strip() + b"\n" for line in public))
    except OSError as error:
        raise HostError(f"cannot keep the machine's keys: {path}: {error.strerror}") from error


def _known_hosts(place: StatePlace) -> Path:
    return place.root / "known_hosts"


def _private(key: Ed25519PrivateKey) -> bytes:
    form = serialization.PrivateFormat.OpenSSH
    pem = serialization.Encoding.PEM
    return key.private_bytes(pem, form, serialization.NoEncryption())


def _public(keys: ChannelKeys) -> bytes:
    form = serialization.PublicFormat.OpenSSH
    return keys.host.public_key().public_bytes(serialization.Encoding.OpenSSH, form) + b"\n"


def _write(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
    partial.replace(path)
