"""The dates that were studied, drawn in one line: where a case passes and where it does not."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from buildvm_nb.model.finding import Boundary, Finding

__all__ = ["Mark", "Timeline", "draw_timeline"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WIDTH = 78
_MONTHS = 12


class Mark(Enum):
    """What a column stands for: a name for people, a character, and one in plain ASCII."""

    PASSES = ("passes", "█", "=")
    FAILS = ("fails", "░", ".")
    CHANGES = ("changes", "┃", "|")
    UNKNOWN = ("not known", "?", "?")


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """A line of marks with a scale below it."""

    marks: tuple[Mark, ...]
    ticks: tuple[tuple[int, str], ...]
    """Columns, and the year or other moment that begins in them."""

    def bar(self, *, ascii_only: bool = False) -> str:
        """Return the line itself.

        Parameters
        ----------
        ascii_only : bool
            Draw with ASCII characters.

        Returns
        -------
        str
            One character for each mark.
        """
        return "".join(mark.value[1 + ascii_only] for mark in self.marks)

    def scale(self, *, ascii_only: bool = False) -> str:
        """Return what stands below it.

        Parameters
        ----------
        ascii_only : bool
            Draw with ASCII characters.

        Returns
        -------
        str
            Not longer than the line.
        """
        line, sign = "", "'" if ascii_only else "╵"
        for column, label in self.ticks:
            line = f"{line:<{column}}{sign}{label}"
        return line

    def legend(self, *, ascii_only: bool = False) -> str:
        """Return what the characters mean.

        Parameters
        ----------
        ascii_only : bool
            Draw with ASCII characters.

        Returns
        -------
        str
            Only of those that occur.
        """
        return "  ".join(
            f"{mark.value[1 + ascii_only]} {mark.value[0]}" for mark in Mark if mark in self.marks
        )


def draw_timeline(finding: "Finding", width: int = _WIDTH) -> Timeline | None:
    """Draw the dates that a finding is about.

    Parameters
    ----------
    finding : Finding
        Any finding.
    width : int
        Columns, at least 20.

    Returns
    -------
    Timeline or None
        None where no dates were studied, or where they are not what decides.
    """
    if finding.studied_from is None or finding.studied_until is None:
        return None
    first, last = _second(finding.studied_from), _second(finding.studied_until)
    stretches = _stretches(finding, first)
    if stretches is None or first >= last:
        return None
    column_s = (last + 1 - first) / width
    edges = [first + index * column_s for index in range(width + 1)]
    marks = [_mark(stretches, *pair) for pair in pairwise(edges)]
    for at in _changes(finding, column_s):
        if first <= at <= last:
            marks[min(bisect_right(edges, at) - 1, width - 1)] = Mark.CHANGES
    return Timeline(marks=tuple(marks), ticks=tuple(_ticks(first, last, width)))


def _stretches(finding: "Finding", first: int) -> list[tuple[int, Mark]] | None:
    """Return the seconds at which something else begins; None: it cannot be told."""
    from buildvm_nb.model.finding import FindingKind

    boundaries = _on_dates(finding)
    if not boundaries:
        only = {FindingKind.SOUND: Mark.PASSES, FindingKind.ALWAYS_FAILING: Mark.FAILS}
        return [(first, only[finding.kind])] if finding.kind in only else None
    stretches = [(first, _state(boundaries[0].before))]
    for boundary in boundaries:
        end, start = _ends(boundary)
        if end + 1 < start:
            stretches.append((end + 1, Mark.UNKNOWN))
        stretches.append((start, _state(boundary.after)))
    return stretches


def _on_dates(finding: "Finding") -> list["Boundary"]:
    from buildvm_nb.model.finding import Axis

    return [boundary for boundary in finding.boundaries if boundary.axis is Axis.DATE]


def _state(verdict: str) -> Mark:
    return Mark.PASSES if verdict == "passed" else Mark.FAILS


def _ends(boundary: "Boundary") -> tuple[int, int]:
    from buildvm_nb.model.instants import parse_instant

    return _second(parse_instant(boundary.last_before)), _second(
        parse_instant(boundary.first_after)
    )


def _changes(finding: "Finding", column_s: float) -> Iterator[int]:
    """Iterate over the changes that are known as well as can be drawn."""
    for end, start in map(_ends, _on_dates(finding)):
        if start - end <= max(1, column_s):
            yield start


def _mark(stretches: list[tuple[int, Mark]], start: float, end: float) -> Mark:
    """Return what a column stands for."""
    begins = [at for at, _ in stretches]
    inside = stretches[max(bisect_right(begins, start) - 1, 0) : max(bisect_right(begins, end), 1)]
    seen = {mark for at, mark in inside if at < end}
    if {Mark.PASSES, Mark.FAILS} <= seen:
        return Mark.CHANGES
    if Mark.UNKNOWN in seen:
        return Mark.UNKNOWN
    return inside[0][1]


_CLOCK, _DAY, _MONTH, _YEAR = "%H:%M", "%m-%d", "%Y-%m", "%Y"
_SECONDS = (
    *((step, "%H:%M:%S") for step in (1, 5, 15, 30)),
    *((60 * step, _CLOCK) for step in (1, 5, 15, 30, 60, 180, 360, 720)),
    *((86_400 * step, _DAY) for step in (1, 2, 7, 14)),
)
_CALENDAR = (
    *((step, _MONTH) for step in (1, 3, 6)),
    *((_MONTHS * step, _YEAR) for step in (1, 2, 5, 10, 20, 50, 100)),
)
_MONTH_S = 30.4 * 86_400


def _ticks(first: int, last: int, width: int) -> Iterator[tuple[int, str]]:
    """Iterate over the ticks of the finest scale whose labels do not touch."""
    column_s = (last + 1 - first) / width
    moments, form = _scale(first, last, column_s)
    for at in moments:
        column, label = int((at - first) / column_s), f"{_when(at):{form}}"
        if first <= at <= last and column + len(label) < width:
            yield column, label


def _scale(first: int, last: int, column_s: float) -> tuple[Iterator[int], str]:
    for step, form in _SECONDS:
        if step / column_s >= _needed(first, form):
            return iter(range(ceil(first / step) * step, last + 1, step)), form
    for step, form in _CALENDAR:
        if step * _MONTH_S / column_s >= _needed(first, form):
            return _month_turns(first, last, step), form
    return iter(()), _YEAR


def _needed(first: int, form: str) -> int:
    """Return how many columns a label takes, with its sign and a gap."""
    return len(f"{_when(first):{form}}") + 2


def _month_turns(first: int, last: int, step: int) -> Iterator[int]:
    begin, end = _when(first), _when(last)
    months = range(begin.year * _MONTHS, (end.year + 1) * _MONTHS, step)
    if step > _MONTHS:
        months = range(months.start - months.start % step, months.stop, step)
    for number in months:
        if number // _MONTHS > 0:
            turn = begin.replace(year=number // _MONTHS, month=number % _MONTHS + 1, day=1)
            yield _second(turn.replace(hour=0, minute=0, second=0))


def _second(instant: datetime) -> int:
    return (instant - _EPOCH) // timedelta(seconds=1)


def _when(second: int) -> datetime:
    return _EPOCH + timedelta(seconds=second)
