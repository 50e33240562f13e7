"""Starting, stopping and restarting machines in the background."""

import os
import select
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from buildvm_nb.errors import BootTimeout, LaunchError, StateError
from buildvm_nb.service.notify import VARIABLE
from buildvm_nb.service.places import Places, StatePlace
from buildvm_nb.service.processes import end_process
from buildvm_nb.service.record import Status, machine_status

__all__ = ["restart_machine", "start_machine", "stop_machine"]

_START_TIMEOUT_S = 3600.0
"""An image may have to be made first."""
_STOP_TIMEOUT_S = 30.0
_TAIL = 4000


def start_machine(name: str, argv: Sequence[str], *, places: Places) -> Status:
    """Start a machine in the background and wait until it is ready.

    Parameters
    ----------
    name : str
        The machine's.
    argv : sequence of str
        Command line that runs it in the foreground.
    places : Places
        Where its state is.

    Returns
    -------
    Status
        Ready; at once, if it was.

    Raises
    ------
    LaunchError
        If it does not come up; the evidence is what its process said.
    BootTimeout
        If it takes more than an hour.
    """
    place = places.state(name)
    if (status := machine_status(place, name)).is_alive:
        return status
    place.make()
    with (
        tempfile.TemporaryDirectory(prefix="buildvm-") as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as news,
        place.log.open("wb") as log,
    ):
        address = f"{directory}/notify"
        news.bind(address)
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env={**os.environ, VARIABLE: address},
            start_new_session=True,
        )
        _wait_ready(process, news, place, name)
    return machine_status(place, name)


def _wait_ready(
    process: "subprocess.Popen[bytes]", news: socket.socket, place: StatePlace, name: str
) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    end = os.pidfd_open(process.pid)
    try:
        while (left_s := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([news.fileno(), end], [], [], left_s)
            if news.fileno() in ready and b"READY=1" in news.recv(4096).splitlines():
                # it is on its own now, and is reaped if it ends before we do
                threading.Thread(target=process.wait, name=name, daemon=True).start()
                return
            if end in ready:
                status = process.wait()
                raise LaunchError(
                    f"the machine {name} did not start: its process ended with {status}",
                    evidence=_end_of(place.log),
                    hint=f"what it said is in {place.log}",
                )
    finally:
        os.close(end)
    process.terminate()
    process.wait()
    raise BootTimeout(
        f"the machine {name} did not start in {_START_TIMEOUT_S:.0f} s",
        evidence=_end_of(place.log),
    )


def _end_of(log: Path) -> str:
    try:
        return log.read_bytes()[-_TAIL:].decode(errors="replace")
    except OSError:
        return ""


def stop_machine(name: str, *, places: Places) -> bool:
    """Stop a machine and clear away what is left of a crashed one.

    Parameters
    ----------
    name : str
        The machine's.
    places : Places
        Where its state is.

    Returns
    -------
    bool
        Whether it was running.

    Raises
    ------
    StateError
        If it cannot be told who runs it.
    """
    place = places.state(name)
    status = machine_status(place, name)
    if status.is_alive:
        if status.record is None:
            raise StateError(
                f"the machine {name} is just being started, or by another version of buildvm",
                hint="try again in a moment",
            )
        end_process(status.record.pid, status.record.born, timeout_s=_STOP_TIMEOUT_S)
    place.record.unlink(missing_ok=True)
    return status.is_alive


def restart_machine(name: str, argv: Sequence[str], *, places: Places) -> Status:
    """Stop a machine and start it again; its SSH keys stay.

    Parameters
    ----------
    name : str
        The machine's.
    argv : sequence of str
        Command line that runs it in the foreground.
    places : Places
        Where its state is.

    Returns
    -------
    Status
        Ready.

    Raises
    ------
    StateError, LaunchError, BootTimeout
        As `stop_machine` and `start_machine` do.
    """
    stop_machine(name, places=places)
    return start_machine(name, argv, places=places)
