"""Windows of dates in which a case passes: their ends, what they have in common, a date inside."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from buildvm_nb.model.finding import Finding, Window
from buildvm_nb.model.instants import EARLIEST, LATEST_CLOCK
from buildvm_nb.model.recurrence import is_within, occurrences

__all__ = ["common_windows", "holds", "nearest_inside", "passes_at", "shown_windows"]

_MARGIN = timedelta(days=1)
_SECOND = timedelta(seconds=1)
_RULED = timedelta(days=400)
"""How far around a date a rule's days and hours are cut out of windows: more than a year."""


def shown_windows(finding: Finding, *near: datetime | None) -> tuple[Window, ...]:
    """Return the windows of a finding with ends: beyond the studied dates nothing is shown.

    Parameters
    ----------
    finding : Finding
        On the date axis.
    *near : datetime or None
        Aware. Of what fails by a recurring rule, only windows around these dates are told.

    Returns
    -------
    tuple of Window
        In the finding's order.
    """
    first, last = finding.studied_from or EARLIEST, finding.studied_until or LATEST_CLOCK
    windows = tuple(
        Window(passes_from=one.passes_from or first, passes_until=one.passes_until or last)
        for one in (finding.windows or _whole(finding))
    )
    if not finding.recurs:
        return windows
    gaps = {gap for date in near if date for gap in _between(finding.recurs, date)}
    return common_windows(sorted(gaps, key=_begins), windows)


def passes_at(finding: Finding, date: datetime) -> bool:
    """Tell whether a case passes at a date, as a finding on dates says.

    Parameters
    ----------
    finding : Finding
        On the date axis.
    date : datetime
        Aware.

    Returns
    -------
    bool
        Whether it lies in a window, and not on a day or in an hour that fails by a rule.
    """
    if not holds(finding.windows or _whole(finding), date):
        return False
    return not (finding.recurs and is_within(finding.recurs, date))


def _whole(finding: Finding) -> tuple[Window, ...]:
    """Return the one window of what fails by a rule alone; a trap without windows has none."""
    has_edges = bool(finding.boundaries)
    return (Window(),) if finding.recurs and not has_edges else ()


def _begins(window: Window) -> datetime:
    return window.passes_from or EARLIEST


def _between(rule: str, date: datetime) -> list[Window]:
    """Return the windows between a rule's days or hours around a date, overlaps joined."""
    at, end = date - _RULED, date + _RULED
    gaps = []
    for first, after in occurrences(rule, at, end):
        if first > at:
            gaps.append(Window(passes_from=at, passes_until=first - _SECOND))
        at = max(at, after)
    if at < end:
        gaps.append(Window(passes_from=at, passes_until=end))
    return gaps


def holds(windows: Iterable[Window], date: datetime) -> bool:
    """Tell whether a date lies in one of the windows, their ends included.

    Parameters
    ----------
    windows : iterable of Window
        A missing end is none.
    date : datetime
        Aware.

    Returns
    -------
    bool
        Whether it does.
    """
    spans = [(one.passes_from or EARLIEST, one.passes_until or LATEST_CLOCK) for one in windows]
    return any(first <= date <= last for first, last in spans)


def common_windows(ones: Sequence[Window], others: Sequence[Window]) -> tuple[Window, ...]:
    """Return the windows of the dates that lie in windows of both sides.

    Parameters
    ----------
    ones, others : sequence of Window
        With ends, as `shown_windows` returns them.

    Returns
    -------
    tuple of Window
        None of them is empty; a window may be a single second.
    """
    spans = [
        (
            max(one.passes_from or EARLIEST, other.passes_from or EARLIEST),
            min(one.passes_until or LATEST_CLOCK, other.passes_until or LATEST_CLOCK),
        )
        for one in ones
        for other in others
    ]
    return tuple(
        Window(passes_from=first, passes_until=last) for first, last in spans if first <= last
    )


def nearest_inside(windows: Iterable[Window], wanted: datetime) -> datetime | None:
    """Return the date nearest to a wanted one that is not close to an end: the clock runs on.

    Parameters
    ----------
    windows : iterable of Window
        With ends.
    wanted : datetime
        Aware; taken as it is where it lies in a window and a margin before its end.

    Returns
    -------
    datetime or None
        A whole second; the margin is a day, or a quarter of a short window. None: no window.
    """
    dates = [_inside(window, wanted) for window in windows]
    return min(dates, key=lambda date: abs(date - wanted), default=None)


def _inside(window: Window, wanted: datetime) -> datetime:
    first, last = window.passes_from or EARLIEST, window.passes_until or LATEST_CLOCK
    margin = min(_MARGIN, (last - first) / 4)
    if first <= wanted <= last - margin:
        return wanted.replace(microsecond=0)
    nearest = min(max(wanted, first + margin), last - margin)
    return nearest.replace(microsecond=0)
