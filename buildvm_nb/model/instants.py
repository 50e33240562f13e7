"""Instants: aware UTC times from 1970-01-02 to the year 9999, and rules of those that recur.

A guest's date is the experiment, so its text form must leave no room for guessing: a time of day
needs a zone, and a date alone means midnight UTC.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from heapq import merge
from typing import Annotated, Any

from dateutil.relativedelta import relativedelta
from dateutil.rrule import rruleset, rrulestr
from pydantic import BeforeValidator, PlainSerializer

from buildvm_nb.errors import UsageError

__all__ = [
    "EARLIEST",
    "LATEST",
    "LATEST_CLOCK",
    "Instant",
    "format_instant",
    "from_now",
    "is_within",
    "next_within",
    "now",
    "occurrences",
    "parse_instant",
]

# Recurring rules: days or hours that come again and again, as RFC 5545 writes them.

_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)
_START = re.compile(r"DTSTART(?:;TZID=UTC(?P<zone>[+-]\d{2}:\d{2}))?:(?P<at>\d{8}T\d{6})")
_YEARS_AHEAD = 12
"""The calendar's rarest day of ours, 29 February, comes again within eight years, or twelve."""


def occurrences(rule: str, first: datetime, last: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Iterate over the days or hours of a rule.

    `rule`: one or more lines of RFC 5545: an optional ``DTSTART``, from which on the rule holds and
    in whose zone (``UTC+01:00``; none: UTC) it counts, and rules with or without ``RRULE:``, of
    which any may match. An instance lasts an hour where its rule names hours, else a day.
    Yields: aware, UTC: its first instant and the first one after it, in order of time.
    """
    rules, offset, since = _recurrence_read(rule)
    of_size = [
        (size, [line for line in rules if ("BYHOUR" in line) is (size is _HOUR)])
        for size in (_DAY, _HOUR)
    ]
    yield from merge(
        *(_instances(lines, (offset, since, size), first, last) for size, lines in of_size if lines)
    )


def _instances(
    rules: Sequence[str],
    known: tuple[timedelta, datetime | None, timedelta],
    first: datetime,
    last: datetime,
) -> Iterator[tuple[datetime, datetime]]:
    """Iterate over the instances of rules that last equally long."""
    offset, since, size = known
    low = _plain(first, offset) - size
    start = low.replace(month=1, day=1, hour=0, minute=0, second=0, microsecond=0)
    every = rruleset()
    for line in rules:
        every.rrule(rrulestr(line, dtstart=start))
    for begins in every.xafter(low, inc=False):
        at = (begins - offset).replace(tzinfo=UTC)
        if at >= last:
            return
        if since is None or at >= since:
            yield at, at + size


def is_within(rule: str, at: datetime) -> bool:
    """Tell whether an instant lies in a rule's days or hours."""
    _lines, offset, since = _recurrence_read(rule)
    plain = _plain(at, offset)
    days, hours = _begins_of_year(rule, plain.year)
    hour = plain.replace(minute=0, second=0, microsecond=0)
    found = [
        begins for begins, some in ((hour.replace(hour=0), days), (hour, hours)) if begins in some
    ]
    return any(since is None or (one - offset).replace(tzinfo=UTC) >= since for one in found)


@lru_cache(maxsize=4096)
def _begins_of_year(rule: str, year: int) -> tuple[frozenset[datetime], frozenset[datetime]]:
    """Return when days and hours of a rule begin in a year, as its own calendar shows them."""
    lines, _offset, _since = _recurrence_read(rule)
    start = datetime(year, 1, 1)  # noqa: DTZ001 - a rule's own calendar
    begins: tuple[set[datetime], set[datetime]] = (set(), set())
    for line in lines:
        for at in rrulestr(line, dtstart=start):
            if at.year > year:
                break
            begins["BYHOUR" in line].add(at)
    return frozenset(begins[False]), frozenset(begins[True])


def next_within(rule: str, at: datetime) -> datetime | None:
    """Return the first instant of a rule's days or hours that is not before another.

    Returns: aware, UTC: `at` itself where it lies in one; None: none comes within twelve years.
    """
    until = at + _YEARS_AHEAD * 366 * _DAY
    return next((max(first, at) for first, _after in occurrences(rule, at, until)), None)


def _plain(at: datetime, offset: timedelta) -> datetime:
    """Return what a calendar in the rule's zone shows, without a zone."""
    return at.astimezone(UTC).replace(tzinfo=None) + offset


@lru_cache(maxsize=256)
def _recurrence_read(rule: str) -> tuple[tuple[str, ...], timedelta, datetime | None]:
    """Read the rules, their zone's offset, and since when they hold."""
    offset, since, lines = timedelta(), None, []
    for line in rule.split("\n"):
        if match := _START.fullmatch(line):
            if match["zone"]:
                hours, minutes = match["zone"][1:].split(":")
                offset = timedelta(hours=int(hours), minutes=int(minutes))
                offset = -offset if match["zone"][0] == "-" else offset
            begins = datetime.strptime(match["at"], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
            since = begins - offset
        else:
            lines.append(line.removeprefix("RRULE:"))
    for line in lines:
        try:
            rrulestr(line, dtstart=datetime(2000, 1, 1))  # noqa: DTZ001 - a rule's own calendar
        except (ValueError, TypeError) as error:
            raise UsageError(
                f"not a recurring rule: {line!r} ({error})", hint="for example FREQ=WEEKLY;BYDAY=MO"
            ) from error
    return tuple(lines), offset, since


EARLIEST = datetime(1970, 1, 2, tzinfo=UTC)
"""First instant that a guest can be set to: Linux refuses a clock before its own uptime."""

LATEST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""Last instant that can be told, for example the end of a certificate that never ends."""

LATEST_CLOCK = datetime(2232, 4, 18, 23, 47, 15, tzinfo=UTC)
"""Last whole second that a guest can be set to.

Linux counts nanoseconds in 63 bits, which ends in 2262, and keeps 30 years of that for its uptime
(include/linux/time64.h, ``TIME_SETTOD_SEC_MAX``; since 5.1).
"""

_DISTANCE = re.compile(r"([+-])([1-9][0-9]{0,4})([ymwd])")
_FORMS = "2019-05-01, 2019-05-01T12:30:00Z, 2019-05-01T14:30+02:00, today or now"


def now() -> datetime:
    """Return the host's present instant, to the microsecond."""
    return datetime.now(UTC)


def parse_instant(value: object, *, latest: datetime = LATEST) -> datetime:
    """Turn text, a date or an aware datetime into an instant.

    `value`: ISO 8601 text, ``today`` (midnight UTC), ``now`` (whole second), or a value of the
    standard library. A date without a time means 00:00:00Z.
    Raises `UsageError` if the text is no date, names a time of day without a zone, or is out of
    range.
    """
    instant = _read(value)
    if not EARLIEST <= instant <= latest:
        allowed = f"from {format_instant(EARLIEST)} to {format_instant(latest)}"
        raise UsageError(f"date out of range: {value}; allowed: {allowed}")
    return instant


def from_now(text: str) -> datetime | None:
    """Turn a distance from the present into an instant.

    `text`: a sign, a number, and ``y``, ``m``, ``w`` or ``d``: ``+16y``, ``-2w``.
    Returns: aware, UTC, a whole second, on the same day of the month or the last one of a shorter
    month; None: it is no such distance.
    """
    match = _DISTANCE.fullmatch(text.strip())
    if match is None:
        return None
    count, present = int(match[1] + match[2]), now().replace(microsecond=0)
    try:
        unit = {"y": "years", "m": "months", "w": "weeks", "d": "days"}[match[3]]
        then: datetime = present + relativedelta(**{unit: count})
    except (OverflowError, ValueError) as error:
        raise UsageError(f"date out of range: {text}; allowed: years 1970 to 9999") from error
    return then


def _read(value: object) -> datetime:
    if value == "now":
        return now().replace(microsecond=0)
    if value == "today":
        return now().replace(hour=0, minute=0, second=0, microsecond=0)
    if isinstance(value, str):
        value = _read_text(value.strip())
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise UsageError(
                f"a time of day needs a zone: {value.isoformat()}; allowed: {_FORMS}",
                hint=f"for UTC write {value.isoformat()}Z",
            )
        return _to_utc(value)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    raise UsageError(f"not a date: {value!r}; allowed: {_FORMS}")


def _read_text(text: str) -> date:
    for parse in (date.fromisoformat, datetime.fromisoformat):
        try:
            return parse(text)
        except ValueError:
            continue
    raise UsageError(f"not a date: {text!r}; allowed: {_FORMS}")


def _to_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise UsageError(f"date out of range: {value.isoformat()}") from error


def format_instant(instant: datetime) -> str:
    """Write an instant as ISO 8601 with ``Z``, with fractions of a second only where it has some.

    For example ``2019-05-01T00:00:00Z``.
    """
    utc = instant.astimezone(UTC)
    whole = utc - timedelta(microseconds=utc.microsecond)
    fraction = f".{utc.microsecond:06d}".rstrip("0") if utc.microsecond else ""
    return f"{whole.replace(tzinfo=None).isoformat()}{fraction}Z"


def _validate(value: Any) -> datetime:  # noqa: ANN401 - pydantic hands over whatever it was given
    try:
        return parse_instant(value)
    except UsageError as error:
        raise ValueError(error.message) from error


Instant = Annotated[
    datetime,
    BeforeValidator(_validate),
    PlainSerializer(format_instant, return_type=str, when_used="json"),
]
"""A field that holds an instant: strict on the way in, ISO 8601 with ``Z`` in JSON."""
