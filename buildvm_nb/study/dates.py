"""The date axis: at which seconds a case's verdict changes, and which hint may be the cause."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from math import ceil
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from debian.deb822 import Packages

from buildvm_nb.errors import BuildVMError
from buildvm_nb.hints import calendar_hints, midnights, scan_tree, text_hints, year_turns
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.process import find_tool, run_tool
from buildvm_nb.image import build_image
from buildvm_nb.model.finding import (
    VALIDITIES,
    VALIDITY_BEGINS,
    VALIDITY_ENDS,
    Axis,
    Finding,
    FindingKind,
    Hint,
    HintKind,
)
from buildvm_nb.model.instants import LATEST_CLOCK, format_instant
from buildvm_nb.model.machine import ImageSpec, MachineSpec
from buildvm_nb.model.outcome import Outcome, Probing, Verdict
from buildvm_nb.search import (
    CHECKS,
    QUICK_CHECKS,
    US_RULES_SINCE,
    Answer,
    Assumption,
    AssumptionKind,
    ChanceChange,
    Disagreement,
    Feature,
    Plan,
    Probe,
    Rhythm,
    Rule,
    State,
    Survey,
    Thoroughness,
    Transition,
    coin_confidence,
    search_dates,
)
from buildvm_nb.study.laboratory import Laboratory, Order
from buildvm_nb.study.prepare import split_steps
from buildvm_nb.study.questions import Effort
from buildvm_nb.study.run import STEP_MARK

__all__ = [
    "DateRange",
    "DateStudy",
    "Prober",
    "collect_hints",
    "dates_in_logs",
    "explain_boundary",
    "hint_within",
    "position",
    "rule_text",
    "rule_words",
    "state_of",
    "study_dates",
    "unexplained_finding",
    "validities_among",
    "when",
    "with_rule",
    "worth_revealing",
]

# Which hint may be the cause of a change on the date axis.

_RANKS = (
    VALIDITIES,
    {HintKind.OUTPUT_DATE},
    {HintKind.DATE_CONSTANT, HintKind.EPOCH_CONSTANT},
    {HintKind.ROLLOVER},
    {HintKind.CALENDAR},
)
_STRONG = VALIDITIES | {HintKind.ROLLOVER}


def explain_boundary(hints: Iterable[Hint], first_after: int, *, becomes_good: bool) -> Hint | None:
    """Find what says that something changes at just this second.

    `first_after`: first second of the new state, since 1970.
    Returns: the most telling one: a validity that begins where the case begins to pass or ends
    where it begins to fail, before dates in logs and in sources, overflows, and the calendar. None
    where nothing says so.
    """
    matching = []
    for second, hint in _fitting(hints, becomes_good=becomes_good):
        # the end of a validity may be its last good second or the first bad one
        if second == first_after or (hint.kind in VALIDITY_ENDS and second == first_after - 1):
            matching.append(hint)
    return min(matching, key=_telling, default=None)


def hint_within(
    hints: Iterable[Hint], last_before: int, first_after: int, *, becomes_good: bool
) -> Hint | None:
    """Find what would explain a change that was not located to the second.

    `last_before`, `first_after`: between which seconds it lies, since 1970.
    Returns: a validity or an overflow, where all that lie in between are of one instant.
    """
    inside = [
        hint
        for second, hint in _fitting(hints, becomes_good=becomes_good)
        if last_before <= second <= first_after and hint.kind in _STRONG
    ]
    is_one = len({hint.instant for hint in inside}) == 1
    return min(inside, key=_telling) if is_one else None


def _fitting(hints: Iterable[Hint], *, becomes_good: bool) -> Iterator[tuple[int, Hint]]:
    """Leave out validities that begin where it should end, and the other way round."""
    unfitting = VALIDITY_ENDS if becomes_good else VALIDITY_BEGINS
    for hint in hints:
        is_pivot = hint.kind is HintKind.ROLLOVER and _is_new_year(hint)
        if hint.instant is not None and hint.kind not in unfitting and not is_pivot:
            yield int(hint.instant.timestamp()), hint


def _is_new_year(hint: Hint) -> bool:
    """Tell whether it is a pivot of short years: tables of years end on that day as well."""
    at = hint.instant
    return at is not None and (at.month, at.day, at.hour, at.minute, at.second) == (1, 1, 0, 0, 0)


def _telling(hint: Hint) -> tuple[int, bool, int, str]:
    rank = next((number for number, kinds in enumerate(_RANKS) if hint.kind in kinds), len(_RANKS))
    return rank, "test" not in hint.path, len(hint.path), hint.path


# Hints for a case: read from its sources, from the packages of its image and from failing logs.

_KIND = "package-hints"
_RECIPE = 1


def collect_hints(lab: Laboratory, image: ImageSpec, first: datetime, last: datetime) -> list[Hint]:
    """Read all hints on dates for a case, those of validities also after the last date."""
    places = [entry.path for entry in lab.case.inputs]
    if lab.case.source:
        places.insert(0, "")
    found: list[Hint] = []
    main = lab.inputs.main
    own = main.record.dated_at if main else None  # what was to come then may be long past
    for place, fetched in zip(places, lab.inputs.fetched, strict=True):
        with lab.progress.task(f"look for dates in {fetched.record.name}"):
            prefix = f"{place}/" if place else ""
            found += (
                hint.model_copy(update={"path": f"{prefix}{hint.path}"})
                for hint in scan_tree(fetched.tree, around=own)
            )
    if image.packages:
        with lab.progress.task("look for dates in the image's packages"):
            found += _in_packages(image, lab.cache)
    found += calendar_hints(first, last)
    return [
        hint
        for hint in found
        if hint.instant
        and (first <= hint.instant <= last or (hint.kind in VALIDITIES and hint.instant > last))
    ]


def dates_in_logs(texts: Iterable[str]) -> list[Hint]:
    """Read the dates that failing steps printed."""
    printed = (
        "\n".join(line for line in text.splitlines() if not line.startswith(STEP_MARK))
        for text in texts
    )
    return [hint for text in printed for hint in text_hints(text)]


def validities_among(hints: Iterable[Hint], named: Iterable[Hint]) -> list[datetime]:
    """Choose the hints that a failing run named itself.

    Returns: ends and beginnings of validities that are among the instants named, in order.
    """
    said = {hint.instant for hint in named}
    found = {h.instant for h in hints if h.kind in VALIDITIES and h.instant in said}
    return sorted(instant for instant in found if instant)


def worth_revealing(
    hints: Iterable[Hint], around: datetime, beside: Iterable[str] = ()
) -> list[datetime]:
    """Choose the hints behind which a short window may begin.

    `beside`: directories of what the case only uses: what ends there is seldom what it depends on.
    Returns: ends and beginnings of validities, the nearest first. What an overflow breaks stays
    broken, so that the scan sees it.
    """
    others = tuple(f"{place}/" for place in beside)
    instants = {
        hint.instant
        for hint in hints
        if hint.instant and hint.kind in VALIDITIES and not hint.path.startswith(others)
    }
    return sorted(instants, key=lambda instant: abs(instant - around))


def _in_packages(image: ImageSpec, cache: Cache) -> list[Hint]:
    """Look through the packages that an image was asked to have, once for each image."""
    built = build_image(image, cache)
    names = sorted(package.split("=", maxsplit=1)[0] for package in image.packages)

    def make(work: Path) -> dict[str, Any]:
        found = _scan_packages(built.path, names, work)
        return {"hints": [hint.model_dump(mode="json") for hint in found]}

    recipe = {"recipe": _RECIPE, "image": built.digest, "packages": names}
    place = cache.entry(_KIND, recipe, make)
    return [Hint.model_validate(hint) for hint in cache.record(place)["facts"]["hints"]]


def _scan_packages(root: Path, names: list[str], work: Path) -> Iterator[Hint]:
    with TemporaryDirectory(prefix="packages-", dir=work) as scratch:
        listed = Path(scratch) / "listed"
        tree = Path(scratch) / "tree"
        listed.write_text("\n".join(_files(root, names)))
        unpack = [find_tool("unsquashfs"), "-quiet", "-no-progress", "-no-xattrs", "-force"]
        try:
            run_tool([*unpack, "-dest", tree, "-ef", listed, root])
        except BuildVMError:
            return  # hints are a help, no more
        yield from scan_tree(tree)


def _files(root: Path, packages: list[str]) -> Iterator[str]:
    """Name the files of packages and of those that they depend on directly; no directories."""
    for package in _with_dependencies(root, packages):
        for name in (f"{package}.list", f"{package}:amd64.list"):
            paths = _read(root, f"var/lib/dpkg/info/{name}").splitlines()
            parents = {str(PurePosixPath(path).parent) for path in paths}
            yield from (path.lstrip("/") for path in paths if path not in parents and path != "/.")


def _with_dependencies(root: Path, packages: list[str]) -> list[str]:
    wanted = set(packages)
    status = _read(root, "var/lib/dpkg/status")
    for paragraph in Packages.iter_paragraphs(status, use_apt_pkg=False):
        if paragraph["Package"] in packages:
            groups = paragraph.relations["depends"] or ()
            wanted |= {alternative["name"] for group in groups for alternative in group}
    return sorted(wanted)


def _read(root: Path, name: str) -> str:
    try:
        return run_tool([find_tool("unsquashfs"), "-cat", root, name]).decode(errors="replace")
    except BuildVMError:
        return ""  # hints are a help, no more


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_S = 86_400
_SCAN_STEP_S = 5 * 365 * 86_400
"""Distance of the coarse scan's probes; what is shorter needs a hint to be seen."""
_SCAN_PARTS = 7
"""Into so many parts a range is divided at most, however long it is."""
_MONTH_S = 28 * 86_400 + 5 * 3600
"""A little more than four weeks, so that weekdays and hours change."""
_MONTHS = 66
"""Five years."""
_HALF_YEAR_S = 182 * 86_400 + 7 * 3600
_HALVES = 10
_REVEAL = 6
"""Hints that are probed for windows between the scan's probes, at most."""
_REVEAL_ALL = 60
_PLACES = {Effort.QUICK: 0, Effort.NORMAL: 58, Effort.THOROUGH: 0}
"""So many dates are looked at where nothing differs, beside the runs of all steps."""
_HELD_WITHIN_S = 1.0
_BAD = frozenset({Verdict.FAILED, Verdict.CRASHED, Verdict.TIMEOUT})


