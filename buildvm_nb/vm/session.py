"""One command in a guest: started, streamed, stopped when its time is over."""

import select
import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, TypedDict

from buildvm_nb.errors import GuestLost

if TYPE_CHECKING:
    import paramiko

    from buildvm_nb.vm.channel import GuestChannel

__all__ = [
    "ANSWER_TIMEOUT_S",
    "BUILD_ENVIRONMENT",
    "GuestCommand",
    "RunOptions",
    "SILENCE_S",
    "Sink",
    "ask",
    "stream",
    "upload",
]

BUILD_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
    "HOME": "/home/build",
    "USER": "build",
    "LOGNAME": "build",
    "SHELL": "/bin/sh",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "BUILD": "/build",
}
"""The clean, fixed environment of every command."""

_AS_ROOT = {"HOME": "/root", "USER": "root", "LOGNAME": "root"}

Sink = Callable[[bytes], None]
_PIECE = 1 << 16
_TERM_GRACE_S = 5.0
_KILL_GRACE_S = 20.0
SILENCE_S = 60.0
"""After so long without a word the guest is asked whether it is still there."""
ANSWER_TIMEOUT_S = 300.0
"""For what takes a moment on an idle host."""
_LONGEST_COMMAND = 8000
"""dropbear takes command lines of up to 9000 bytes (default_options.h: MAX_CMD_LEN)."""


class RunOptions(TypedDict, total=False):
    """How to run a command: the fields of `GuestCommand` that a caller may set."""

    env: Mapping[str, str]
    clock: datetime | None
    held: bool
    timeout_s: float | None
    stdout: Sink | None
    stderr: Sink | None
    merged: bool
    stdin: BinaryIO | None
    as_root: bool


@dataclass(frozen=True, kw_only=True)
class GuestCommand:
    """What to run in a guest, and how."""

    argv: tuple[str, ...]
    cwd: str = "/build"
    env: Mapping[str, str] = field(default_factory=dict)
    clock: datetime | None = None
    """Set the guest's clock to this instant just before; None: leave it."""
    held: bool = False
    """Hold the clock at that instant, a whole second, until the command has ended."""
    timeout_s: float | None = None
    stdout: Sink | None = None
    stderr: Sink | None = None
    merged: bool = False
    """Send standard error to `stdout` too: only so the order of both is kept."""
    stdin: BinaryIO | None = None
    as_root: bool = False
    """For setting a machine up, not for what is studied."""

    def line(self, step: str) -> str:
        """Return the command line for the guest's ``step`` script.

        Parameters
        ----------
        step : str
            Identifier of this run.

        Returns
        -------
        str
            Quoted for the guest's shell.
        """
        clock = f"{self.clock.timestamp():.6f}" if self.clock else "-"
        if self.clock and self.held:
            clock = f"={int(self.clock.timestamp())}"  # of a second
        given = {**BUILD_ENVIRONMENT, **(_AS_ROOT if self.as_root else {}), **self.env}
        variables = [f"{name}={value}" for name, value in given.items()]
        user = "-" if self.as_root else "1000"
        words = ["step", step, clock, self.cwd, user, *variables, "--", *self.argv]
        return shlex.join(words) + (" 2>&1" if self.merged else "")


def stream(channel: "GuestChannel", command: GuestCommand, step: str) -> bool:
    """Run a command to its end and pass on what it prints.

    It may be silent for as long as it likes, the guest may not: that is asked after each
    `SILENCE_S` in which nothing came.

    Parameters
    ----------
    channel : GuestChannel
        Leads into the guest.
    command : GuestCommand
        What to run.
    step : str
        Identifier of this run.

    Returns
    -------
    bool
        Whether its time was over and it was stopped.

    Raises
    ------
    GuestLost
        If the guest is gone or silent, or does not even stop a command.
    """
    line = command.line(step)
    if len(line.encode()) > _LONGEST_COMMAND:
        upload(channel, f"/run/{step}.sh", line.encode(), what="a command")
        line = f". /run/{step}.sh"
    timed_out = False
    with channel.start(line) as session:
        _feed(session, command.stdin)
        deadline = time.monotonic() + command.timeout_s if command.timeout_s else None
        if not _drain(channel, session, command.stdout, command.stderr, deadline):
            timed_out = True
            _stop(channel, session, command, step)
    return timed_out


