"""Connections, and where their ends meet: a TCP port, a Unix socket, a vsock or virtio port.

References
----------
unix(7), vsock(7); Linux, drivers/char/virtio_console.c: a virtio port is a character device that
reads as ended while the host has not opened its end.
"""

import errno
import ipaddress
import os
import re
import select
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from buildvm_nb.errors import HostError, MachineError, UsageError

__all__ = [
    "Connection",
    "Ended",
    "Endpoint",
    "EndpointKind",
    "TooLate",
    "dial",
    "listening",
]

_FORMS = "tcp:HOST:PORT, unix:PATH, vsock:CID:PORT or port:PATH"
_HIGHEST_PORT = {"tcp": 2**16 - 1, "vsock": 2**32 - 2}
_HIGHEST_CID = 2**32 - 1
_BACKLOG = 1
"""Only one client is ever served."""
_LONGEST_PATH = 107
"""Of a Unix socket: sun_path without its zero."""
_PIECE = 1 << 16


class EndpointKind(StrEnum):
    """What carries the bytes."""

    TCP = "tcp"
    UNIX = "unix"
    VSOCK = "vsock"
    PORT = "port"
    """A character device that is there already, such as a virtio port in a guest."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A place to connect to or to wait at."""

    kind: EndpointKind
    path: str = ""
    host: str = ""
    port: int = 0
    cid: int = 0
    """Of a vsock: 2 is the host, ``any`` (4294967295) every address of a listener."""

    @classmethod
    def parse(cls, text: str) -> "Endpoint":
        """Read an endpoint as users write it."""
        kind, _, rest = text.partition(":")
        if kind in {"unix", "port"} and rest:
            if kind == "unix" and len(os.fsencode(rest)) > _LONGEST_PATH:
                raise UsageError(
                    f"the path of a Unix socket is too long: {rest}; allowed: {_LONGEST_PATH} bytes"
                )
            return cls(kind=EndpointKind(kind), path=rest)
        if kind in {"tcp", "vsock"} and (match := re.fullmatch(r"(.+):(\d+)", rest)):
            port = int(match[2])
            if not 1 <= port <= _HIGHEST_PORT[kind]:
                raise UsageError(f"port out of range: {text}; allowed: 1 to {_HIGHEST_PORT[kind]}")
            if kind == "tcp":
                host = match[1].removeprefix("[").removesuffix("]")
                return cls(kind=EndpointKind.TCP, host=host, port=port)
            return cls(kind=EndpointKind.VSOCK, cid=_read_cid(match[1], text), port=port)
        raise UsageError(f"not an endpoint: {text!r}; allowed: {_FORMS}")

    def __str__(self) -> str:
        match self.kind:
            case EndpointKind.TCP:
                host = f"[{self.host}]" if ":" in self.host else self.host
                return f"tcp:{host}:{self.port}"
            case EndpointKind.VSOCK:
                cid = "any" if self.cid == _HIGHEST_CID else self.cid
                return f"vsock:{cid}:{self.port}"
            case _:
                return f"{self.kind}:{self.path}"

    def warning(self) -> str:
        """Say who else can reach it."""
        if self.kind is EndpointKind.TCP:
            who = "any local user" if self._is_loopback() else "anybody in the network"
            return (
                f"{who} can reach {self}, and whoever comes first is served: the protocol knows no "
                "authentication; a Unix socket or a virtio port is private"
            )
        if self.kind is EndpointKind.VSOCK:
            return f"any local user can reach {self}; a Unix socket or a virtio port is private"
        return ""

    def _is_loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def _read_cid(word: str, text: str) -> int:
    if word == "any":
        return _HIGHEST_CID
    if not word.isdecimal() or int(word) > _HIGHEST_CID:
        raise UsageError(f"not a context identifier: {word!r} in {text}; allowed: a number or any")
    return int(word)


def dial(endpoint: Endpoint, timeout_s: float) -> int:
    """Connect to an endpoint."""
    if endpoint.kind is EndpointKind.PORT:
        return _open_device(endpoint.path)
    if endpoint.kind is EndpointKind.TCP:
        return socket.create_connection((endpoint.host, endpoint.port), timeout_s).detach()
    with closing(_new_socket(endpoint)) as connection:
        connection.settimeout(timeout_s)
        connection.connect(_address(endpoint))
        return connection.detach()


@contextmanager
def listening(endpoint: Endpoint) -> Iterator[int]:
    """Wait at an endpoint; the place is taken until the context is left."""
    if endpoint.kind is EndpointKind.PORT:
        try:
            device = _open_device(endpoint.path)
        except OSError as error:
            raise _refused(endpoint, error) from error
        try:
            yield device
        finally:
            os.close(device)
        return
    with closing(_new_socket(endpoint)) as listener:
        try:
            _bind(listener, endpoint)
        except OSError as error:
            raise _refused(endpoint, error) from error
        try:
            yield listener.fileno()
        finally:
            if endpoint.kind is EndpointKind.UNIX:
                Path(endpoint.path).unlink(missing_ok=True)


