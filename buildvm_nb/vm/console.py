"""The guest's serial console: kept, and watched for trouble that is the guest's own.

References
----------
Linux: arch/x86/kernel/dumpstack.c (``Oops:``), include/asm-generic/bug.h and mm/ (``BUG:``),
kernel/panic.c (``Kernel panic - not syncing``), mm/oom_kill.c (``Out of memory: Killed process``),
kernel/watchdog.c (``soft lockup``).
"""

import re
import threading
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from buildvm_nb.errors import HostError

__all__ = ["Console", "Trouble"]

_KEPT = 1 << 20
_LONGEST_LOG = 1 << 24


class Trouble(StrEnum):
    """Kinds of trouble that a console shows."""

    OOPS = "kernel oops"
    PANIC = "kernel panic"
    LOCKUP = "kernel lock-up"
    OUT_OF_MEMORY = "out of memory"
    INIT = "the guest's init failed"


_SIGNS = (
    (
        Trouble.OOPS,  # a trap in the kernel ends in its error code and count: 0000 [#1]
        re.compile(r"\bOops: |\bBUG: (?!workqueue|soft lockup)|: [0-9a-f]{4} \[#\d+\]"),
    ),
    (Trouble.LOCKUP, re.compile(r"soft lockup|hard LOCKUP|rcu: .*detected stalls?")),
    (Trouble.OUT_OF_MEMORY, re.compile(r"Out of memory: Killed|System is deadlocked on memory")),
    (Trouble.INIT, re.compile(r"^buildvm: ", re.MULTILINE)),
    (Trouble.PANIC, re.compile(r"Kernel panic - not syncing")),
)


class Console:
    """Collects what the guest's console says; safe to use from several threads.

    Parameters
    ----------
    log : Path, optional
        A file that gets it as well, up to 16 MiB.

    Raises
    ------
    HostError
        If the file cannot be written.
    """

    def __init__(self, log: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._text = bytearray()
        try:
            self._log = log.open("ab", buffering=0) if log else None
        except OSError as error:
            raise HostError(f"cannot write the console's log: {log}: {error.strerror}") from error

    def feed(self, data: bytes) -> None:
        """Take in what was just said.

        Parameters
        ----------
        data : bytes
            As it came.
        """
        with self._lock:
            self._text += data
            if self._log and self._log.tell() < _LONGEST_LOG:
                with suppress(OSError):  # a full disk of the host is no trouble of the guest
                    self._log.write(data)
            if len(self._text) > 2 * _KEPT:
                del self._text[:-_KEPT]

    def close(self) -> None:
        """Close the log; calling it twice does no harm."""
        with self._lock:
            if self._log:
                self._log.close()
            self._log = None

    @property
    def text(self) -> str:
        """What the console said; of very much only the end."""
        with self._lock:
            return self._text.decode(errors="replace").replace("\r\n", "\n")

    def trouble(self) -> tuple[Trouble, str] | None:
        """Return the first kind of trouble that the console shows, with the lines that show it.

        Returns
        -------
        tuple of Trouble and str, or None
            Kind and evidence; None where all is well.
        """
        text = self.text
        for kind, sign in _SIGNS:
            if match := sign.search(text):
                start = text.rfind("\n", 0, match.start()) + 1
                return kind, "\n".join(text[start:].splitlines()[:40])
        return None
