"""The lines of a log that show why a step failed: what a person would look for first."""

import re
import signal

__all__ = ["failing_lines", "name_signal"]

_SIGNS = (
    re.compile(r"^(?:E\s+)?[\w.]*(?:Error|Exception|Failure|Unavailable)\b: .+$", re.MULTILINE),
    re.compile(r"^(?:E\s+)?[\w.]*(?:Error|Exception|Failure)\b.*$", re.MULTILINE),
    re.compile(
        # not make and ninja, who only say that something failed before
        r"^(?!\S*make(?:\[\d+\])?: |ninja: )"
        r".*(?:\berror\b|\bfatal\b|\bexpired\b|\bFAIL(?:ED|URE)?\b|\bnot ok\b|outdated"
        r"|Illegal instruction|Segmentation fault|Aborted|not found).*$",
        re.MULTILINE | re.IGNORECASE,
    ),
    re.compile(r"^.*\S.*$", re.MULTILINE),
)
_KERNEL = re.compile(
    r"^.*\b(?:trap invalid opcode|segfault at|general protection|trap \w+).*$", re.MULTILINE
)
_LONGEST = 400
_TAIL = 200_000


def failing_lines(output: str, kernel_log: str = "") -> str:
    """Return the line of a log that best shows why a step failed.

    Parameters
    ----------
    output : str
        What the step printed.
    kernel_log : str
        What the guest's kernel said, where a process crashed.

    Returns
    -------
    str
        One line, or two where the kernel has something to say; empty where nothing was printed.
    """
    found = []
    tail = output[-_TAIL:]
    for sign in _SIGNS:
        if matches := sign.findall(tail):
            found.append(str(matches[-1]).strip()[:_LONGEST])
            break
    if crashes := _KERNEL.findall(kernel_log):
        found.append(str(crashes[-1]).strip()[:_LONGEST])
    return "\n".join(found)


def name_signal(number: int) -> str:
    """Return a signal's name.

    Parameters
    ----------
    number : int
        As the kernel counts them.

    Returns
    -------
    str
        For example ``SIGILL``; ``signal 70`` where it has none.
    """
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
