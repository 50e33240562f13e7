"""Dates and seconds since 1970 that are written in source text.

Text is mostly something else, so that each form is looked for by a few fixed bytes of it first,
and only what stands around them is read in full.
"""

import heapq
import re
from collections.abc import Iterator
from datetime import datetime

from buildvm_nb.hints.dates import WrittenDate, find_dates, find_epochs
from buildvm_nb.hints.found import Found, Report
from buildvm_nb.model.hint import HintKind

__all__ = ["find_constants", "is_quiet"]

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

    Parameters
    ----------
    data : bytes
        Text.
    first, last : datetime
        Aware; what lies outside is left out.
    reach : int
        How many bytes of a line are looked at from where something looks like a date.
    report : callable
        Is told what is left out.

    Yields
    ------
    Found
        In the order in which they are written, nearly: line by line.
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
