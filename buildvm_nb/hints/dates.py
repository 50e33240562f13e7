"""Dates as people and programs write them, found in a line of text.

Where no zone is written, UTC is meant: a hint need not be right to the hour, and probes tell. All
patterns are bounded, so that no line takes longer than its length.

References
----------
ISO 8601; RFC 5322, 3.3 (mail); RFC 9110, 5.6.7 (HTTP, with the old forms of RFC 850 and asctime);
RFC 5280, 4.1.2.5 (UTCTime, GeneralizedTime); openssl-x509(1) (``notAfter``).
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import NamedTuple

from buildvm_nb.model.instants import EARLIEST, LATEST

__all__ = ["WrittenDate", "find_dates", "find_epochs", "to_instant"]

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_LONG = ("january", "february", "march", "april", "may", "june", "july", "august", "september")
_MONTH = r"(?P<month>Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]{0,6}"
_CLOCK = r"(?P<hour>\d\d):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,]\d{1,9})?)?"
_ZONE = r"(?:\s?(?P<zone>Z|UTC|GMT|[+-]\d\d:?\d\d(?!\d)))?"
_PIVOT = 50
"""Years of two digits below it are 20xx (RFC 5280, 4.1.2.5.1)."""
_MILLISECONDS = 13


class WrittenDate(NamedTuple):
    """A date in a line."""

    at: datetime
    """Aware, in UTC, a whole second."""
    text: str
    """As it is written."""
    is_day: bool
    """Whether no time of day is written: `at` is that day's first second."""


_FORMS: tuple[re.Pattern[str], ...] = (
    re.compile(
        r"(?<![\d.])(?P<year>\d{4})(?P<rule>[-/])(?P<month>\d\d)(?P=rule)(?P<day>\d\d)"
        rf"(?:(?:T|\s)\s?{_CLOCK}{_ZONE})?(?!\d)"
    ),
    re.compile(
        r"(?<![\w.])(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)T"
        r"(?P<hour>\d\d)(?P<minute>\d\d)(?P<second>\d\d)(?P<zone>Z)?(?!\w)"
    ),
    re.compile(
        r"(?<![\w.])(?P<year>\d\d|\d{4})(?P<month>\d\d)(?P<day>\d\d)"
        r"(?P<hour>\d\d)(?P<minute>\d\d)(?P<second>\d\d)(?P<zone>Z)(?!\w)"
    ),
    re.compile(
        rf"(?<!\d)(?P<day>\d\d?)[ -]{_MONTH}[ -](?P<year>\d{{4}}|\d\d),?\s{_CLOCK}{_ZONE}(?!\d)"
    ),
    re.compile(
        rf"\b{_MONTH}\s{{1,2}}(?P<day>\d\d?)\s{_CLOCK}(?:\s[A-Z]{{3,4}})?\s(?P<year>\d{{4}})(?!\d)"
    ),
    re.compile(rf"(?<!\d)(?P<day>\d\d?)[ -]{_MONTH}[ -](?P<year>\d{{4}})(?!\d)(?!,?\s\d\d:)"),
    re.compile(rf"\b{_MONTH}\s(?P<day>\d\d?)(?:st|nd|rd|th)?,\s(?P<year>\d{{4}})(?!\d)"),
    re.compile(
        r"\b(?P<call>[Dd]ate[Tt]ime|date|of|Date|utc|UTC|gm|local|civil|new|mktime|timegm)"
        r"\(\(?\s?(?P<year>\d{4}),\s?(?P<month>\d\d?|[A-Za-z]{1,12}(?:\.[A-Za-z]{1,12})?),"
        r"\s?(?P<day>\d\d?)"
        r"(?:,\s?(?P<hour>\d\d?)(?:,\s?(?P<minute>\d\d?)(?:,\s?(?P<second>\d\d?))?)?)?(?!\d)\)?"
    ),
)

_QUALIFIER = re.compile(r"[\w.]{0,40}\Z")

_EPOCH_SECONDS = re.compile(r"(?<![\w.-])([1-4]\d{9}|[1-4]\d{12})(?![\w-])")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def find_dates(line: str) -> Iterator[WrittenDate]:
    """Find the dates in a line.

    Parameters
    ----------
    line : str
        Text without line breaks.

    Yields
    ------
    WrittenDate
        Form by form; what is no date of the calendar or out of an instant's range is left out.
    """
    for form in _FORMS:
        for match in form.finditer(line):
            parts, before = match.groupdict(), line[max(0, match.start() - 40) : match.start()]
            at = _read(parts, before)
            if at is not None:
                whose = _QUALIFIER.search(before) if "call" in parts else None
                text = f"{whose[0] if whose else ''}{match[0]}"
                yield WrittenDate(at, text, parts.get("hour") is None)


def find_epochs(line: str) -> Iterator[WrittenDate]:
    """Find numbers in a line that may be seconds or milliseconds since 1970.

    Parameters
    ----------
    line : str
        Text without line breaks.

    Yields
    ------
    WrittenDate
        From 2001 to 2128; whether the number is a time at all is for the caller to judge.
    """
    for match in _EPOCH_SECONDS.finditer(line):
        number = int(match[1])
        seconds = number // 1000 if len(match[1]) == _MILLISECONDS else number
        at = to_instant(seconds)
        if at is not None:
            yield WrittenDate(at, match[1], is_day=False)


def to_instant(seconds: int) -> datetime | None:
    """Turn seconds since 1970 into an instant.

    Parameters
    ----------
    seconds : int
        Any number.

    Returns
    -------
    datetime or None
        None where no instant can hold it.
    """
    try:
        at = _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return None
    return at if EARLIEST <= at <= LATEST else None


def _read(parts: dict[str, str | None], before: str) -> datetime | None:
    year, month = int(parts["year"] or 0), _month(parts, before)
    if len(parts["year"] or "") == 2:  # noqa: PLR2004 - two digits
        year += 2000 if year < _PIVOT else 1900
    clock = [int(parts.get(name) or 0) for name in ("hour", "minute", "second")]
    try:
        at = datetime(year, month, int(parts["day"] or 0), tzinfo=_zone(parts.get("zone")))
        at = (at + _time_of_day(*clock)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return at if EARLIEST <= at <= LATEST else None


def _time_of_day(hour: int, minute: int, second: int) -> timedelta:
    """Check a time of day; 24:00:00 and 23:59:60 are the next day's first second."""
    if hour > 24 or minute > 59 or second > 60 or (hour == 24 and minute + second):  # noqa: PLR2004
        raise ValueError("no time of day")
    return timedelta(hours=hour, minutes=minute, seconds=second)


def _month(parts: dict[str, str | None], before: str) -> int:
    text = (parts["month"] or "").rpartition(".")[2]
    if not text.isdigit():
        name = text[:3].lower()
        return _MONTHS.index(name) + 1 if name in _MONTHS and _is_month(text.lower()) else 0
    counts_from_0 = parts.get("call") in {"Date", "UTC"} and _is_javascript(parts, before)
    return int(text) + counts_from_0


def _is_month(text: str) -> bool:
    return text in _MONTHS or text in _LONG or text[:3] in {"oct", "nov", "dec"}


def _is_javascript(parts: dict[str, str | None], before: str) -> bool:
    """Tell ``new Date(2030, 0, 1)`` and ``Date.UTC(2030, 0, 1)``, where months count from 0."""
    return before.endswith("new " if parts.get("call") == "Date" else "Date.")


def _zone(text: str | None) -> timezone:
    if not text or not text[1:].replace(":", "").isdigit():
        return UTC
    hours, minutes = int(text[1:3]), int(text[-2:])
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if text[0] == "-" else offset)
