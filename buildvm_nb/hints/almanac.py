"""What the calendar itself makes worth probing, whatever the source: turns, leaps and overflows.

Turns of years and days are also there as plain sequences of seconds, for searches that look for a
rhythm and must not hold a day of each year in memory.
"""

from bisect import bisect_left
from calendar import isleap
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

from buildvm_nb.hints.overflows import OVERFLOWS
from buildvm_nb.model.hint import Hint, HintKind
from buildvm_nb.model.instants import EARLIEST, LATEST

__all__ = ["calendar_hints", "midnights", "rollovers", "year_turns"]

_DAY_S = 86_400
_ZONES = {"Europe/Berlin": "EU", "America/New_York": "US"}
_MOST_CHANGES = 40
"""Of daylight saving time, for each zone: 20 years. A trap on them shows in each of these years."""
_STRIDE_S = 30 * _DAY_S
"""Shorter than any summer time of these zones since 1970, so that none is stepped over."""


def calendar_hints(first: datetime, last: datetime) -> tuple[Hint, ...]:
    """Return what the calendar makes worth probing in a span of time.

    Turns of years, 29 February and 1 March of leap years, the first 20 years of changes of
    daylight saving time by the rules of the EU and the US, and all `rollovers`.

    Parameters
    ----------
    first, last : datetime
        Aware; what is told lies after `first` and not after `last`.

    Returns
    -------
    tuple of Hint
        Sorted by instant.
    """
    found = [*rollovers(first, last), *_turns(first, last), *_leaps(first, last)]
    for zone, rules in _ZONES.items():
        found += _clock_changes(first, last, zone, rules)
    return tuple(sorted(found, key=lambda hint: (hint.instant or EARLIEST, hint.kind, hint.why)))


def rollovers(first: datetime, last: datetime) -> tuple[Hint, ...]:
    """Return the overflows of counters and pivots of short years in a span of time.

    Parameters
    ----------
    first, last : datetime
        Aware; what is told lies after `first` and not after `last`.

    Returns
    -------
    tuple of Hint
        Sorted by instant; `Hint.why` names each one's source.
    """
    return tuple(
        Hint(kind=HintKind.ROLLOVER, instant=overflow.at, why=overflow.why)
        for overflow in OVERFLOWS
        if first < overflow.at <= last
    )


def year_turns(first: int, last: int) -> Sequence[int]:
    """Return where years begin, in UTC.

    Parameters
    ----------
    first, last : int
        Seconds since 1970, up to the year 9999; what is told lies after `first` and not after
        `last`.

    Returns
    -------
    sequence of int
        Seconds since 1970, ascending.
    """
    years = range(_year(first), _year(last) + 1)
    starts = [int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in years]
    return [start for start in starts if first < start <= last]


def midnights(first: int, last: int) -> Sequence[int]:
    """Return where days begin, in UTC.

    Parameters
    ----------
    first, last : int
        Seconds since 1970; what is told lies after `first` and not after `last`.

    Returns
    -------
    sequence of int
        Seconds since 1970, ascending; a `range`, which takes no memory.
    """
    return range((first // _DAY_S + 1) * _DAY_S, last + 1, _DAY_S)


def _year(second: int) -> int:
    return datetime.fromtimestamp(second, UTC).year


def _turns(first: datetime, last: datetime) -> Iterator[Hint]:
    for second in year_turns(int(first.timestamp()), int(last.timestamp())):
        at = datetime.fromtimestamp(second, UTC)
        if first < at:
            yield _calendar(at, f"the year {at.year} begins")


def _leaps(first: datetime, last: datetime) -> Iterator[Hint]:
    for year in range(first.astimezone(UTC).year, last.astimezone(UTC).year + 1):
        if isleap(year):
            for month, day, name in ((2, 29, "29 February"), (3, 1, "1 March")):
                at = datetime(year, month, day, tzinfo=UTC)
                if first < at <= last:
                    yield _calendar(at, f"{name} of the leap year {year}")


def _clock_changes(first: datetime, last: datetime, zone: str, rules: str) -> Iterator[Hint]:
    there = ZoneInfo(zone)
    for at in islice(_changes(int(first.timestamp()), int(last.timestamp()), there), _MOST_CHANGES):
        begins = bool(at.astimezone(there).dst())
        what = "begins" if begins else "ends"
        yield _calendar(at, f"daylight saving time {what} by the rules of the {rules} ({zone})")


def _changes(first: int, last: int, zone: ZoneInfo) -> Iterator[datetime]:
    """Iterate over the seconds, after the first and up to the last, with a new offset from UTC."""

    def offset(second: int) -> timedelta | None:
        return datetime.fromtimestamp(second, zone).utcoffset()

    last = min(last, int((LATEST - timedelta(days=2)).timestamp()))  # local time ends there, too
    while first < last:
        end, was = min(first + _STRIDE_S, last), offset(first)
        if offset(end) != was:
            seconds = range(first, end + 1)
            at = seconds[bisect_left(seconds, 1, key=lambda second: int(offset(second) != was))]
            yield datetime.fromtimestamp(at, UTC)
        first = end


def _calendar(at: datetime, why: str) -> Hint:
    return Hint(kind=HintKind.CALENDAR, instant=at, why=why)