@dataclass(frozen=True, kw_only=True)
class DateRange:
    """What to search, and how hard."""

    first: datetime
    last: datetime
    hints: Sequence[datetime] = ()
    """What is tried first as a boundary."""
    likely: Sequence[datetime] = ()
    """Those of them that a failing run named itself: tried before all others."""
    constants: Sequence[datetime] = ()
    """What is tried next: there are many dates in sources, and most mean nothing."""
    rollovers: Sequence[datetime] = ()
    """What is tried after those: they are there whatever the source."""
    behind: Sequence[datetime] = ()
    """Those of them behind which a short window may begin, the most promising first."""
    resolution_s: int = 1
    repeats: int = 2
    near: datetime | None = None
    """Around which rules of the calendar are looked for first; None: the beginning."""
    today: datetime | None = None
    """Around which each year is looked at where the effort is thorough."""
    effort: Effort = Effort.NORMAL


@dataclass(kw_only=True)
class DateStudy:
    """What the search along the date axis found."""

    survey: Survey
    outcomes: dict[Probe, Outcome] = field(default_factory=dict)
    rule: Rule | None = None
    """By which days or hours fail, again and again."""
    unexplained: tuple[int, ...] = ()
    """Positions that fail, as neither windows nor rules explain."""
    change: ChanceChange | None = None
    """Of how often it fails, where it also fails by chance."""
    is_open: bool = False
    """Whether the budget ended before the changes could be told from a window, a rule or chance."""
    covered: tuple[str, ...] = ()
    """Features of the calendar that were met where it passes."""
    lacking: tuple[str, ...] = ()
    """Those that were not."""
    is_forked: bool
    """Whether prepare and build ran once, at the first date, and tests in forks."""

    @property
    def duration(self) -> int:
        """The longest time, in seconds, that a clock was seen to run on."""
        answers = [one for probe, one in self.survey.answers.items() if not probe.held]
        return max((answer.last - answer.first for answer in answers), default=0)

    def running(self) -> Iterator[tuple[Probe, Outcome, bool]]:
        """Iterate over runs whose clock went on, and whether the rule covers their middle."""
        half = self.duration // 2
        for probe, outcome in self.outcomes.items():
            if not probe.held:
                is_ruled = self.rule is not None and self.rule.covers(probe.at + half)
                yield probe, outcome, is_ruled


