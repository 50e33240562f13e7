"""The axes of a sweep, as text: dates, CPUs, kernels, cores and commits.

Every axis is a list with commas. Dates also have ranges, ``2018..2030/1Y``, both ends included;
CPUs have features, which begin with a sign or hold ``=`` and belong to the model before them, so
that ``Westmere,Haswell,-cx16`` is two CPUs; ``all`` names what there is.
"""

import re
from calendar import monthrange
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from buildvm_nb.errors import UsageError
from buildvm_nb.model.cpu import CPU_MODELS, cpu_at
from buildvm_nb.model.instants import LATEST_CLOCK, now, parse_instant

__all__ = [
    "BY_YEAR",
    "CPU_SETS",
    "LONGEST_AXIS",
    "parse_commits",
    "parse_cores",
    "parse_cpus",
    "parse_dates",
    "parse_kernels",
]

BY_YEAR = "x86-64-by-year"
"""Stands for one CPU per year: the one that a machine bought at its end would have had."""

CPU_SETS = frozenset({BY_YEAR, "all"})
"""Words that stand for several CPUs."""

LONGEST_AXIS = 100_000
"""Values that an axis can have."""

_ALL = "all"
_DATES = "2019-05-01, today, 2018..2030/1Y, 2020-01-01..2021-01-01/1M, /10D or /6H"
_STEP = re.compile(r"([1-9]\d{0,5})([YMWDH])")
_MOST_CORES = 255
_COMMIT = re.compile(r"[^-\s\x00][^\s\x00]*")


def parse_dates(text: str) -> tuple[datetime, ...]:
    """Read dates: instants and ranges.

    Parameters
    ----------
    text : str
        A list with commas. Its parts are instants as of `parse_instant`, years (``2018``), months
        (``2018-05``), or ranges ``START..END/STEP`` with a step of years, months, weeks, days or
        hours: ``1Y``, ``3M``, ``2W``, ``10D``, ``6H``. A range holds its end where a step meets it;
        months are counted from its start, and one that is too short gives its last day.

    Returns
    -------
    tuple of datetime
        Aware, in UTC, ascending, each once.

    Raises
    ------
    UsageError
        If a part is none of these, a range runs backwards, or there are too many.
    """
    instants: set[datetime] = set()
    for part in _parts(text, "dates", _DATES):
        instants.update(_range(part) if ".." in part else (_instant(part),))
        if len(instants) > LONGEST_AXIS:
            raise UsageError(f"more than {LONGEST_AXIS:,} dates: {text}", hint="take longer steps")
    return tuple(sorted(instants))


def parse_cpus(text: str, known: Collection[str]) -> tuple[str, ...]:
    """Read CPU models.

    Parameters
    ----------
    text : str
        A list with commas of models, each followed by its features (``+x``, ``-x``, ``x=on``),
        ``x86-64-by-year`` or ``all``: every model with a date.
    known : collection of str
        Models of the installed QEMU; ``all`` and ``x86-64-by-year`` leave out others.

    Returns
    -------
    tuple of str
        In the order in which they were written, each once; sets are in the order of time.

    Raises
    ------
    UsageError
        If a feature stands before any model.
    """
    chosen: list[str] = []
    may_change = False
    for part in _parts(text, "CPUs", f"Westmere, Haswell,-cx16, {BY_YEAR} or {_ALL}"):
        if part[0] in "+-" or "=" in part:
            if not may_change:
                raise UsageError(
                    f"a feature without a model before it: {part!r} in {text!r}; allowed: "
                    "MODEL,+FEATURE,-FEATURE"
                )
            chosen[-1] += f",{part}"
            continue
        sets: dict[str, Callable[[], Iterable[str]]] = {_ALL: _all_models, BY_YEAR: _models_by_year}
        may_change = part not in sets
        chosen += [part] if may_change else [name for name in sets[part]() if name in known]
    return tuple(dict.fromkeys(chosen))


