"""Exit statuses, in one place."""

from enum import IntEnum

__all__ = ["SIGNAL_BASE", "ExitStatus"]

SIGNAL_BASE = 128
"""Added to a signal's number, as shells do."""


class ExitStatus(IntEnum):
    """What ``buildvm`` tells its caller.

    ``buildvm run`` passes the guest command's own status through, so that `TIMED_OUT` and
    `MACHINE` follow what timeout(1) and container tools do.
    """

    DONE = 0
    """Done; for ``build``: the case passed."""
    TROUBLE = 1
    """The tool failed."""
    USAGE = 2
    """The request itself is wrong."""
    NOT_PASSED = 3
    """``build``: the case failed, crashed or ran out of time; ``catalog verify``: the evidence does
    not suffice for a claim."""
    NOT_RUNNING = 3
    """``machine status``: the machine is not running, as systemctl says it."""
    UNAVAILABLE = 4
    """``build``, ``diagnose``, ``catalog verify``: the source or an input cannot be had."""
    FAILS_TODAY = 5
    """``forecast``: the tests fail today, so there is nothing to foretell."""
    TIMED_OUT = 124
    """``run``: the command was ended at ``--timeout``."""
    MACHINE = 125
    """``run``, ``shell``, ``build``, ``catalog verify``: the machine or the host broke."""
    INTERRUPTED = 130
    """Ctrl-C."""
    PIPE_CLOSED = 141
    """Whoever read standard output has gone."""
