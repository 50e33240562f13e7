"""Machine files: a named, persistent build machine as TOML, with the defaults of Guix's record.

References
----------
GNU Guix 1.5, ``gnu/services/virtualization.scm``, record ``<virtual-build-machine>``.
"""

import re
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import Field, ValidationError, model_validator

from buildvm_nb.catalog.toml_lines import KeyPath, key_lines
from buildvm_nb.errors import UsageError
from buildvm_nb.model.machine import MachineSpec, PortForwarding
from buildvm_nb.model.value import describe

__all__ = [
    "GUIX_FORWARDINGS",
    "SECRETS_PORT",
    "SSH_PORT",
    "MachineFile",
    "load_machine_file",
    "parse_machine_file",
    "write_machine_file",
]

SSH_PORT = 22
"""Of the guest."""

SECRETS_PORT = 1004
"""Of the guest, where Guix's secret service waits."""

GUIX_DATE = datetime(2020, 1, 1, tzinfo=UTC)
"""Guix's default: far enough back for what expires, late enough for what is not too old."""
_FORWARDINGS = (PortForwarding(host=11022, guest=SSH_PORT),)
GUIX_FORWARDINGS = (*_FORWARDINGS, PortForwarding(host=11004, guest=SECRETS_PORT))
"""As the manual of Guix has them: for logging in, and for the secret service."""
_LARGEST_FILE = 2**20
_COMMENTS = {
    "name": "Of the machine, its units and its state.",
    "image": "Root file system: debian:SUITE[,PACKAGE…].",
    "date": "What its clock shows when it starts.",
    "cpu": "QEMU's model; left out, one that was current at the date.",
    "cpu_count": "Virtual CPUs.",
    "memory_mib": "Memory in MiB.",
    "kernel": "debian:SUITE, or a directory with vmlinuz and modules/.",
    "accelerator": "auto, kvm or tcg.",
    "network": "off, restricted (only what is forwarded) or user (what this host reaches).",
    "port_forwardings": "Ports of this host's loopback interface that lead into the machine.",
    "systems": "What it builds for.",
    "auto_start": "Whether `buildvm machine start --auto` and its units start it.",
    "qemu": "QEMU's program.",
    "disk_mib": "Disk for what is written in it, its store too; 0: memory, three quarters of it.",
    "offload": "Whether this host's Guix builds in it; needs an image with Guix: debian:sid,guix.",
    "signing_key": "Public key of this host's Guix.",
    "secrets": "Directory of files that it gets below its root directory, such as keys.",
    "disk": "Instead of image and kernel: a disk image that boots by itself; never written.",
    "ssh_user": "Of a disk: whom `buildvm machine ssh` logs in as.",
}
_NOT_WITH_DISK = ("image", "kernel", "disk_mib", "offload", "signing_key")
_ONLY_WITH_DISK = ("disk", "ssh_user")
_PATHS = ("disk", "secrets")
"""Relative to the file's own directory."""


class MachineFile(MachineSpec):
    """A virtual build machine that stays: a `MachineSpec` with the defaults of Guix's service.

    The port of the secret service is not forwarded unless it is asked for: any local user could
    reach it, and our own machines are given their keys through their private channel.
    """

    cpu_count: int = Field(default=4, ge=1, le=255)
    memory_mib: int = Field(default=2048, ge=192, le=1024 * 1024)
    port_forwardings: tuple[PortForwarding, ...] = _FORWARDINGS
    qemu: str = Field(default="qemu-system-x86_64", min_length=1)
    """Program that runs it: a name on ``PATH``, or a path."""
    disk_mib: int = Field(default=0, ge=0, le=1024 * 1024)
    """Size of a disk for all that is written in the guest; 0: it is kept in memory."""
    offload: bool = False
    """Whether Guix's daemon runs in it, for a Guix of the host to send builds to."""
    signing_key: str = Field(default="/etc/guix/signing-key.pub", pattern=r"^/.*$")
    """The public key of the Guix whose builds it takes."""
    secrets: str = ""
    """A directory whose files the machine gets below its root directory, before anybody can log
    in; relative to the file's. Empty: none."""
    disk: str = ""
    """A disk image that boots by its own boot loader, such as ``guix system image`` makes; relative
    to the file's directory. Empty: the machine boots `image` with `kernel`."""
    ssh_user: str = Field(default="offloading", pattern=r"^[a-z_][a-z0-9_-]*$")
    """Of a disk: whom ssh(1) logs in as, and whom the secret service gives our key to."""

    @model_validator(mode="before")
    @classmethod
    def _dated_as_in_guix(cls, data: Any) -> Any:  # noqa: ANN401 - pydantic hands over anything
        return {"date": GUIX_DATE.isoformat()} | data if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _ports_are_used_once(self) -> "MachineFile":
        hosts = [forwarding.host for forwarding in self.port_forwardings]
        if twice := {port for port in hosts if hosts.count(port) > 1}:
            message = f"port_forwardings: host port {min(twice)} leads to two places"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _secrets_of_a_disk_have_a_port(self) -> "MachineFile":
        if self.disk and self.secrets and self.host_port(SECRETS_PORT) is None:
            message = (
                "secrets: a disk gets them by Guix's secret service, to which no port leads; add "
                f"{{host = 11004, guest = {SECRETS_PORT}}} to port_forwardings"
            )
            raise ValueError(message)
        return self

    def spec(self) -> MachineSpec:
        """Return the machine without what only its file says."""
        return MachineSpec(
            **self.model_dump(exclude=set(MachineFile.model_fields) - set(MachineSpec.model_fields))
        )

    def host_port(self, guest: int) -> int | None:
        """Return the port of the host that leads to one of the guest.

        `guest`: for example `SSH_PORT`.
        Returns: None: none does.
        """
        found = (one.host for one in self.port_forwardings if one.guest == guest)
        return next(found, None)