def parse_kernels(text: str, known: Sequence[str]) -> tuple[str, ...]:
    """Read kernels.

    Parameters
    ----------
    text : str
        A list with commas of ``debian:SUITE`` and paths of directories with a kernel; ``all``
        stands for `known`.
    known : sequence of str
        Names of the kernels that there are.

    Returns
    -------
    tuple of str
        Names as `MachineSpec` has them, in order, each once.

    Raises
    ------
    UsageError
        If a part is no kernel's name.
    """
    chosen: list[str] = []
    for part in _parts(text, "kernels", "debian:SUITE, a directory's path, or all"):
        if part == _ALL:
            chosen += known
        elif "/" in part:
            chosen.append(str(Path(part).absolute()))
        elif part.startswith("debian:"):
            chosen.append(part)
        else:
            raise UsageError(
                f"unknown kernel: {part!r}; allowed: debian:SUITE, a directory's path, or {_ALL}",
                hint=f"did you mean debian:{part}? `buildvm kernels` lists them",
            )
    return tuple(dict.fromkeys(chosen))


def parse_cores(text: str) -> tuple[int, ...]:
    """Read numbers of virtual CPUs.

    Parameters
    ----------
    text : str
        A list with commas of numbers from 1 to 255.

    Returns
    -------
    tuple of int
        Ascending, each once.

    Raises
    ------
    UsageError
        If a part is no such number.
    """
    counts = set()
    for part in _parts(text, "cores", "1,2,4"):
        count = int(part) if re.fullmatch(r"[0-9]{1,3}", part) else 0
        if not 1 <= count <= _MOST_CORES:
            raise UsageError(f"not a number of cores: {part!r}; allowed: from 1 to {_MOST_CORES}")
        counts.add(count)
    return tuple(sorted(counts))


def parse_commits(text: str) -> tuple[str, ...]:
    """Read commits.

    Parameters
    ----------
    text : str
        A list with commas of commit ids, tags and branches.

    Returns
    -------
    tuple of str
        In order, each once.

    Raises
    ------
    UsageError
        If a part cannot be the name of a commit.
    """
    chosen = _parts(text, "commits", "commit ids, tags or branches")
    for part in chosen:
        if not _COMMIT.fullmatch(part):
            raise UsageError(f"not a commit: {part!r}; allowed: a commit id, tag or branch")
    return tuple(dict.fromkeys(chosen))


def _parts(text: str, what: str, allowed: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise UsageError(f"an empty place in the list of {what}: {text!r}; allowed: {allowed}")
    return parts


def _instant(text: str) -> datetime:
    if re.fullmatch(r"\d{4}(-\d{2})?", text):
        text = f"{text}-01-01" if "-" not in text else f"{text}-01"
    return parse_instant(text, latest=LATEST_CLOCK)


def _range(text: str) -> Iterator[datetime]:
    """Iterate over a range, one more than an axis can have at most."""
    ends, _, step = text.partition("/")
    first, _, last = (end.strip() for end in ends.partition(".."))
    match = _STEP.fullmatch(step.strip().upper())
    if not (first and last and match):
        what = "its step is" if first and last else "its ends are"
        raise UsageError(
            f"not a range of dates: {text!r}, {what} missing or wrong; allowed: {_DATES}"
        )
    start, end = _instant(first), _instant(last)
    if end < start:
        raise UsageError(f"a range of dates that runs backwards: {text}")
    count, unit = int(match[1]), match[2]
    for number in range(LONGEST_AXIS + 1):
        instant = _after(start, number * count, unit)
        if instant is None or instant > end:
            return
        yield instant


def _after(start: datetime, count: int, unit: str) -> datetime | None:
    """Return the instant so many units later; None: beyond the calendar."""
    months = {"Y": 12, "M": 1}.get(unit)
    try:
        if months is None:
            return start + count * timedelta(hours={"W": 168, "D": 24, "H": 1}[unit])
        year, month = divmod(start.year * 12 + start.month - 1 + count * months, 12)
        day = min(start.day, monthrange(year, month + 1)[1])
        return start.replace(year=year, month=month + 1, day=day)
    except (OverflowError, ValueError):
        return None


def _all_models() -> list[str]:
    return [model.name for model in CPU_MODELS]


def _models_by_year() -> list[str]:
    first, present = CPU_MODELS[0].since, now()
    ends = [first.replace(year=year, month=12, day=31) for year in range(first.year, present.year)]
    newest = max(model.qemu for model in CPU_MODELS)
    return [cpu_at(instant, qemu=newest).name for instant in [*ends, present]]
