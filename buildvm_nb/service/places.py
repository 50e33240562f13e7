"""What a machine that stays has on this host: its directory, SSH keys, process and port."""

import errno
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from buildvm_nb.errors import BootTimeout, HostError, UsageError
from buildvm_nb.guix.machinefile import MachineFile, load_machine_file
from buildvm_nb.host.process import find_tool
from buildvm_nb.vm import ChannelKeys

__all__ = [
    "VARIABLE",
    "Notifier",
    "Places",
    "StatePlace",
    "birth",
    "check_ports",
    "end_process",
    "find_machine",
    "host_key_line",
    "identity_file",
    "known_machines",
    "machine_keys",
    "openssh_host_key",
    "remember_host_keys",
    "ssh_argv",
    "wait_for_banner",
]


@dataclass(frozen=True, kw_only=True)
class StatePlace:
    """The directory of one machine's state, for its owner alone."""

    root: Path

    @property
    def lock(self) -> Path:
        """Held by whoever runs the machine."""
        return self.root / "lock"

    @property
    def starting(self) -> Path:
        """Held by it until the machine is ready."""
        return self.root / "starting"

    @property
    def record(self) -> Path:
        """What is known of the machine while it runs."""
        return self.root / "state.json"

    @property
    def console(self) -> Path:
        """What its serial console said since it was started."""
        return self.root / "console.log"

    @property
    def log(self) -> Path:
        """What the process that runs it in the background says."""
        return self.root / "log"

    def make(self) -> None:
        """Make the directory."""
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise HostError(
                f"a machine's state cannot be kept: {self.root}: {error.strerror}",
                hint="choose another directory with BUILDVM_STATE",
            ) from error


@dataclass(frozen=True, kw_only=True)
class Places:
    """The directories of this user's machines."""

    files: Path
    """Machine files, NAME.toml."""
    states: Path
    """A directory for each machine that was ever started."""

    @classmethod
    def of_user(cls) -> "Places":
        """Return the user's own.

        Returns
        -------
        Places
            Below ``$BUILDVM_CONFIG`` and ``$BUILDVM_STATE``, else where the user's files of that
            kind are.
        """
        config = os.environ.get("BUILDVM_CONFIG") or platformdirs.user_config_path("buildvm-nb")
        state = os.environ.get("BUILDVM_STATE") or platformdirs.user_state_path("buildvm-nb")
        return cls(
            files=Path(config).absolute() / "machines", states=Path(state).absolute() / "machines"
        )

    def state(self, name: str) -> StatePlace:
        """Return where a machine keeps its state.

        Parameters
        ----------
        name : str
            The machine's.

        Returns
        -------
        StatePlace
            It may not be there yet.
        """
        return StatePlace(root=self.states / name)


def find_machine(places: Places, text: str) -> tuple[Path, MachineFile]:
    """Find a machine by its name, or by the path of its file.

    Parameters
    ----------
    places : Places
        Where files are.
    text : str
        A name, or a path that ends in ``.toml``.

    Returns
    -------
    (Path, MachineFile)
        The file and what is in it.

    Raises
    ------
    UsageError
        If there is none, or its file is wrong.
    """
    if text.endswith(".toml"):
        path = Path(text).absolute()
        return path, load_machine_file(path)
    path = places.files / f"{text}.toml"
    if "/" in text or not path.exists():
        names = ", ".join(path.stem for path in _files(places))
        raise UsageError(
            f"no machine {text!r} in {places.files}" + (f"; there is {names}" if names else ""),
            hint=f"`buildvm machine new {text}` writes its file",
        )
    machine = load_machine_file(path)
    if machine.name != text:
        raise UsageError(
            f"{path}: the machine in it is named {machine.name!r}",
            hint=f"rename the file to {machine.name}.toml, or the machine",
        )
    return path, machine


def known_machines(places: Places) -> list[str]:
    """Return the names of all machines that have a file or a state.

    Parameters
    ----------
    places : Places
        Where to look.

    Returns
    -------
    list of str
        Sorted.
    """
    started = (path.name for path in places.states.glob("*") if (path / "lock").exists())
    return sorted({*(path.stem for path in _files(places)), *started})


def _files(places: Places) -> Iterator[Path]:
    yield from sorted(places.files.glob("*.toml"))


# The SSH keys of a machine that stays: made once, the same at every start and every date.

USER = "build"
"""Of our own machines."""


