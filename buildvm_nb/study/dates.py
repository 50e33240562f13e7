"""The date axis: at which seconds a case's verdict changes, asked of machines."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from math import ceil

from buildvm_nb.hints import midnights, year_turns
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome, Probing, Verdict
from buildvm_nb.search import (
    CHECKS,
    QUICK_CHECKS,
    Answer,
    Assumption,
    AssumptionKind,
    ChanceChange,
    Disagreement,
    Plan,
    Probe,
    Rhythm,
    Rule,
    State,
    Survey,
    Thoroughness,
    search_dates,
)
from buildvm_nb.study.keeping import split_steps
from buildvm_nb.study.laboratory import Laboratory
from buildvm_nb.study.probe import Order
from buildvm_nb.study.questions import Effort

__all__ = ["DateRange", "DateStudy", "Prober", "position", "state_of", "study_dates", "when"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
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


def position(instant: datetime) -> int:
    """Return an instant as the search counts: whole seconds since 1970.

    Parameters
    ----------
    instant : datetime
        Aware.

    Returns
    -------
    int
        The second that it lies in.
    """
    return (instant - _EPOCH) // timedelta(seconds=1)


def when(at: int) -> datetime:
    """Return the instant of a position.

    Parameters
    ----------
    at : int
        Seconds since 1970.

    Returns
    -------
    datetime
        Aware, UTC.
    """
    return _EPOCH + timedelta(seconds=at)


def state_of(outcome: Outcome) -> State:
    """Return what an outcome says about its case.

    Parameters
    ----------
    outcome : Outcome
        Of a run.

    Returns
    -------
    State
        UNKNOWN where it says nothing.
    """
    if outcome.verdict is Verdict.PASSED:
        return State.GOOD
    return State.BAD if outcome.verdict in _BAD else State.UNKNOWN


class Prober:
    """Puts a search's questions to machines: probes become orders, outcomes become answers.

    Parameters
    ----------
    lab : Laboratory
        Runs the case.
    spec : MachineSpec
        The machine; its date does not matter.
    prepared_at : datetime or None
        Where machines are prepared that the test runs in forks of; None: all steps are run anew.
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

        Parameters
        ----------
        probes : sequence of Probe
            Each once.

        Returns
        -------
        dict of Probe to Outcome
            In their order.

        Raises
        ------
        HostError
            If the executor breaks.
        CatalogError
            If an outcome cannot be recorded.
        """
        outcomes = self._lab.run([self._order(probe) for probe in probes])
        return dict(zip(probes, outcomes, strict=True))

    def answer(self, probe: Probe, outcome: Outcome) -> Answer:
        """Return what an outcome says, and about which stretch of the clock.

        Parameters
        ----------
        probe : Probe
            What was asked.
        outcome : Outcome
            What came of it.

        Returns
        -------
        Answer
            UNKNOWN where the clock was not where it was meant to be.
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

    Parameters
    ----------
    lab : Laboratory
        Runs the case.
    spec : MachineSpec
        The machine; its date does not matter.
    span : DateRange
        What to search.
    plain : sequence of Outcome
        Runs of all steps in such a machine, at dates within the range.

    Returns
    -------
    DateStudy
        With the outcomes behind each answer.

    Raises
    ------
    UsageError
        If a date is out of a guest's range.
    HostError
        If the executor breaks.
    CatalogError
        If an outcome cannot be recorded.
    """
    builders = {step.name for step in split_steps(lab.case)[0]}
    if builders:  # a fork cannot tell whether they pass at its date
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
    if not (is_forked and split_steps(lab.case)[0]):
        outcomes = {
            Probe(at=at, attempt=outcome.probing.attempt): outcome
            for at, outcome in zip(dates, plain, strict=True)
        }
    elif _cannot_prepare(prober, dates[0] if dates else position(span.first)):
        return None
    known = {probe: prober.answer(probe, outcome) for probe, outcome in outcomes.items()}

    def ask(probes: Sequence[Probe]) -> list[Answer]:
        ran = prober.run(probes)
        outcomes.update(ran)
        return [prober.answer(probe, outcome) for probe, outcome in ran.items()]

    plan = _plan(span, dates, lab)
    is_quick = span.effort is Effort.QUICK
    how = Thoroughness(
        near=position(span.near or span.first),
        covers=not is_quick,
        checks=QUICK_CHECKS if is_quick else CHECKS,
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