def position(instant: datetime) -> int:
    """Return an instant as the search counts: whole seconds since 1970.

    Returns: the second that it lies in.
    """
    return (instant - _EPOCH) // timedelta(seconds=1)


def when(at: int) -> datetime:
    """Return the instant of a position."""
    return _EPOCH + timedelta(seconds=at)


def state_of(outcome: Outcome) -> State:
    """Return what an outcome says about its case."""
    if outcome.verdict is Verdict.PASSED:
        return State.GOOD
    return State.BAD if outcome.verdict in _BAD else State.UNKNOWN


class Prober:
    """Puts a search's questions to machines: probes become orders, outcomes become answers.

    `prepared_at`: where machines are prepared that the test runs in forks of; None: all steps are
    run anew.
    """

    def __init__(self, lab: Laboratory, spec: MachineSpec, prepared_at: datetime | None) -> None:
        self._lab = lab
        self._spec = spec
        self._prepared_at = prepared_at
        _, after = split_steps(lab.case)
        steps = after if prepared_at else lab.case.steps
        self._names = {step.name for step in steps}

    def run(self, probes: Sequence[Probe]) -> dict[Probe, Outcome]:
        """Run probes, side by side where there are workers.

        Returns: in their order.
        """
        outcomes = self._lab.run([self._order(probe) for probe in probes])
        return dict(zip(probes, outcomes, strict=True))

    def answer(self, probe: Probe, outcome: Outcome) -> Answer:
        """Return what an outcome says, and about which stretch of the clock.

        Returns: UNKNOWN where the clock was not where it was meant to be.
        """
        state = state_of(outcome)
        if probe.held:
            drift_s = outcome.probing.drift_s
            is_held = drift_s is not None and drift_s < _HELD_WITHIN_S
            # a clock that stands still lets some software wait for ever
            is_sure = is_held and outcome.verdict is not Verdict.TIMEOUT
            known = state if is_sure else State.UNKNOWN
            return Answer(state=known, first=probe.at, last=probe.at)
        starts = [s.clock_started_at for s in outcome.steps if s.name in self._names]
        ends = [s.clock_ended_at for s in outcome.steps if s.name in self._names]
        first = min((position(at) for at in starts if at), default=probe.at)
        last = max((position(at) for at in ends if at), default=first)
        if last < first:  # the step set the clock back, or it wrapped
            return Answer(state=State.UNKNOWN, first=probe.at, last=probe.at)
        return Answer(state=state, first=first, last=last)

    def _order(self, probe: Probe) -> Order:
        spec = self._spec.model_copy(update={"date": when(probe.at)})
        probing = Probing(prepared_at=self._prepared_at, held=probe.held, attempt=probe.attempt)
        return Order(case=self._lab.case, machine=spec, probing=probing)


