"""Dates, CPU features and kernel releases in source text and in what a failing step printed."""

import heapq
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import NamedTuple

from buildvm_nb.hints.found import Found, Report
from buildvm_nb.model.finding import Hint, HintKind
from buildvm_nb.model.instants import EARLIEST, LATEST

__all__ = [
    "find_conditions",
    "find_constants",
    "is_quiet",
    "text_hints",
    "to_instant",
]

# What asks for a CPU or a kernel: compiler flags, code that looks at both.


class _Sign(NamedTuple):
    kind: HintKind
    pattern: re.Pattern[bytes]
    """Begins with fixed bytes, which is what makes it fast."""
    condition: str
    """Empty: what the pattern's group has matched or, where it has none, all of it."""
    why: str


def _sign(kind: HintKind, pattern: str, condition: str = "", *, why: str) -> _Sign:
    return _Sign(kind, re.compile(pattern.encode()), condition, why)


_TUNING, _DISPATCH, _KERNEL = HintKind.CPU_TUNING, HintKind.CPU_DISPATCH, HintKind.KERNEL_VERSION
_FLAG = "the compiler is told to fit code to"
_ASKS = "code asks the CPU for"
_READS = "code reads the kernel's release with"
_FLAGS = "avx|sse|ssse|fma|bmi|f16c|aes|pclmul|popcnt|lzcnt|adx|sha|movbe|rdrnd|xop"
_MACROS = "AVX|SSE|SSSE|FMA|BMI|F16C|AES"
_QUOTED = r"\s{0,4}\(\s{0,4}\"([^\"\n]{1,60})\""

_SIGNS: tuple[_Sign, ...] = (
    _sign(_TUNING, r"-m(?<![\w-]-m)(?:arch|cpu)=([A-Za-z0-9._+-]{1,40})", why=_FLAG),
    _sign(_TUNING, r"-mtune=(?<![\w-]-mtune=)(native)\b", why=_FLAG),
    _sign(_TUNING, rf"-m(?<![\w-]-m)((?:{_FLAGS})[a-z0-9.]{{0,12}})(?![\w=-])", why=_FLAG),
    _sign(_TUNING, r"target-cpu=([A-Za-z0-9._-]{1,40})", why=_FLAG),
    _sign(_TUNING, r"-x(?<![\w-]-x)[Hh]ost\b", "native", why=_FLAG),
    _sign(_DISPATCH, rf"__builtin_cpu_(?:supports|is){_QUOTED}", why=_ASKS),
    _sign(_DISPATCH, rf"_feature_detected!{_QUOTED}", why=_ASKS),
    _sign(_DISPATCH, rf"target(?:_clones)?(?<!\w.target){_QUOTED}", why="code is compiled for"),
    _sign(
        _DISPATCH,
        rf"__(?<!\w__)((?:{_MACROS})[A-Z0-9_]{{0,16}}?)__\b",
        why="code differs where the compiler may use",
    ),
    _sign(_DISPATCH, r"cpu\.(?:X86|ARM64)\.Has([A-Z0-9]{2,20})", why=_ASKS),
    _sign(
        _DISPATCH, r"cpuid(?:(?<=__cpuid)|(?<=_get_cpuid)|(?<=[\"' ]cpuid))\b", "cpuid", why=_ASKS
    ),
    _sign(_DISPATCH, r"getauxval\s{0,4}\(\s{0,4}(AT_HWCAP2?)", why=_ASKS),
    _sign(_DISPATCH, r"/proc/cpuinfo\b", "/proc/cpuinfo", why=_ASKS),
    _sign(_DISPATCH, r"cpu_features", "cpu_features", why=_ASKS),
    _sign(_KERNEL, r"uname\s{1,4}-[a-z]{0,4}[ar][a-z]{0,4}(?![\w-])", "uname -r", why=_READS),
    _sign(_KERNEL, r"os\.uname\b(?<![\w.]os.uname)", "os.uname", why=_READS),
    _sign(_KERNEL, r"os\.release\(\)(?<![\w.]os.release..)", "os.release", why=_READS),
    _sign(_KERNEL, r"platform\.(?:release|uname|platform|version)\b(?=\s{0,2}\()", why=_READS),
    _sign(_KERNEL, r"utsname\b(?<!\wutsname)", "utsname", why=_READS),
    _sign(_KERNEL, r"LINUX_VERSION_CODE\b", "LINUX_VERSION_CODE", why=_READS),
    _sign(_KERNEL, r"KERNEL_VERSION\s{0,2}\(", "KERNEL_VERSION", why=_READS),
    _sign(_KERNEL, r"/proc/(?:version|sys/kernel/(?:osrelease|version))\b", why=_READS),
)


