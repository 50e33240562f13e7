"""An interactive terminal in a guest, on the terminal of this process."""

import os
import select
import shutil
import signal
import sys
import termios
import time
import tty
from typing import TYPE_CHECKING

from buildvm_nb.errors import GuestLost, UsageError
from buildvm_nb.vm.session import ANSWER_TIMEOUT_S, SILENCE_S, GuestCommand

if TYPE_CHECKING:
    import paramiko

    from buildvm_nb.vm.channel import GuestChannel

__all__ = ["interact"]

_PIECE = 1 << 14


def interact(channel: "GuestChannel", command: GuestCommand, step: str) -> int:
    """Connect this process's terminal with a command in the guest until that ends.

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
    int
        Exit status of the command.

    Raises
    ------
    GuestLost
        If the guest is gone or silent.
    UsageError
        If standard input is no terminal.
    """
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
            data = session.recv(_PIECE)
            if not data:
                return
            os.write(sys.stdout.fileno(), data)
        if keyboard in readable:
            typed = os.read(keyboard, _PIECE)
            if typed:
                session.sendall(typed)
            else:
                sources.remove(keyboard)