def study_dates(
    lab: Laboratory,
    spec: MachineSpec,
    span: DateRange,
    plain: Sequence[Outcome] = (),
) -> DateStudy:
    """Find all changes of the verdict in a range of dates.

    The test runs in forks of a machine that was prepared at the first date. Where that cannot be,
    or where preparing and building at the date itself makes a difference, every probe is a run of
    all steps.

    `plain`: runs of all steps in such a machine, at dates within the range.
    """
    builders = {step.name for step in split_steps(lab.case)[0]}
    is_quick = span.effort is Effort.QUICK
    if builders and not is_quick:  # a fork cannot tell whether they pass at its date
        ends = [spec.model_copy(update={"date": end}) for end in (span.first, span.last)]
        plain = [*plain, *lab.run([Order(case=lab.case, machine=end) for end in ends])]
    if not any(outcome.failing_step in builders for outcome in plain):
        study = _search(lab, spec, span, plain, is_forked=True)
        if study and all(_agrees(study, outcome) for outcome in plain):
            return study
    study = _search(lab, spec, span, plain, is_forked=False)
    if study is None:
        raise AssertionError("unreachable")
    return study


def _search(
    lab: Laboratory,
    spec: MachineSpec,
    span: DateRange,
    plain: Sequence[Outcome],
    *,
    is_forked: bool,
) -> DateStudy | None:
    """Search; None where the case cannot be prepared for forks."""
    prober = Prober(lab, spec, span.first if is_forked else None)
    dates = [position(outcome.machine.date) for outcome in plain]
    outcomes: dict[Probe, Outcome] = {}
    has_forks = is_forked and bool(split_steps(lab.case)[0])
    if not has_forks or span.effort is Effort.QUICK:
        outcomes = {
            Probe(at=at, attempt=outcome.probing.attempt): outcome
            for at, outcome in zip(dates, plain, strict=True)
        }
    if has_forks and _cannot_prepare(prober, dates[0] if dates else position(span.first)):
        return None
    known = {probe: prober.answer(probe, outcome) for probe, outcome in outcomes.items()}

    def ask(probes: Sequence[Probe]) -> list[Answer]:
        ran = prober.run(probes)
        outcomes.update(ran)
        return [prober.answer(probe, outcome) for probe, outcome in ran.items()]

    plan = _plan(span, dates, lab)
    is_quick = span.effort is Effort.QUICK
    near, today = position(span.near or span.first), position(span.today or span.last)
    how = Thoroughness(
        near=near,
        places=(near, today) if span.effort is Effort.THOROUGH else (near,),
        yearly=(near, today),
        covers=not is_quick,
        checks=QUICK_CHECKS if is_quick else CHECKS,
        places_asked=_PLACES[span.effort],
        latest=position(LATEST_CLOCK),
    )
    found = search_dates(ask, plan, known, how)
    survey = found.survey
    if survey.is_flaky and all(one.held for one in survey.disagreements):
        # not the software: it dislikes a clock that stands still, so do without
        running = {probe: answer for probe, answer in survey.answers.items() if not probe.held}
        found = search_dates(ask, replace(plan, can_hold=False), running, how)
        left_out = _left_out(survey.disagreements)
        survey = replace(found.survey, assumptions=(*found.survey.assumptions, left_out))
    return DateStudy(
        survey=survey,
        outcomes=outcomes,
        rule=found.rule,
        unexplained=found.unexplained,
        change=found.change,
        is_open=found.is_open,
        covered=found.covered,
        lacking=found.lacking,
        is_forked=is_forked,
    )


