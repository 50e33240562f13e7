"""What runs over the guest channel: commands, streamed and stopped in time; terminals."""

import os
import select
import shlex
import shutil
import signal
import struct
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, TypedDict

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from buildvm_nb.errors import GuestLost, UsageError

if TYPE_CHECKING:
    import paramiko

    from buildvm_nb.vm.channel import GuestChannel

__all__ = [
    "ANSWER_TIMEOUT_S",
    "BUILD_ENVIRONMENT",
    "SILENCE_S",
    "ChannelKeys",
    "GuestCommand",
    "RunOptions",
    "ask",
    "interact",
    "stream",
    "upload",
]

# The keys of the guest channel: made for one machine, known to both ends before they meet.

_TYPE = b"ssh-ed25519"


@dataclass(frozen=True)
class ChannelKeys:
    """The two key pairs of one machine."""

    host: Ed25519PrivateKey
    client: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> "ChannelKeys":
        """Make new keys.

        Returns
        -------
        ChannelKeys
            Of this machine and no other.
        """
        return cls(Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate())

    @classmethod
    def from_text(cls, text: str) -> "ChannelKeys":
        """Read keys that `to_text` wrote.

        Parameters
        ----------
        text : str
            Two private keys in hexadecimal.

        Returns
        -------
        ChannelKeys
            The same as were written.

        Raises
        ------
        ValueError
            If the text is something else.
        """
        host, client = (
            Ed25519PrivateKey.from_private_bytes(bytes.fromhex(part)) for part in text.split()
        )
        return cls(host, client)

    def to_text(self) -> str:
        """Write both private keys.

        Returns
        -------
        str
            In hexadecimal, the server's first.
        """
        return f"{self.host.private_bytes_raw().hex()} {self.client.private_bytes_raw().hex()}"

    def host_key_file(self) -> bytes:
        """Return the server's key in dropbear's own form.

        Returns
        -------
        bytes
            Type, then private and public half as one string (dropbear, src/ed25519.c).
        """
        secret = self.host.private_bytes_raw() + self.host.public_key().public_bytes_raw()
        return b"".join(struct.pack(">I", len(part)) + part for part in (_TYPE, secret))

    def authorized_keys(self) -> bytes:
        """Return the one line that lets the client in.

        Returns
        -------
        bytes
            In OpenSSH's form.
        """
        public = self.client.public_key()
        form = serialization.PublicFormat.OpenSSH
        return public.public_bytes(serialization.Encoding.OpenSSH, form) + b"\n"


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
        """Return the command line for the guest's ``step`` script."""
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

    Raises `GuestLost` if the guest is gone or silent, or does not even stop a command.
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


# An interactive terminal in a guest, on the terminal of this process.

_TERMINAL_PIECE = 1 << 14


def interact(channel: "GuestChannel", command: GuestCommand, step: str) -> int:
    """Connect this process's terminal with a command in the guest until that ends."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "an interactive shell needs a terminal on standard input and output",
            hint="run commands with `buildvm run -- COMMAND`",
        )
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    size = shutil.get_terminal_size()
    kind = os.environ.get("TERM", "linux")
    session = channel.start(command.line(step), terminal=(kind, size.columns, size.lines))

    def resize(*_: object) -> None:
        now = shutil.get_terminal_size()
        session.resize_pty(now.columns, now.lines)

    old = signal.signal(signal.SIGWINCH, resize)
    try:
        tty.setraw(keyboard)
        _relay(channel, session, keyboard)
        if not session.status_event.wait(ANSWER_TIMEOUT_S):
            raise GuestLost("the guest does not say how the shell ended")
        return session.recv_exit_status()
    finally:
        signal.signal(signal.SIGWINCH, old)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
        session.close()


def _relay(channel: "GuestChannel", session: "paramiko.Channel", keyboard: int) -> None:
    sources = [session.fileno(), keyboard]
    heard_at = time.monotonic()
    while True:
        readable, _, _ = select.select(sources, [], [], SILENCE_S)
        if session.fileno() in readable:
            heard_at = time.monotonic()
        elif time.monotonic() - heard_at > SILENCE_S:
            channel.check()
            heard_at = time.monotonic()
        if session.fileno() in readable:
            data = session.recv(_TERMINAL_PIECE)
            if not data:
                return
            os.write(sys.stdout.fileno(), data)
        if keyboard in readable:
            typed = os.read(keyboard, _TERMINAL_PIECE)
            if typed:
                session.sendall(typed)
            else:
                sources.remove(keyboard)
