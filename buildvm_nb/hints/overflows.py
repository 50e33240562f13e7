"""Instants at which a counter of time overflows or the meaning of a short year changes.

Each is the first whole second at which the old form no longer does. 1970-01-01, where many pivots
and epochs lie, is not among them: no guest can be set to it.
"""

from datetime import UTC, datetime
from typing import NamedTuple

__all__ = ["OVERFLOWS", "Overflow"]


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