def _left_out(disagreements: Sequence[Disagreement]) -> Assumption:
    split = [one.at for one in disagreements]
    kind = AssumptionKind.HELD_DISAGREED
    return Assumption(kind=kind, first=min(split), last=max(split), step=0)


def _cannot_prepare(prober: Prober, at: int) -> bool:
    """Run one probe and tell whether its machine could not even be prepared."""
    [outcome] = prober.run([Probe(at=at)]).values()
    return outcome.verdict is Verdict.ERROR and outcome.failing_step is not None


def _plan(span: DateRange, dates: Sequence[int], lab: Laboratory) -> Plan:
    first, last = position(span.first), position(span.last)
    is_quick = span.effort is Effort.QUICK
    parts = min(max(1, ceil((last - first) / _SCAN_STEP_S)), _SCAN_PARTS)
    scan = [first + (last - first) * index // parts for index in range(1, parts)]
    if is_quick:
        scan = [] if dates else [first]
        scan.append(last)
    elif span.effort is Effort.THOROUGH:
        scan += _close_by(span)
    within = {position(hint) for hint in (*span.hints, *(span.constants if is_quick else ()))}
    return Plan(
        first=first,
        last=last,
        scan=[at for at in (*dates, *scan) if first <= at <= last],
        scan_ends=not is_quick,
        hints=sorted(at for at in within if first <= at <= last),
        likely=sorted(within if is_quick else {position(hint) for hint in span.likely}),
        rhythms=(_between(span.constants), _between(span.rollovers), year_turns, midnights),
        resolution=span.resolution_s,
        repeats=max(0, span.repeats - 1) if is_quick else span.repeats,  # both clocks say it once
        workers=lab.workers,
        behind=[position(hint) for hint in span.behind],
        reveal={Effort.QUICK: 2, Effort.NORMAL: _REVEAL, Effort.THOROUGH: _REVEAL_ALL}[span.effort],
    )


def _close_by(span: DateRange) -> list[int]:
    """Return a place of each month around the own date, and of each half year around today."""
    near = position(span.near or span.first)
    months = [near + number * _MONTH_S for number in range(-_MONTHS, _MONTHS + 1) if number]
    today = position(span.today or span.last)
    return months + [today + number * _HALF_YEAR_S for number in range(-_HALVES, _HALVES + 1)]


def _between(instants: Sequence[datetime]) -> Rhythm:
    """Return what tells which of some instants lie between two positions."""
    known = sorted({position(instant) for instant in instants})

    def between(low: int, high: int) -> Sequence[int]:
        return known[bisect_right(known, low) : bisect_right(known, high)]

    return between


def _agrees(study: DateStudy, plain: Outcome) -> bool:
    """Tell whether forks say at a date what a run of all steps says there."""
    at = position(plain.machine.date)
    states = {
        state_of(outcome)
        for probe, outcome in study.outcomes.items()
        if probe.at == at and not probe.held
    }
    return states <= {state_of(plain), State.UNKNOWN} or study.survey.is_flaky


# Recurring traps in words and as rules of RFC 5545.

_DAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_DAY_NAMES = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_RECURRING_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September"),
    *("October", "November", "December"),
)
_SUNDAYS = {
    **dict.fromkeys((Feature.EU_SUMMER, Feature.EU_SUMMER_DAYS), ((3, 25), (10, 25))),
    **dict.fromkeys((Feature.US_SUMMER, Feature.US_SUMMER_DAYS), ((3, 8), (11, 1))),
}
"""Month and earliest day of the Sundays on which summer time begins and ends."""
_CHANGES = {
    Feature.EU_CHANGE: {"begins": "BYMONTH=3;BYDAY=-1SU", "ends": "BYMONTH=10;BYDAY=-1SU"},
    Feature.US_CHANGE: {"begins": "BYMONTH=3;BYDAY=2SU", "ends": "BYMONTH=11;BYDAY=1SU"},
}
_BY_US_RULES = frozenset({Feature.US_SUMMER, Feature.US_SUMMER_DAYS, Feature.US_CHANGE})
_MOST_SHOWN = 6


