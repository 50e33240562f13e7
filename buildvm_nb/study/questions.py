"""What a diagnosis is asked."""

from dataclasses import dataclass
from datetime import datetime

from buildvm_nb.errors import UsageError
from buildvm_nb.model.finding import Axis
from buildvm_nb.model.instants import EARLIEST, LATEST_CLOCK

__all__ = ["DEFAULT_AXES", "Questions"]

DEFAULT_AXES = (Axis.DATE, Axis.CPU, Axis.KERNEL)
_YEARS_BEFORE = 10
_YEARS_AFTER = 15


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What a diagnosis is to find out, and how hard it may try."""

    axes: tuple[Axis, ...] = DEFAULT_AXES
    """In this order; the first one that explains the case ends the diagnosis."""
    first: datetime | None = None
    """Beginning of the dates; None: ten years before the case's own date."""
    last: datetime | None = None
    """End of the dates; None: the middle of the year fifteen years from now."""
    around: tuple[datetime, ...] = ()
    """Where changes are expected: looked at first, and a range that is left open reaches a year
    beyond them."""
    resolution_s: int = 1
    repeats: int = 2
    budget: int | None = None
    """Guest runs at most, on all axes together."""
    use_hints: bool = True
    """Look for dates in sources, packages and failing logs."""
    cpus: tuple[str, ...] = ()
    """More CPUs to try, beside the case's own, today's, the oldest and all that QEMU can give."""
    kernels: tuple[str, ...] = ()
    """Kernels to try beside the case's own; empty: one for each of Debian's series."""
    cores: tuple[int, ...] = (1, 2, 4)
    good: str = ""
    bad: str = ""
    """Ends of the commit axis, where that is asked for: commits, tags or branches."""

    def dates(self, own: datetime, today: datetime) -> tuple[datetime, datetime]:
        """Return the range of the date axis.

        Parameters
        ----------
        own, today : datetime
            The case's own date and today's.

        Returns
        -------
        tuple of datetime
            Its beginning and its end.

        Raises
        ------
        UsageError
            If it ends before it begins.
        """
        expected = [min(at, LATEST_CLOCK) for at in self.around]
        earliest = min([_shifted(own, -_YEARS_BEFORE), *(_shifted(at, -1) for at in expected)])
        # the same until the year ends, so that what is asked again next day has its answers
        summer = today.replace(year=today.year + _YEARS_AFTER, month=7, day=1)
        latest = max([summer, *(_shifted(at, 1) for at in expected)])
        first = self.first or max(EARLIEST, earliest)
        last = self.last or min(LATEST_CLOCK, latest)
        if first >= last:
            raise UsageError(f"the range ends before it begins: from {first} to {last}")
        return first, last


def _shifted(instant: datetime, years: int) -> datetime:
    day = 28 if (instant.month, instant.day) == (2, 29) else instant.day
    return instant.replace(year=instant.year + years, day=day)
