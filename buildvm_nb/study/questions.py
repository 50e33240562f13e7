"""What a diagnosis is asked."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from buildvm_nb.errors import UsageError
from buildvm_nb.model.finding import Axis
from buildvm_nb.model.instants import EARLIEST, LATEST_CLOCK, format_instant

__all__ = ["DEFAULT_AXES", "Effort", "Questions", "refuse_fixed"]

DEFAULT_AXES = (Axis.DATE, Axis.CPU, Axis.KERNEL, Axis.CORES)
_YEARS_BEFORE = 10
_YEARS_AFTER = 15


class Effort(StrEnum):
    """How hard to look, and about how many guest runs that takes."""

    QUICK = "quick"
    """What hints and three dates show; no rule of the calendar is looked for."""
    NORMAL = "normal"
    """Every feature of the calendar once, the years around the case's own date."""
    THOROUGH = "thorough"
    """Every month within five years of the case's own date, and every year around today."""

    @property
    def runs(self) -> tuple[int, int]:
        """How many guest runs dates take: where nothing differs, and where something does."""
        return {"quick": (4, 20), "normal": (60, 150), "thorough": (180, 350)}[self.value]


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
    effort: Effort = Effort.NORMAL
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

    def __post_init__(self) -> None:
        """Take the effort in words as well."""
        try:
            object.__setattr__(self, "effort", Effort(self.effort))
        except ValueError as error:
            allowed = ", ".join(Effort)
            raise UsageError(f"unknown effort: {self.effort!r}; allowed: {allowed}") from error

    def expected_runs(self) -> str:
        """Tell about how many guest runs it takes.

        For example ``about 60 guest runs where nothing differs, mostly up to 150 where something
        does``: what comes and goes by no rule may take twice as many.
        """
        few, many = self.effort.runs
        others = len([axis for axis in self.axes if axis is not Axis.DATE])
        on_dates = Axis.DATE in self.axes
        least = few * on_dates + 3 * others
        most = many * on_dates + 15 * others
        told = f"about {least} guest runs where nothing differs, "
        told += f"mostly up to {most} where something does"
        if Axis.DATE in self.axes and self.effort is not Effort.THOROUGH:
            hinted = {Effort.QUICK: 10, Effort.NORMAL: 65}[self.effort]
            told += f" ({hinted} where the sources or a failing log name its date)"
        return told if self.budget is None else f"{told}; at most {self.budget}"

    def dates(self, own: datetime, today: datetime) -> tuple[datetime, datetime]:
        """Return the range of the date axis."""
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


def refuse_fixed(overrides: Mapping[str, Any] | None, varied: Collection[str], study: str) -> None:
    """Refuse a machine that fixes what a study varies: it would be a study of something else."""
    fixed = {name: value for name in varied if (value := (overrides or {}).get(name)) is not None}
    if fixed:
        told = ", ".join(
            f"{name}={format_instant(value) if isinstance(value, datetime) else value}"
            for name, value in fixed.items()
        )
        raise UsageError(
            f"{study} varies the {' and '.join(fixed)} itself, but every machine is to have {told}",
            hint=f"leave the {' and '.join(fixed)} of the machine out, or study something else",
        )


def _shifted(instant: datetime, years: int) -> datetime:
    day = 28 if (instant.month, instant.day) == (2, 29) else instant.day
    return instant.replace(year=instant.year + years, day=day)