def _bind(listener: socket.socket, endpoint: Endpoint) -> None:
    if endpoint.kind is EndpointKind.TCP:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if endpoint.kind is EndpointKind.UNIX:
        _clear_stale(Path(endpoint.path))
    listener.bind(_address(endpoint))
    if endpoint.kind is EndpointKind.UNIX:
        Path(endpoint.path).chmod(0o600)  # nobody has been able to connect before listen()
    listener.listen(_BACKLOG)


def _clear_stale(path: Path) -> None:
    """Remove a socket that nobody listens at any more: its owner was killed."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()


def _new_socket(endpoint: Endpoint) -> socket.socket:
    match endpoint.kind:
        case EndpointKind.UNIX:
            return socket.socket(socket.AF_UNIX)
        case EndpointKind.VSOCK:
            try:
                return socket.socket(socket.AF_VSOCK)
            except OSError as error:
                raise HostError(
                    f"this host has no vsock: {error.strerror}", hint="modprobe vhost_vsock"
                ) from error
        case _:
            is_v6 = ":" in endpoint.host
            return socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET)


def _address(endpoint: Endpoint) -> str | tuple[str, int] | tuple[int, int]:
    match endpoint.kind:
        case EndpointKind.UNIX:
            return endpoint.path
        case EndpointKind.VSOCK:
            return endpoint.cid, endpoint.port
        case _:
            return endpoint.host, endpoint.port


def _open_device(path: str) -> int:
    device = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISCHR(os.fstat(device).st_mode):
        os.close(device)
        raise OSError(0, "it is no character device", path)
    return device


def _refused(endpoint: Endpoint, error: OSError) -> HostError:
    reason = error.strerror or str(error)
    return HostError(
        f"cannot wait at {endpoint}: {reason}",
        hint="another process has it: end that, or choose another place"
        if error.errno in {errno.EADDRINUSE, errno.EBUSY}
        else "",
    )


class Ended(MachineError):
    """The other end closed the connection before it had said all."""


class TooLate(MachineError):
    """The other end did not do its part in time."""


class Connection:
    """A connection over a file descriptor, which it owns: a socket, or the device of a port.

    A device reads as ended, and takes nothing, while the other end is not open yet, so that the end
    of a connection cannot be told from its beginning.
    """

    def __init__(self, descriptor: int, *, is_device: bool = False) -> None:
        self._descriptor = descriptor
        self._is_device = is_device
        self._pending = b""
        os.set_blocking(descriptor, False)

    def receive(self, deadline: float, what: str) -> bytes:
        """Receive what comes next."""
        if self._pending:
            data, self._pending = self._pending, b""
            return data
        while True:
            self._wait(select.POLLIN, deadline, what)
            try:
                data = os.read(self._descriptor, _PIECE)
            except BlockingIOError:
                continue
            except OSError as error:
                raise Ended(f"the connection broke before {what}: {error.strerror}") from error
            if data:
                return data
            if not self._is_device:
                raise Ended(f"the other end closed the connection before {what}")
            self._rest(deadline, what)

    def push_back(self, data: bytes) -> None:
        """Give back bytes that belong to what comes next."""
        self._pending = data + self._pending

    def send(self, data: bytes, deadline: float, what: str) -> None:
        """Send all of some bytes."""
        left = memoryview(data)
        while left:
            self._wait(select.POLLOUT, deadline, f"it had taken {what}")
            try:
                left = left[os.write(self._descriptor, left[:_PIECE]) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise Ended(
                    f"the other end closed the connection before it had taken {what}: "
                    f"{error.strerror}"
                ) from error

    def finish(self, timeout_s: float) -> None:
        """Say that all has been sent, and wait until the other end closes in its turn.

        A connection that is closed at once may lose what the other end has not read yet. A device
        has no such word.
        """
        if self._is_device:
            return
        with socket.socket(fileno=os.dup(self._descriptor)) as end:
            try:
                end.shutdown(socket.SHUT_WR)
                end.settimeout(timeout_s)
                while end.recv(_PIECE):
                    pass
            except TimeoutError:
                pass
            except OSError as error:
                raise Ended(
                    f"the other end dropped the connection, so it has not taken all: "
                    f"{error.strerror}"
                ) from error

    def close(self) -> None:
        """Close our end; calling it twice does no harm."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _wait(self, event: int, deadline: float, what: str) -> None:
        """Wait until the descriptor is worth a try."""
        poll = select.poll()
        poll.register(self._descriptor, event)
        left_s = deadline - time.monotonic()
        found = poll.poll(max(left_s, 0) * 1000)
        if not found:
            raise TooLate(f"time was over before {what}")
        if self._is_device and found[0][1] == select.POLLHUP:
            self._rest(deadline, what)

    def _rest(self, deadline: float, what: str) -> None:
        """Let a moment pass: a device whose other end is closed is always ready."""
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TooLate(f"time was over before {what}")
        select.select([], [], [], min(left_s, 0.05))