def ask(
    channel: "GuestChannel", argv: Sequence[str], timeout_s: float = ANSWER_TIMEOUT_S
) -> tuple[int, bytes, bytes]:
    """Run one of our own programs in the guest's initramfs; return status, output and errors."""
    said, complained = bytearray(), bytearray()
    with channel.start(shlex.join(argv)) as session:
        session.shutdown_write()
        deadline = time.monotonic() + timeout_s
        if not _drain(channel, session, said.extend, complained.extend, deadline):
            raise GuestLost(f"the guest did not end {argv[0]!r} in {timeout_s:.0f} s")
        status = session.recv_exit_status()
    if status < 0:
        raise GuestLost("the guest went away while it was asked something")
    return status, bytes(said), bytes(complained)


def upload(channel: "GuestChannel", path: str, content: bytes, *, what: str = "") -> None:
    """Write a file of the guest's initramfs, for root alone."""
    quoted, parent = shlex.quote(path), shlex.quote(str(PurePosixPath(path).parent))
    with channel.start(f"umask 077; mkdir -p {parent}; cat >{quoted}") as session:
        session.settimeout(ANSWER_TIMEOUT_S)
        with suppress(OSError):  # the status tells
            session.sendall(content)
            session.shutdown_write()
        if not session.status_event.wait(ANSWER_TIMEOUT_S):
            raise GuestLost(f"the guest did not take {what or path} in {ANSWER_TIMEOUT_S:.0f} s")
        if session.recv_exit_status() != 0:
            raise GuestLost(f"the guest does not take {what or path}: its memory may be full")


def _feed(session: "paramiko.Channel", source: BinaryIO | None) -> None:
    if source is None:
        session.shutdown_write()
        return

    def pump(origin: BinaryIO) -> None:
        with suppress(OSError):  # the command may not want all of it
            while data := getattr(origin, "read1", origin.read)(_PIECE):
                session.sendall(data)
            session.shutdown_write()

    threading.Thread(target=pump, args=(source,), name="guest stdin", daemon=True).start()


def _drain(
    channel: "GuestChannel",
    session: "paramiko.Channel",
    stdout: Sink | None,
    stderr: Sink | None,
    deadline: float | None,
) -> bool:
    """Pass on output until its end; False when the deadline came first."""
    while True:
        # not at the end of the output: the server ends a session that is just being opened when a
        # process of another one ends (dropbear 2022.83, svr-chansession.c, sesscheckclose)
        ended = session.exit_status_ready()
        more = _pass_on(session.recv_ready, session.recv, stdout)
        more |= _pass_on(session.recv_stderr_ready, session.recv_stderr, stderr)
        if ended and not more:
            return True
        left = SILENCE_S if deadline is None else min(deadline - time.monotonic(), SILENCE_S)
        if left <= 0:
            return False
        if more or ended:
            continue
        if session.eof_received:
            is_news = session.status_event.wait(left)
        else:
            is_news = bool(select.select([session.fileno()], [], [], left)[0])
        if not is_news and left == SILENCE_S:
            channel.check()


def _pass_on(ready: Callable[[], bool], receive: Callable[[int], bytes], sink: Sink | None) -> bool:
    if not ready():
        return False
    data = receive(_PIECE)
    if data and sink:
        sink(data)
    return bool(data)


def _stop(
    channel: "GuestChannel", session: "paramiko.Channel", command: GuestCommand, step: str
) -> None:
    for name, grace_s in (("TERM", _TERM_GRACE_S), ("KILL", _KILL_GRACE_S)):
        with channel.start(f"stop {step} {name}") as order:
            order.status_event.wait(grace_s)
        deadline = time.monotonic() + grace_s
        if _drain(channel, session, command.stdout, command.stderr, deadline):
            return
    raise GuestLost("the guest does not answer any more: it did not stop a command when told to")
