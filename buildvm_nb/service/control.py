"""Starting, stopping and restarting machines in the background."""

import os
import select
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from buildvm_nb.errors import BootTimeout, LaunchError, MachineError, StateError
from buildvm_nb.service.notify import VARIABLE
from buildvm_nb.service.places import Places
from buildvm_nb.service.processes import end_process
from buildvm_nb.service.record import Phase, Status, machine_status, wait_until_started

__all__ = ["restart_machine", "start_machine", "stop_machine"]

_START_TIMEOUT_S = 3600.0
"""An image may have to be made first."""
_STOP_TIMEOUT_S = 30.0
_TRIES = 1000
"""Looks at a machine that is being started; between the first two the other one may just begin."""
_TAIL = 4000
_LONGEST_LOG = 2**20


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
        Ready; at once, if it was. Where another process is starting it, that is waited for; it is
        started anew if that did not succeed.

    Raises
    ------
    LaunchError
        If it does not come up; the evidence is what its process said.
    BootTimeout
        If it takes more than an hour.
    """
    place = places.state(name)
    for _ in range(_TRIES):
        if (status := machine_status(place, name)).phase is not Phase.STARTING:
            break
        wait_until_started(place)  # somebody else is at it
    if status.is_alive:
        return status
    place.make()
    _rotate(place.log)
    with (
        tempfile.TemporaryDirectory(prefix="buildvm-") as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as news,
        place.log.open("ab") as log,
    ):
        address = f"{directory}/notify"
        news.bind(address)
        start = log.tell()
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env={**os.environ, VARIABLE: address},
            start_new_session=True,
        )
        try:
            is_ready = _wait_ready(process, news, _START_TIMEOUT_S)
        except BaseException:  # nobody waits for it any more
            process.terminate()
            process.wait()
            raise
        if not is_ready:
            raise _not_started(name, process, _said(place.log, start))
    # it is on its own now, and is reaped if it ends before we do
    threading.Thread(target=process.wait, name=name, daemon=True).start()
    return machine_status(place, name)


def _wait_ready(process: "subprocess.Popen[bytes]", news: socket.socket, timeout_s: float) -> bool:
    """Wait until a process has told that its machine is ready, or has ended, or time is over."""
    deadline = time.monotonic() + timeout_s
    end = os.pidfd_open(process.pid)
    try:
        while (left_s := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([news.fileno(), end], [], [], left_s)
            if news.fileno() in ready and b"READY=1" in news.recv(4096).splitlines():
                return True
            if end in ready:
                return False
        return False
    finally:
        os.close(end)


def _not_started(name: str, process: "subprocess.Popen[bytes]", said: str) -> MachineError:
    try:
        status = process.wait(0)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()
        text = f"the machine {name} did not start in {_START_TIMEOUT_S:.0f} s"
        return BootTimeout(text, evidence=said)
    text = f"the machine {name} did not start: its process ended with {status}"
    return LaunchError(text, evidence=said)


def _rotate(log: Path) -> None:
    with suppress(FileNotFoundError):
        if log.stat().st_size > _LONGEST_LOG:
            log.replace(log.with_suffix(".1"))


def _said(log: Path, start: int) -> str:
    try:
        return log.read_bytes()[start:][-_TAIL:].decode(errors="replace")
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
