"""Values along the axes of a study: as text, and the instants at which a forecast looks.

Every axis is a list with commas. Dates also have ranges, ``2018..2030/1Y``, both ends included;
CPUs have features, which begin with a sign or hold ``=`` and belong to the model before them, so
that ``Westmere,Haswell,-cx16`` is two CPUs; ``all`` names what there is.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from dateutil.relativedelta import relativedelta

from buildvm_nb.errors import UsageError
from buildvm_nb.model.finding import VALIDITY_ENDS, Hint, HintKind
from buildvm_nb.model.instants import LATEST_CLOCK, format_instant, now, parse_instant
from buildvm_nb.model.machine import CPU_MODELS, cpu_at

__all__ = [
    "CPU_SETS",
    "LONGEST_AXIS",
    "Schedule",
    "make_schedule",
    "months_after",
    "parse_commits",
    "parse_cores",
    "parse_cpus",
    "parse_dates",
    "parse_distance",
    "parse_kernels",
]

# When a forecast looks: where something ends, at round distances, and where counters overflow.

_HORIZONS = (6, 12, 24, 36, 60, 120, 180, 240, 360, 480, 600, 840, 1080, 1440, 1800, 2160)
"""Months."""
_TOGETHER = timedelta(minutes=10)
"""What ends within such a time of each other is looked at once."""
_NEAR = timedelta(days=30)
"""A round distance this near to another look is left out."""
_MOST_ENDS = 12
"""Looks at ends, the nearest first; what ends later is known to the search all the same."""
_SECOND = timedelta(seconds=1)
_DISTANCE = re.compile(r"([1-9]\d{0,4}) ?(y|years?|m|months?|w|weeks?|d|days?)", re.IGNORECASE)
_DISTANCES = "2y, 18m, 6w, 90d, a year (2040), 2040-01-01 or 2040-01-01T12:00:00Z"
_YEAR = 12


@dataclass(frozen=True, kw_only=True)
class Stop:
    """An instant to look at."""

    at: datetime
    why: str
    of_end: bool = False
    """Whether it is there because something ends."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The instants to look at."""

    stops: tuple[Stop, ...]
    """Ordered by time, both ends of the range included."""
    left_out: tuple[Hint, ...] = ()
    """Ends that are not looked at, because there are too many."""

    def without_ends_after(self, last: datetime) -> "Schedule":
        """Return the schedule without looks, later than an instant, at where something ends."""
        stops = tuple(stop for stop in self.stops if not (stop.of_end and stop.at > last))
        return replace(self, stops=stops)


def make_schedule(start: datetime, until: datetime, hints: Iterable[Hint]) -> Schedule:
    """Choose the instants to look at.

    Returns: just after each end of something, with one look for those that end together; where
    counters overflow; and at round distances from `start`, unless another look is near.
    """
    known = sorted(
        (hint for hint in hints if hint.instant and start < hint.instant < until),
        key=_scheduled_instant,
    )
    clusters = list(_together([hint for hint in known if hint.kind in VALIDITY_ENDS]))
    stops = [_after_all(cluster, until) for cluster in clusters[:_MOST_ENDS]]
    for hint in known:
        if hint.kind is HintKind.ROLLOVER and _scheduled_instant(hint) not in {
            stop.at for stop in stops
        }:
            stops.append(Stop(at=_scheduled_instant(hint), why=hint.why))
    stops += [Stop(at=start, why="today"), Stop(at=until, why="the end")]
    taken = [stop.at for stop in stops]
    for months in _HORIZONS:
        horizon = months_after(start, months)
        if horizon is not None and horizon < until and _is_far(horizon, taken):
            stops.append(Stop(at=horizon, why=f"+{_in_words(months)}"))
    left_out = tuple(hint for cluster in clusters[_MOST_ENDS:] for hint in cluster)
    return Schedule(stops=tuple(sorted(stops, key=lambda stop: stop.at)), left_out=left_out)


def months_after(start: datetime, months: int) -> datetime | None:
    """Return the instant some calendar months later.

    Returns: on the same day, or the last one of a shorter month; None: beyond a guest's clock.
    """
    at = _after(start, months, "M")
    return None if at is None or at > LATEST_CLOCK else at


