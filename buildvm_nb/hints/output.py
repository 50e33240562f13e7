"""Dates in what a failing step printed."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from buildvm_nb.hints.dates import WrittenDate, find_dates, find_epochs
from buildvm_nb.model.hint import Hint, HintKind
from buildvm_nb.model.instants import EARLIEST

__all__ = ["text_hints"]

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