def rule_text(rule: Rule) -> str:
    """Write a rule as RFC 5545 does.

    Returns: one line for each rule of which any matches, after a ``DTSTART`` where one is needed.
    Of summer time whole days are told, though it begins and ends in the night.
    """
    lines = [line for one in (rule, *rule.also) for line in _lines(one)]
    since = rule.since
    features = {one.feature for one in (rule, *rule.also)}
    if since is None and features & _BY_US_RULES:
        since = int(datetime(US_RULES_SINCE, 1, 1, tzinfo=UTC).timestamp())
    if not rule.shift_s and since is None:
        return "\n".join(lines)
    zone = ""
    if rule.shift_s:
        sign, minutes = "-" if rule.shift_s < 0 else "+", abs(rule.shift_s) // 60
        zone = f";TZID=UTC{sign}{minutes // 60:02}:{minutes % 60:02}"
    # always: from the midnight on before which no day of any zone reaches into 1970
    begins = -_DAY_S if since is None else since + rule.shift_s
    start = f"DTSTART{zone}:{when(begins):%Y%m%dT%H%M%S}"
    return "\n".join([start, *(f"RRULE:{line}" for line in lines)])


def rule_words(rule: Rule) -> str:
    """Say when something fails by a rule.

    For example ``on Mondays``.
    """
    told = " and ".join(_words(one.feature, sorted(one.values)) for one in (rule, *rule.also))
    if rule.shift_s:
        told += f", as days are counted {_hours(rule.shift_s)} UTC"
    if rule.since is not None:
        told += f", since {format_instant(when(rule.since))}"
    return told


