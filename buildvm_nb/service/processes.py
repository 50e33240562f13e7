"""Processes that are not our children: told apart for good, ended, waited for.

References
----------
proc_pid_stat(5), field 22 (starttime); pidfd_open(2).
"""

import os
import select
import signal
from pathlib import Path

__all__ = ["birth", "end_process"]

_START_TIME = 19
"""Of the fields after the name, which may have spaces and parentheses."""


def birth(pid: int) -> int | None:
    """Tell when a process was started.

    Parameters
    ----------
    pid : int
        Its number.

    Returns
    -------
    int or None
        Clock ticks since the host was started; None: there is no such process.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[_START_TIME])


def end_process(pid: int, born: int, *, timeout_s: float) -> bool:
    """End a process: politely, then by force.

    Parameters
    ----------
    pid : int
        Its number.
    born : int
        When it was started; another process with the same number is let alone.
    timeout_s : float
        How long it may take to end by itself.

    Returns
    -------
    bool
        Whether it ended by itself.
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
