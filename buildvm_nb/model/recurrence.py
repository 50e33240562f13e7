"""Recurring rules: days or hours that come again and again, as RFC 5545 writes them."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from dateutil.rrule import rruleset, rrulestr

from buildvm_nb.errors import UsageError

__all__ = ["is_within", "next_within", "occurrences"]

_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)
_START = re.compile(r"DTSTART(?:;TZID=UTC(?P<zone>[+-]\d{2}:\d{2}))?:(?P<at>\d{8}T\d{6})")
_YEARS_AHEAD = 12
"""The calendar's rarest day of ours, 29 February, comes again within eight years, or twelve."""


def occurrences(rule: str, first: datetime, last: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Iterate over the days or hours of a rule.

    Parameters
    ----------
    rule : str
        One or more lines of RFC 5545: an optional ``DTSTART``, from which on the rule holds and in
        whose zone (``UTC+01:00``; none: UTC) it counts, and rules with or without ``RRULE:``, of
        which any may match. An instance lasts an hour if the rule names hours, else a day.
    first, last : datetime
        Aware; what ends after the first and begins before the last.

    Yields
    ------
    tuple of datetime
        Aware, UTC: its first instant and the first one after it, in order of time.

    Raises
    ------
    UsageError
        If it is no such rule.
    """
    rules, offset, since, size = _read(rule)
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
    """Tell whether an instant lies in a rule's days or hours.

    Parameters
    ----------
    rule : str
        As for `occurrences`.
    at : datetime
        Aware.

    Returns
    -------
    bool
        Whether it does.

    Raises
    ------
    UsageError
        If it is no such rule.
    """
    second = timedelta(seconds=1)
    return any(first <= at < after for first, after in occurrences(rule, at, at + second))


def next_within(rule: str, at: datetime) -> datetime | None:
    """Return the first instant of a rule's days or hours that is not before another.

    Parameters
    ----------
    rule : str
        As for `occurrences`.
    at : datetime
        Aware.

    Returns
    -------
    datetime or None
        Aware, UTC: `at` itself where it lies in one; None: none comes within twelve years.

    Raises
    ------
    UsageError
        If it is no such rule.
    """
    until = at + _YEARS_AHEAD * 366 * _DAY
    return next((max(first, at) for first, _after in occurrences(rule, at, until)), None)


def _plain(at: datetime, offset: timedelta) -> datetime:
    """Return what a calendar in the rule's zone shows, without a zone."""
    return at.astimezone(UTC).replace(tzinfo=None) + offset


@lru_cache(maxsize=256)
def _read(rule: str) -> tuple[tuple[str, ...], timedelta, datetime | None, timedelta]:
    """Read the rules, their zone's offset, since when they hold, and how long each lasts."""
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
    size = _HOUR if any("BYHOUR" in line for line in lines) else _DAY
    return tuple(lines), offset, since, size
