"""When a forecast looks: where something ends, at round distances, and where counters overflow."""

import re
from calendar import monthrange
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from buildvm_nb.errors import UsageError
from buildvm_nb.model.hint import VALIDITY_ENDS, Hint, HintKind
from buildvm_nb.model.instants import LATEST_CLOCK, format_instant, parse_instant

__all__ = ["Schedule", "Stop", "make_schedule", "months_after", "parse_distance"]

_HORIZONS = (6, 12, 24, 36, 60, 120, 180, 240, 360, 480, 600, 840, 1080, 1440, 1800, 2160)
"""Months."""
_TOGETHER = timedelta(minutes=10)
"""What ends within such a time of each other is looked at once."""
_NEAR = timedelta(days=30)
"""A round distance this near to another look is left out."""
_MOST_ENDS = 12
"""Looks at ends, the nearest first; what ends later is known to the search all the same."""
_SECOND = timedelta(seconds=1)
_DISTANCE = re.compile(r"([1-9]\d{0,4}) ?(y|years?|m|months?|w|weeks?|d|days?)", re.IGNORECASE)
_DISTANCES = "2y, 18m, 6w, 90d, a year (2040), 2040-01-01 or 2040-01-01T12:00:00Z"
_YEAR = 12


@dataclass(frozen=True, kw_only=True)
class Stop:
    """An instant to look at."""

    at: datetime
    why: str
    of_end: bool = False
    """Whether it is there because something ends."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The instants to look at."""

    stops: tuple[Stop, ...]
    """Ordered by time, both ends of the range included."""
    left_out: tuple[Hint, ...] = ()
    """Ends that are not looked at, because there are too many."""

    def without_ends_after(self, last: datetime) -> "Schedule":
        """Return the schedule without looks, later than an instant, at where something ends.

        Parameters
        ----------
        last : datetime
            Aware.

        Returns
        -------
        Schedule
            Round distances and overflows stay.
        """
        stops = tuple(stop for stop in self.stops if not (stop.of_end and stop.at > last))
        return replace(self, stops=stops)


def make_schedule(start: datetime, until: datetime, hints: Iterable[Hint]) -> Schedule:
    """Choose the instants to look at.

    Parameters
    ----------
    start, until : datetime
        Aware; the range.
    hints : iterable of Hint
        What is known about dates.

    Returns
    -------
    Schedule
        Just after each end of something, with one look for those that end together; where
        counters overflow; and at round distances from `start`, unless another look is near.
    """
    known = sorted(
        (hint for hint in hints if hint.instant and start < hint.instant < until), key=_instant
    )
    clusters = list(_together([hint for hint in known if hint.kind in VALIDITY_ENDS]))
    stops = [_after_all(cluster, until) for cluster in clusters[:_MOST_ENDS]]
    for hint in known:
        if hint.kind is HintKind.ROLLOVER and _instant(hint) not in {stop.at for stop in stops}:
            stops.append(Stop(at=_instant(hint), why=hint.why))
    stops += [Stop(at=start, why="today"), Stop(at=until, why="the end")]
    taken = [stop.at for stop in stops]
    for months in _HORIZONS:
        horizon = months_after(start, months)
        if horizon is not None and horizon < until and _is_far(horizon, taken):
            stops.append(Stop(at=horizon, why=f"+{_in_words(months)}"))
    left_out = tuple(hint for cluster in clusters[_MOST_ENDS:] for hint in cluster)
    return Schedule(stops=tuple(sorted(stops, key=lambda stop: stop.at)), left_out=left_out)


def months_after(start: datetime, months: int) -> datetime | None:
    """Return the instant some calendar months later.

    Parameters
    ----------
    start : datetime
        Aware, UTC.
    months : int
        How many.

    Returns
    -------
    datetime or None
        On the same day, or the last one of a shorter month; None: beyond a guest's clock.
    """
    year, month = divmod(start.year * _YEAR + start.month - 1 + months, _YEAR)
    if year > LATEST_CLOCK.year:
        return None
    day = min(start.day, monthrange(year, month + 1)[1])
    at = start.replace(year=year, month=month + 1, day=day)
    return at if at <= LATEST_CLOCK else None


def parse_distance(text: str, start: datetime) -> datetime:
    """Read how far to look.

    Parameters
    ----------
    text : str
        A distance such as ``2y``, ``18m``, ``6w`` or ``90d``, a year, or an instant.
    start : datetime
        What a distance is counted from.

    Returns
    -------
    datetime
        Aware, later than `start`; a year means its first second.

    Raises
    ------
    UsageError
        If the text is none of these, not after `start`, or beyond a guest's clock.
    """
    text = text.strip()
    at: datetime | None
    if match := _DISTANCE.fullmatch(text):
        count, unit = int(match[1]), match[2][0].lower()
        if unit in "ym":
            at = months_after(start, count * _YEAR if unit == "y" else count)
        else:
            at = start + timedelta(days=count * (7 if unit == "w" else 1))
        if at is None or at > LATEST_CLOCK:
            last = format_instant(LATEST_CLOCK)
            raise UsageError(f"too far ahead: {text}; a guest's clock ends at {last}")
        return at
    if re.fullmatch(r"\d{4}", text):
        text = f"{text}-01-01"
    try:
        at = parse_instant(text, latest=LATEST_CLOCK)
    except UsageError as error:
        if "out of range" in error.message:
            raise
        raise UsageError(
            f"neither a distance nor a date: {text!r}; allowed: {_DISTANCES}"
        ) from error
    if at <= start:
        raise UsageError(f"not after {format_instant(start)}: {format_instant(at)}")
    return at


def _together(ends: list[Hint]) -> Iterator[list[Hint]]:
    """Group what ends within minutes."""
    cluster: list[Hint] = []
    for hint in ends:
        if cluster and _instant(hint) - _instant(cluster[-1]) > _TOGETHER:
            yield cluster
            cluster = []
        cluster.append(hint)
    if cluster:
        yield cluster


def _after_all(cluster: list[Hint], until: datetime) -> Stop:
    """Look when all has ended: an end may be the last good second or the first bad one."""
    last = cluster[-1]
    more = f", and {len(cluster) - 1} more" if len(cluster) > 1 else ""
    place = f" ({last.path})" if last.path else ""
    return Stop(
        at=min(_instant(last) + _SECOND, until), why=f"{last.why}{place}{more}", of_end=True
    )


def _is_far(at: datetime, others: Iterable[datetime]) -> bool:
    return all(abs(at - other) > _NEAR for other in others)


def _instant(hint: Hint) -> datetime:
    if hint.instant is None:
        raise AssertionError("only hints with an instant get here")
    return hint.instant


def _in_words(months: int) -> str:
    if months % _YEAR:
        return f"{months} months"
    years = months // _YEAR
    return f"{years} year{'s' * (years > 1)}"