def parse_distance(text: str, start: datetime) -> datetime:
    """Read how far to look.

    `text`: a distance such as ``2y``, ``18m``, ``6w`` or ``90d``, a year, or an instant.
    Returns: aware, later than `start`; a year means its first second.
    Raises `UsageError` if the text is none of these, not after `start`, or beyond a guest's clock.
    """
    text = text.strip()
    at: datetime | None
    if match := _DISTANCE.fullmatch(text):
        count, unit = int(match[1]), match[2][0].lower()
        if unit in "ym":
            at = months_after(start, count * _YEAR if unit == "y" else count)
        else:
            at = start + timedelta(days=count * (7 if unit == "w" else 1))
        if at is None or at > LATEST_CLOCK:
            last = format_instant(LATEST_CLOCK)
            raise UsageError(f"too far ahead: {text}; a guest's clock ends at {last}")
        return at
    if re.fullmatch(r"\d{4}", text):
        text = f"{text}-01-01"
    try:
        at = parse_instant(text, latest=LATEST_CLOCK)
    except UsageError as error:
        if "out of range" in error.message:
            raise
        raise UsageError(
            f"neither a distance nor a date: {text!r}; allowed: {_DISTANCES}"
        ) from error
    if at <= start:
        raise UsageError(f"not after {format_instant(start)}: {format_instant(at)}")
    return at


def _together(ends: list[Hint]) -> Iterator[list[Hint]]:
    """Group what ends within minutes."""
    cluster: list[Hint] = []
    for hint in ends:
        if cluster and _scheduled_instant(hint) - _scheduled_instant(cluster[-1]) > _TOGETHER:
            yield cluster
            cluster = []
        cluster.append(hint)
    if cluster:
        yield cluster


def _after_all(cluster: list[Hint], until: datetime) -> Stop:
    """Look when all has ended: an end may be the last good second or the first bad one."""
    last = cluster[-1]
    more = f", and {len(cluster) - 1} more" if len(cluster) > 1 else ""
    place = f" ({last.path})" if last.path else ""
    return Stop(
        at=min(_scheduled_instant(last) + _SECOND, until),
        why=f"{last.why}{place}{more}",
        of_end=True,
    )


def _is_far(at: datetime, others: Iterable[datetime]) -> bool:
    return all(abs(at - other) > _NEAR for other in others)


def _scheduled_instant(hint: Hint) -> datetime:
    if hint.instant is None:
        raise AssertionError("only hints with an instant get here")
    return hint.instant


def _in_words(months: int) -> str:
    if months % _YEAR:
        return f"{months} months"
    years = months // _YEAR
    return f"{years} year{'s' * (years > 1)}"


BY_YEAR = "x86-64-by-year"
"""Stands for one CPU per year: the one that a machine bought at its end would have had."""

CPU_SETS = frozenset({BY_YEAR, "all"})
"""Words that stand for several CPUs."""

LONGEST_AXIS = 100_000
"""Values that an axis can have."""

_ALL = "all"
_DATES = "2019-05-01, today, 2018..2030/1Y, 2020-01-01..2021-01-01/1M, /10D or /6H"
_UNITS = {"Y": "years", "M": "months", "W": "weeks", "D": "days", "H": "hours"}
_STEP = re.compile(r"([1-9]\d{0,5})([YMWDH])")
_MOST_CORES = 255
_COMMIT = re.compile(r"[^-\s\x00][^\s\x00]*")


def parse_dates(text: str) -> tuple[datetime, ...]:
    """Read dates: instants and ranges.

    `text`: a list with commas. Its parts are instants as of `parse_instant`, years (``2018``),
    months (``2018-05``), or ranges ``START..END/STEP`` with a step of years, months, weeks, days or
    hours: ``1Y``, ``3M``, ``2W``, ``10D``, ``6H``. A range holds its end where a step meets it;
    months are counted from its start, and one that is too short gives its last day.
    Raises `UsageError` if a part is none of these, a range runs backwards, or there are too many.
    """
    instants: set[datetime] = set()
    for part in _parts(text, "dates", _DATES):
        instants.update(_range(part) if ".." in part else (_instant(part),))
        if len(instants) > LONGEST_AXIS:
            raise UsageError(f"more than {LONGEST_AXIS:,} dates: {text}", hint="take longer steps")
    return tuple(sorted(instants))


def parse_cpus(text: str, known: Collection[str]) -> tuple[str, ...]:
    """Read CPU models.

    `text`: a list with commas of models, each followed by its features (``+x``, ``-x``, ``x=on``),
    ``x86-64-by-year`` or ``all``: every model with a date.
    Returns: in the order in which they were written, each once; sets are in the order of time.
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

    `text`: a list with commas of ``debian:SUITE`` and paths of directories with a kernel; ``all``
    stands for `known`.
    Returns: names as `MachineSpec` has them, in order, each once.
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

    `text`: a list with commas of numbers from 1 to 255.
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

    Returns: in order, each once.
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
    try:
        then: datetime = start + relativedelta(**{_UNITS[unit]: count})
    except (OverflowError, ValueError):
        return None
    return then


def _all_models() -> list[str]:
    return [model.name for model in CPU_MODELS]


def _models_by_year() -> list[str]:
    first, present = CPU_MODELS[0].since, now()
    ends = [first.replace(year=year, month=12, day=31) for year in range(first.year, present.year)]
    newest = max(model.qemu for model in CPU_MODELS)
    return [cpu_at(instant, qemu=newest).name for instant in [*ends, present]]