def with_rule(study: DateStudy, base: Finding, found: Finding | None) -> Finding:
    """Conclude from a rule, and changes beside it."""
    rule = study.rule
    if rule is None:
        raise AssertionError("a recurring finding needs a rule")
    runs = list(study.running())
    told = [one for _, one, hit in runs if hit and state_of(one) is not State.UNKNOWN]
    failed = [one for one in told if state_of(one) is State.BAD]
    passed = [one for _, one, hit in runs if not hit and state_of(one) is State.GOOD]
    kept = found or base
    summary = (
        f"fails {rule_words(rule)}: {len(failed)} of {len(told)} runs then failed, "
        f"and {len(passed)} at other times passed"
    )
    good = next(iter(passed), None)
    machine = base.environment
    if machine is None or rule.covers(int(machine.date.timestamp())):
        machine = good.machine if good else None
    changes = {
        "kind": FindingKind.RECURRING,
        "axis": Axis.DATE,
        "recurs": rule_text(rule),
        "summary": "; ".join([summary, *([found.summary] if found else [])]),
        "failing_line": failed[0].evidence if failed else kept.failing_line,
        "environment": machine,
        "confidence": coin_confidence(min(len(failed), len(passed))),
    }
    return kept.model_copy(update=changes)


def unexplained_finding(study: DateStudy, base: Finding) -> Finding:
    """Conclude where it fails at dates that neither a window nor a rule explains."""
    dates = [format_instant(when(at)) for at in study.unexplained]
    shown = ", ".join(dates[:_MOST_SHOWN]) + (", …" if len(dates) > _MOST_SHOWN else "")
    failed = [one for one in study.outcomes.values() if state_of(one) is State.BAD]
    summary = _near_an_end(study, base) or (
        "passes at some dates and fails at others, by no rule of the calendar that was tried and "
        "in no window with ends"
    )
    summary += f": it failed at {shown}"
    changes = {
        "kind": FindingKind.UNDETERMINED,
        "axis": None,
        "summary": summary,
        "failing_line": failed[0].evidence if failed else "",
    }
    return base.model_copy(update=changes)


def _near_an_end(study: DateStudy, base: Finding) -> str:
    """Say of what fails only at one end of the range what was seen there; empty: it does not."""
    changes = study.survey.transitions
    first, last = base.studied_from, base.studied_until
    if not changes or first is None or last is None:
        return ""
    early, late = changes[0], changes[-1]
    why = "a window or a rule of the calendar would look the same"
    if late.after is State.BAD and min(study.unexplained) + study.duration > late.last_before:
        passing = (p.at for p, one in study.outcomes.items() if state_of(one) is State.GOOD)
        again = min((at for at in passing if at > late.first_after), default=None)
        since, left = _edge_words(late, late.first_after), position(last) - late.first_after
        told = f"fails from {since} on, {_distance(left)} before the end of the range"
        if again is not None:
            told += f", and passes again at {format_instant(when(again))}"
        year = max(last, last if again is None else when(again)).year + 2
        return f"{told}; {why}: widen the range (--to {year})"
    if early.before is State.BAD and max(study.unexplained) <= early.last_before:
        until, passed = _edge_words(early, early.last_before), early.last_before - position(first)
        told = f"fails up to {until}, {_distance(passed + 1)} after the beginning of the range"
        return f"{told}; {why}: widen the range (--from {first.year - 1})"
    return ""


def _edge_words(change: Transition, at: int) -> str:
    if change.is_exact:
        return format_instant(when(at))
    ends = (format_instant(when(one)) for one in (change.last_before, change.first_after))
    return f"a moment between {' and '.join(ends)}"


def _distance(seconds: int) -> str:
    size, unit = (_DAY_S, "day") if seconds > 3 * _DAY_S else (3600, "hour")
    number = round(seconds / size)
    return f"{number} {unit}{'' if number == 1 else 's'}"


