"""Whether a forwarded port leads to an SSH server, and whether a port is free to be forwarded."""

import errno
import socket
import threading
import time
from collections.abc import Callable

from buildvm_nb.errors import BootTimeout, HostError
from buildvm_nb.guix.machinefile import MachineFile

__all__ = ["check_ports", "wait_for_banner"]

_BANNER = b"SSH-2.0-"
_HOST = "127.0.0.1"
_PAUSE_S = 0.2


def check_ports(machine: MachineFile) -> None:
    """Make sure that the ports to be forwarded are free.

    Parameters
    ----------
    machine : MachineFile
        Whose ports are meant.

    Raises
    ------
    HostError
        If one is in use, or not for this user.
    """
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

    Parameters
    ----------
    port : int
        Of the host's loopback interface.
    timeout_s : float
        Seconds of the host's monotonic clock.
    check : callable
        Called after each try that failed; what it raises ends them.

    Returns
    -------
    str
        What the server calls itself.

    Raises
    ------
    BootTimeout
        If none answers in time; the message has what came instead.
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