def machine_keys(place: StatePlace, name: str) -> ChannelKeys:
    """Return the keys of a machine's SSH server and of its user, made now if there are none."""
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

    Returns: ssh(1) and its arguments; it knows the machine's key and takes no other.
    """
    options = {
        "UserKnownHostsFile": f'"{_known_hosts(place)}"',
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "HostKeyAlias": name,
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        # of OpenSSH 10.1 and later: the way does not leave this host, whatever the guest's age
        "IgnoreUnknown": "WarnWeakCrypto",
        "WarnWeakCrypto": "no",
    }
    argv = [find_tool("ssh"), "-F", "none", "-p", str(port), "-i", str(identity_file(place))]
    for option, value in options.items():
        argv += ["-o", f"{option}={value}"]
    return [*argv, f"{user}@127.0.0.1"]


def identity_file(place: StatePlace) -> Path:
    """Tell where the private key is that lets in to a machine."""
    return place.root / "identity"


def host_key_line(place: StatePlace) -> str:
    """Return the public key of a machine's SSH server."""
    path = _known_hosts(place)
    try:
        return path.read_text().partition(" ")[2].strip()
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}") from error


def openssh_host_key(keys: ChannelKeys) -> tuple[bytes, bytes]:
    """Return the key of a machine's SSH server as sshd(8) reads it."""
    return _private(keys.host), _public(keys)


def remember_host_keys(place: StatePlace, name: str, public: Iterable[bytes]) -> None:
    """Have ssh(1) take these host keys for a machine's, and no others."""
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


# Readiness, told the way systemd listens for it; our own `start` listens the same way.
#
# References: sd_notify(3): a datagram ``READY=1`` to the Unix socket that ``NOTIFY_SOCKET`` names.

VARIABLE = "NOTIFY_SOCKET"


class Notifier:
    """Tells whoever started this process how far it is; nobody, where nobody asked.

    What the process starts in its turn does not inherit the address.
    """

    def __init__(self) -> None:
        address = os.environ.pop(VARIABLE, "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    def tell(self, **fields: str) -> None:
        """Tell something."""
        if not self._address:
            return
        message = "\n".join(f"{name}={value}" for name, value in fields.items())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as port, suppress(OSError):
            port.sendto(message.encode(), self._address)


# Processes that are not our children: told apart for good, ended, waited for.
#
# References: proc_pid_stat(5), field 22 (starttime); pidfd_open(2).

_START_TIME = 19
"""Of the fields after the name, which may have spaces and parentheses."""


def birth(pid: int) -> int | None:
    """Tell when a process was started.

    Returns: clock ticks since the host was started; None: there is no such process.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[_START_TIME])


def end_process(pid: int, born: int, *, timeout_s: float) -> bool:
    """End a process: politely, then by force.

    `born`: when it was started; another process with the same number is let alone.
    """
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if birth(pid) != born:
            return True
        signal.pidfd_send_signal(process, signal.SIGTERM)
        if select.select([process], [], [], timeout_s)[0]:
            return True
        signal.pidfd_send_signal(process, signal.SIGKILL)
        select.select([process], [], [], timeout_s)
    except ProcessLookupError:
        return True
    else:
        return False
    finally:
        os.close(process)


# Whether a forwarded port leads to an SSH server, and whether a port is free to be forwarded.

_BANNER = b"SSH-2.0-"
_HOST = "127.0.0.1"
_PAUSE_S = 0.2


def check_ports(machine: MachineFile) -> None:
    """Make sure that the ports to be forwarded are free."""
    for forwarding in machine.port_forwardings:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_HOST, forwarding.host))
                probe.listen(1)
            except OSError as error:
                is_taken = error.errno == errno.EADDRINUSE
                raise HostError(
                    f"port {forwarding.host} of {_HOST}, which is to lead to port "
                    f"{forwarding.guest} of {machine.name}, cannot be had: {error.strerror}",
                    hint="another machine or program has it: end that, or change "
                    "port_forwardings in the machine's file"
                    if is_taken
                    else "choose a port above 1023",
                ) from error


def wait_for_banner(
    port: int, timeout_s: float, *, check: Callable[[], None] = lambda: None
) -> str:
    """Wait until an SSH server answers behind a forwarded port.

    A connection succeeds as soon as QEMU listens, so only what the server says counts.
    """
    deadline = time.monotonic() + timeout_s
    seen = "no answer"
    while (left_s := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((_HOST, port), left_s) as connection:
                connection.settimeout(left_s)
                line = _first_line(connection)
        except OSError as error:
            seen = error.strerror or str(error)
        else:
            if line.startswith(_BANNER):
                return line.decode(errors="replace").strip()
            seen = f"{line!r:.100}" if line else "the connection was closed"
        check()
        threading.Event().wait(_PAUSE_S)
    raise BootTimeout(
        f"no SSH server answered at {_HOST}:{port} in {timeout_s:.0f} s: {seen}",
        hint="`buildvm machine console NAME` shows what the machine says",
    )


def _first_line(connection: socket.socket) -> bytes:
    line = b""
    while b"\n" not in line and len(line) < 256:  # noqa: PLR2004 - RFC 4253 4.2 allows 255
        data = connection.recv(64)
        if not data:
            break
        line += data
    return line.partition(b"\n")[0]