def _lines(rule: Rule) -> Iterator[str]:
    values = sorted(rule.values)
    numbers = ",".join(map(str, values))
    plain = {
        Feature.MONTH: f"FREQ=DAILY;BYMONTH={numbers}",
        Feature.MONTHDAY: f"FREQ=MONTHLY;BYMONTHDAY={numbers}",
        Feature.FROM_END: f"FREQ=MONTHLY;BYMONTHDAY={numbers}",
        Feature.HOUR: f"FREQ=DAILY;BYHOUR={numbers}",
        Feature.WEEK: f"FREQ=YEARLY;BYWEEKNO=53;BYDAY={','.join(_DAYS)}",
        Feature.YEARDAY: "FREQ=YEARLY;BYYEARDAY=366",
    }
    if rule.feature in plain:
        yield plain[rule.feature]
        return
    match rule.feature:
        case Feature.WEEKDAY:
            yield f"FREQ=WEEKLY;BYDAY={','.join(_DAYS[value] for value in values)}"
        case Feature.DATE:
            for month, day in values:
                yield f"FREQ=YEARLY;BYMONTH={month};BYMONTHDAY={day}"
        case Feature.EU_CHANGE | Feature.US_CHANGE:
            for value in values:
                yield f"FREQ=YEARLY;{_CHANGES[rule.feature][value]}"
        case _:
            yield from _summer(rule.feature, is_summer=True in rule.values)


def _summer(feature: Feature, *, is_summer: bool) -> Iterator[str]:
    """Write the days of summer time, or the others: those after a Sunday differ by weekday."""
    (first, low), (last, high) = _SUNDAYS[feature]
    months = [m for m in range(1, 13) if (first < m < last) is is_summer and m not in {first, last}]
    yield f"FREQ=DAILY;BYMONTH={','.join(map(str, months))}"
    for month, earliest, is_after in ((first, low, is_summer), (last, high, not is_summer)):
        for weekday, name in enumerate(_DAYS):
            turn = earliest + (weekday + 1) % 7
            days = range(turn, 32) if is_after else range(1, turn)
            if days:
                listed = ",".join(map(str, days))
                yield f"FREQ=YEARLY;BYMONTH={month};BYDAY={name};BYMONTHDAY={listed}"


def _words(feature: Feature, values: Sequence[Any]) -> str:
    told: dict[Feature, Callable[[], str]] = {
        Feature.WEEKDAY: lambda: f"on {_listed(_DAY_NAMES[v] + 's' for v in values)}",
        Feature.MONTH: lambda: f"in {_listed(_RECURRING_MONTHS[v - 1] for v in values)}",
        Feature.MONTHDAY: lambda: f"on day {_listed(map(str, values))} of a month",
        Feature.FROM_END: lambda: (
            "on the last day of a month"
            if list(values) == [-1]
            else f"on day {_listed(map(str, values))} of a month, counted from its end"
        ),
        Feature.HOUR: lambda: f"in hour {_listed(map(str, values))} of a day (UTC)",
        Feature.WEEK: lambda: "in ISO week 53",
        Feature.YEARDAY: lambda: "on the 366th day of a year",
        Feature.DATE: lambda: (
            f"on {_listed(f'{day} {_RECURRING_MONTHS[month - 1]}' for month, day in values)}"
        ),
        Feature.EU_CHANGE: lambda: f"on the day on which the EU's summer time {_listed(values)}",
        Feature.US_CHANGE: lambda: f"on the day on which the US's summer time {_listed(values)}",
        Feature.EU_SUMMER: lambda: f"in {_season(values)} time by the rules of the EU",
        Feature.US_SUMMER: lambda: f"in {_season(values)} time by the rules of the US",
        Feature.EU_SUMMER_DAYS: lambda: f"on days of {_season(values)} time by the rules of the EU",
        Feature.US_SUMMER_DAYS: lambda: f"on days of {_season(values)} time by the rules of the US",
    }
    return told[feature]()


def _season(values: Sequence[bool]) -> str:
    return "summer" if True in values else "winter"


def _hours(shift_s: int) -> str:
    minutes = abs(shift_s) // 60
    return f"{minutes // 60}:{minutes % 60:02} {'east' if shift_s > 0 else 'west'} of"


def _listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
