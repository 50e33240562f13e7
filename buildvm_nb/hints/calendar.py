"""What the calendar itself makes worth probing: turns of years, leaps and overflows."""

from bisect import bisect_left
from calendar import isleap
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import NamedTuple
from zoneinfo import ZoneInfo

from buildvm_nb.model.finding import Hint, HintKind
from buildvm_nb.model.instants import EARLIEST, LATEST

__all__ = [
    "calendar_hints",
    "midnights",
    "rollovers",
    "year_turns",
]

# Instants at which a counter of time overflows or the meaning of a short year changes.
#
# Each is the first whole second at which the old form no longer does. 1970-01-01, where many pivots
# and epochs lie, is not among them: no guest can be set to it.


class Overflow(NamedTuple):
    """One such instant."""

    at: datetime
    why: str
    """What overflows, and where that is written."""


def _at(text: str, why: str) -> Overflow:
    return Overflow(datetime.fromisoformat(text).astimezone(UTC), why)


OVERFLOWS: tuple[Overflow, ...] = tuple(
    sorted(
        [
            _at(
                "1980-01-01T00:00:00Z",
                "first date that FAT and ZIP can hold, in 7 bits of years since 1980 "
                "(APPNOTE.TXT 4.4.6, Microsoft FAT specification)",
            ),
            _at(
                "1999-08-21T23:59:47Z",
                "GPS week 1024 is sent as 0 (IS-GPS-200, 20.3.3.3.1.1: 10 bits; 13 leap seconds)",
            ),
            _at("2000-01-01T00:00:00Z", "years of two digits go from 99 to 00"),
            _at("2001-09-09T01:46:40Z", "seconds since 1970 get a tenth digit"),
            _at(
                "2019-04-06T23:59:42Z",
                "GPS week 2048 is sent as 0 (IS-GPS-200, 20.3.3.3.1.1: 10 bits; 18 leap seconds)",
            ),
            _at(
                "2030-01-01T00:00:00Z",
                "years of two digits from 30 on mean 19xx (OLE Automation, Excel: pivot 2029)",
            ),
            _at(
                "2036-02-07T06:28:16Z",
                "NTP era 1 begins: 32 bits of seconds since 1900 (RFC 5905, 6)",
            ),
            _at(
                "2038-01-19T03:14:08Z",
                "a signed 32-bit time_t overflows (POSIX.1-2024 asks for 64 bits)",
            ),
            _at(
                "2038-11-20T23:59:42Z",
                "GPS week 3072 is sent as 0 (IS-GPS-200, 20.3.3.3.1.1: 10 bits; as long as there "
                "are 18 leap seconds)",
            ),
            _at(
                "2040-02-06T06:28:16Z",
                "HFS and HFS+ dates overflow: 32 bits of seconds since 1904 (Apple TN1150)",
            ),
            _at(
                "2042-09-17T23:53:48Z",
                "the 64-bit time-of-day clock of IBM z overflows (z/Architecture Principles of "
                "Operation, TOD clock; leap seconds not counted)",
            ),
            _at(
                "2050-01-01T00:00:00Z",
                "X.509 changes from UTCTime to GeneralizedTime (RFC 5280, 4.1.2.5), and years of "
                "two digits from 50 on mean 19xx in mail (RFC 5322, 4.3)",
            ),
            _at(
                "2059-09-19T00:00:00Z",
                "days since 1970 overflow 16 bits with a sign",
            ),
            _at(
                "2069-01-01T00:00:00Z",
                "years of two digits from 69 on mean 19xx in strptime's %y (POSIX.1-2024)",
            ),
            _at(
                "2100-03-01T00:00:00Z",
                "2100 is no leap year: code that only divides by 4 has 29 February here "
                "(Gregorian rule)",
            ),
            _at(
                "2106-02-07T06:28:16Z",
                "32 bits of seconds since 1970 without a sign overflow (OpenPGP: RFC 9580, 3.5)",
            ),
            _at(
                "2108-01-01T00:00:00Z",
                "FAT and ZIP dates overflow: 7 bits of years since 1980 (APPNOTE.TXT 4.4.6)",
            ),
            _at(
                "2149-06-07T00:00:00Z",
                "days since 1970 overflow 16 bits without a sign",
            ),
            _at(
                "2262-04-11T23:47:17Z",
                "nanoseconds since 1970 overflow 64 bits with a sign (Linux ktime_t, Go's "
                "UnixNano, pandas)",
            ),
            _at("2286-11-20T17:46:40Z", "seconds since 1970 get an eleventh digit"),
        ]
    )
)
"""Sorted by instant."""


# What the calendar itself makes worth probing, whatever the source: turns, leaps and overflows.
#
# Turns of years and days are also there as plain sequences of seconds, for searches that look for a
# rhythm and must not hold a day of each year in memory.

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