def load_machine_file(path: Path) -> MachineFile:
    """Read a machine file.

    Returns: the machine; without a name of its own it is named after the file.
    Raises `UsageError` if the file cannot be read, or is no valid machine file; one line for each
    trouble: ``FILE:LINE: KEY: what``.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_LARGEST_FILE + 1)
        text = content.decode()
    except FileNotFoundError as error:
        raise UsageError(
            f"no such machine file: {path}", hint="`buildvm machine new` writes one"
        ) from error
    except OSError as error:
        raise UsageError(f"cannot read the machine file: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8", hint="save the file as UTF-8") from error
    if len(content) > _LARGEST_FILE:
        raise UsageError(f"too large for a machine file: {path}; allowed: {_LARGEST_FILE} bytes")
    machine = parse_machine_file(text, str(path), name=path.stem)
    place = path.absolute().parent
    given = {key: value for key in _PATHS if (value := getattr(machine, key))}
    return machine.model_copy(update={key: str(place / value) for key, value in given.items()})


def parse_machine_file(text: str, file: str, *, name: str) -> MachineFile:
    """Turn the text of a machine file into a machine."""
    try:
        data = tomllib.loads(text)
        lines = key_lines(text.replace("\r\n", "\n"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file}: not valid TOML: {error}") from error
    if found := [_located(line, file, lines) for line in _out_of_place(data)]:
        raise UsageError("\n".join(found), hint="`buildvm machine new NAME --disk FILE` writes one")
    try:
        return MachineFile.model_validate({"name": name} | data)
    except ValidationError as error:
        found = [_located(line, file, lines) for line in describe(error, "").splitlines()]
        keys = ", ".join(MachineFile.model_fields)
        raise UsageError("\n".join(found), hint=f"keys: {keys}") from error


def _out_of_place(data: Mapping[str, Any]) -> list[str]:
    """Complain of keys that say nothing for such a machine: whoever wrote them expects something.

    This looks at what the file says, as a machine has all keys, most with their defaults.
    """
    if data.get("disk"):
        return [
            f".{key}: not with disk, which has its own system"
            for key in _NOT_WITH_DISK
            if key in data
        ]
    return [".ssh_user: only with disk; others have the user build"] if "ssh_user" in data else []


def _located(complaint: str, file: str, lines: Mapping[KeyPath, int]) -> str:
    """Put file and line before a complaint, which begins with a dot and the key."""
    match = re.match(r"\.?([\w.]*): ", complaint)
    path: KeyPath = tuple(
        int(part) if part.isdecimal() else part for part in (match[1] if match else "").split(".")
    )
    while path not in lines:
        path = path[:-1]
    return f"{file}:{lines[path]}: {complaint.removeprefix('.').removeprefix(': ')}"


def write_machine_file(fields: Mapping[str, Any]) -> str:
    """Write a machine file with a comment on each key.

    `fields`: what is to stand in it; every other key stands there with its default, but for the
    CPU, which follows from the date, and what says nothing for a machine with or without a disk.
    """
    machine = MachineFile.parse(dict(fields))
    plain = machine.model_dump(mode="json")
    plain["image"] = str(machine.image)
    plain["date"] = machine.date
    document = tomlkit.document()
    left_out = _NOT_WITH_DISK if machine.disk else _ONLY_WITH_DISK
    for key, comment in _COMMENTS.items():
        if key in left_out:
            continue
        document.add(tomlkit.comment(comment))
        if key == "cpu" and key not in fields:
            document.add(tomlkit.comment(f'cpu = "{machine.cpu}"'))
        elif key == "port_forwardings":
            document.add(key, _ports(machine.port_forwardings))
        else:
            document.add(key, plain[key])
    return tomlkit.dumps(document)


def _ports(forwardings: tuple[PortForwarding, ...]) -> tomlkit.items.Array:
    array = tomlkit.array().multiline(multiline=True)
    for one in forwardings:
        table = tomlkit.inline_table()
        table.update(one.model_dump())
        array.append(table)
    return array
