"""How a command in a guest ended."""

from dataclasses import dataclass
from datetime import datetime

__all__ = ["CommandResult"]


@dataclass(frozen=True, kw_only=True)
class CommandResult:
    """One command, run once in a guest."""

    exit_status: int | None
    """None when it died of a signal or was stopped."""
    signal: int | None
    """The signal that it, or the last command of its shell, died of."""
    timed_out: bool
    """Whether we stopped it, as its time was over."""
    clock_started_at: datetime
    """The guest's clock just before it began."""
    clock_ended_at: datetime
    """The guest's clock just after it ended."""
    duration_s: float
    """By the host's monotonic clock."""
    free_kib: int
    """The least room for files that was seen in the guest while it ran."""
    shortage: str = ""
    """What of the machine's own resources ran out, as the guest's kernel counted: then a failure
    says nothing about the command. Empty: nothing did."""
    victim: str = ""
    """Name of the process that the kernel saw dying of `signal`."""
    drift_s: float | None = None
    """How far a held clock strayed from the beginning of its second; None: it was not held."""

    @property
    def status(self) -> int:
        """As a shell says it: 0 for success, 128 and the number of a signal."""
        if self.timed_out:
            return 124
        return 128 + self.signal if self.signal else self.exit_status or 0