def find_conditions(data: bytes) -> Iterator[Found]:
    """Find what asks for a CPU or a kernel.

    Yields: each condition once for each way of asking, where it is first met.
    """
    for sign in _SIGNS:
        seen: set[str] = set()
        for match in sign.pattern.finditer(data):
            condition = _condition(sign, match)
            if condition not in seen:
                seen.add(condition)
                why = f"{sign.why} {condition}"
                yield Found(sign.kind, why, condition=condition, offset=match.start())


def _condition(sign: _Sign, match: re.Match[bytes]) -> str:
    """Return the condition; features are spelled as QEMU does where that is all there is to it."""
    told = match[sign.pattern.groups].decode("ascii", "replace")
    if sign.kind == _KERNEL:
        return sign.condition or told
    return sign.condition or told.lower().replace("sse4_", "sse4.")


# Dates as people and programs write them, found in a line of text.
#
# Where no zone is written, UTC is meant: a hint need not be right to the hour, and probes tell. All
# patterns are bounded, so that no line takes longer than its length.
#
# References: ISO 8601; RFC 5322, 3.3 (mail); RFC 9110, 5.6.7 (HTTP, with the old forms of RFC 850
# and asctime); RFC 5280, 4.1.2.5 (UTCTime, GeneralizedTime); openssl-x509(1) (``notAfter``).

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

    Yields: form by form; what is no date of the calendar or out of an instant's range is left out.
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

    Yields: from 2001 to 2128; whether the number is a time at all is for the caller to judge.
    """
    for match in _EPOCH_SECONDS.finditer(line):
        number = int(match[1])
        seconds = number // 1000 if len(match[1]) == _MILLISECONDS else number
        at = to_instant(seconds)
        if at is not None:
            yield WrittenDate(at, match[1], is_day=False)


def to_instant(seconds: int) -> datetime | None:
    """Turn seconds since 1970 into an instant."""
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


# Dates and seconds since 1970 that are written in source text.
#
# Text is mostly something else, so that each form is looked for by a few fixed bytes of it first,
# and only what stands around them is read in full.

_CODE = r"(?:c|cc|cpp|h|hpp|py|pyx|rs|go|js|ts|java|rb|pl|pm|sh|php|json|toml|ya?ml)"
_QUIET = re.compile(
    rf"(?!.*\.{_CODE}$)(?:change|news|history|release|whatsnew|what.?s.?new|authors|contributors"
    r"|thanks|copying|copyright|licen[cs]e)|(?:pkg-info|metadata)$|package-lock\.json$"
    r"|.*\.(?:po|pot|mo|min\.js|min\.css|map|lock|changes|dsc|svg)(?:\.gz)?$",
    re.IGNORECASE,
)
_ABOUT_TIME = re.compile(
    r"expir|(?<![a-z])exp(?![a-z])|valid|until|not.?(?:after|before)|time|date|epoch|deadline"
    r"|cookie|ttl|since|utc|gmt",
    re.IGNORECASE,
)
_COPYRIGHT = re.compile(r"copyright|\(c\)|©|all rights", re.IGNORECASE)
_SHORT_YEARS = (rb"Z(?<=[0-9]{12}Z)", rb" GMT(?<=:[0-9]{2} GMT)")
_TEN_DIGITS = 10**9
_BEFORE = 200
_MOST_PLACES = 20_000


def is_quiet(path: str) -> bool:
    """Tell whether a file has many dates on which nothing depends: changelogs, licences and such.

    Parameters
    ----------
    path : str
        Its path.

    Returns
    -------
    bool
        Whether it is one, by its name.
    """
    return _QUIET.match(path.rpartition("/")[2].rpartition("!")[2]) is not None


def find_constants(
    data: bytes, first: datetime, last: datetime, reach: int, report: Report
) -> Iterator[Found]:
    """Find dates and seconds since 1970 in text.

    `first`, `last`: aware; what lies outside is left out.
    `reach`: how many bytes of a line are looked at from where something looks like a date.
    `report`: is told what is left out.
    Yields: in the order in which they are written, nearly: line by line.
    """
    done = count = 0
    for offset in _places(data, first, last):
        if offset < done:
            continue
        count += 1
        if count > _MOST_PLACES:
            report(offset, f"over {_MOST_PLACES} lines look like dates; the rest is left out")
            return
        lowest = max(done, offset - _BEFORE)
        start = data.rfind(b"\n", lowest, offset) + 1 or lowest
        end = data.find(b"\n", offset, offset + reach)
        done = end if end >= 0 else min(len(data), offset + reach)
        line = data[start:done].decode("utf-8", "replace")
        for kind, date in _on_line(line):
            if first <= date.at <= last:
                yield Found(kind, f"written there: {date.text}", date.at, offset=offset)


def _places(data: bytes, first: datetime, last: datetime) -> Iterator[int]:
    """Iterate over the offsets of what looks like a date; each pattern begins with fixed bytes."""
    centuries = range(first.year // 100, last.year // 100 + 1)
    digits = range(int(first.timestamp()) // _TEN_DIGITS, int(last.timestamp()) // _TEN_DIGITS + 1)
    patterns = [
        *_SHORT_YEARS,
        *(rb"%d(?<![0-9A-Fa-fx]%d)[0-9]{2}" % (century, century) for century in centuries),
        *(rb"%d(?<![0-9A-Za-z_.]%d)[0-9]{9}" % (digit, digit) for digit in digits if digit),
    ]
    found = [re.finditer(pattern, data) for pattern in patterns]
    return heapq.merge(*((match.start() for match in each) for each in found))


def _on_line(line: str) -> Iterator[tuple[HintKind, WrittenDate]]:
    if _COPYRIGHT.search(line):
        return
    for date in find_dates(line):
        yield HintKind.DATE_CONSTANT, date
    if _ABOUT_TIME.search(line):
        for date in find_epochs(line):
            yield HintKind.EPOCH_CONSTANT, date


# Dates in what a failing step printed.

_DAY = timedelta(days=1)
_YEAR = r"((?:19|20|21)\d\d)"
_YEARS = re.compile(
    rf"(?<![\w.-]){_YEAR}\s{{0,2}}(?:,|\.\.\.?|-|to|and|<=?)\s{{0,2}}{_YEAR}(?![\w-])"
)
_LONE_YEAR = re.compile(rf"(?<![\w./:-]){_YEAR}(?![\w/:-]|\.\d)")
_ABOUT_YEARS = re.compile(r"between|range|from|within|year|expect|valid|\[", re.IGNORECASE)
_ABOUT_A_YEAR = re.compile(r"year|expect", re.IGNORECASE)
_NO_YEARS = re.compile(r"copyright|\(c\)|©", re.IGNORECASE)


def text_hints(
    text: str, *, path: str = "", kind: HintKind = HintKind.OUTPUT_DATE
) -> tuple[Hint, ...]:
    """Return the instants that a step's output names.

    Dates with and without a time of day, seconds and milliseconds since 1970, and years where a
    line speaks of years or ranges. A day gives its first second and that of the next day, a year
    likewise: the end of "valid until 2021" is the turn of that year.

    Parameters
    ----------
    text : str
        A log, or a part of it.
    path : str
        Name of the log, for `Hint.path`.
    kind : HintKind
        What the hints are to be called.

    Returns
    -------
    tuple of Hint
        In the order in which they are printed, each instant once.
    """
    found: dict[datetime, Hint] = {}
    for number, line in enumerate(text.splitlines(), 1):
        for at, why in _instants(line):
            if at not in found and at >= EARLIEST:
                found[at] = Hint(kind=kind, path=path, line=number, instant=at, why=why)
    return tuple(found.values())


def _instants(line: str) -> Iterator[tuple[datetime, str]]:
    dates = [*find_dates(line), *find_epochs(line)]
    for date in dates:
        yield date.at, f"the output says {date.text}"
        if date.is_day and (end := _next(date)) is not None:
            yield end, f"the output says {date.text}, which ends then"
    if not dates and not _NO_YEARS.search(line):
        yield from _years(line)


def _next(date: WrittenDate) -> datetime | None:
    try:
        return date.at + _DAY
    except OverflowError:
        return None


def _years(line: str) -> Iterator[tuple[datetime, str]]:
    pairs = [*_YEARS.finditer(line)] if _ABOUT_YEARS.search(line) else []
    for match in pairs:
        said = f"the output says {match[0]}"
        for year in (int(match[1]), int(match[2]), int(match[2]) + 1):
            yield datetime(year, 1, 1, tzinfo=UTC), f"{said}: the year {year} begins"
    for match in _LONE_YEAR.finditer(line) if not pairs and _ABOUT_A_YEAR.search(line) else ():
        for year in (int(match[1]), int(match[1]) + 1):
            yield (
                datetime(year, 1, 1, tzinfo=UTC),
                f"the output says {match[0]}: the year {year} begins",
            )
