"""A forecast: which day breaks what in a project, until a given one.

The project's own tests run at chosen instants of the years to come: just after each end of a
certificate, key or token in its tree, at round distances, and where counters of time overflow.
Each change is then located to the second, as a diagnosis does. Once one test fails, the whole
stays red and hides what breaks later; so each test that the runner names is followed by itself.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from buildvm_nb.errors import HostError, SourceError, UsageError
from buildvm_nb.hints import midnights, year_turns
from buildvm_nb.model.case import Case
from buildvm_nb.model.finding import (
    VALIDITY_ENDS,
    Axis,
    Change,
    ChangeKind,
    Finding,
    FindingKind,
    Forecast,
    ForecastStatus,
    Hint,
    HintKind,
    Look,
)
from buildvm_nb.model.instants import format_instant, next_within, now
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.model.value import steady
from buildvm_nb.search import (
    Answer,
    AssumptionKind,
    Plan,
    Probe,
    State,
    Survey,
    Transition,
    find_transitions,
)
from buildvm_nb.study.axes import Schedule, make_schedule
from buildvm_nb.study.conclusion import dates_finding, gaps_of, seen_so_far
from buildvm_nb.study.dates import (
    DateRange,
    DateStudy,
    Prober,
    collect_hints,
    dates_in_logs,
    explain_boundary,
    position,
    rule_text,
    rule_words,
    state_of,
    study_dates,
    when,
)
from buildvm_nb.study.evidence import failed_tests, failing_lines, section_of, stopped_early
from buildvm_nb.study.executors import Means
from buildvm_nb.study.laboratory import Laboratory, Order, open_laboratory
from buildvm_nb.study.questions import refuse_fixed
from buildvm_nb.study.run import log_header, machine_for

if TYPE_CHECKING:
    from buildvm_nb.catalog import Catalog

__all__ = [
    "Timeline",
    "forecast",
]

# A case's outcomes along the date axis, asked about the whole and about each of its tests.

Judge = Callable[[Outcome], State]
"""Says what an outcome means for what is asked about."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What the log of a run that did not pass says."""

    text: str
    """What the failing step printed."""
    tests: tuple[str, ...]
    """Names of the tests that failed; ``build (step)`` where it did not get as far as the tests."""
    is_whole: bool
    """Whether a test that is not named did not fail; else it may not have run at all."""


class Timeline:
    """The answers of a search along the date axis, and more of the same kind.

    `span`: first and last instant; where the study is forked, machines were prepared at the first.
    """

    def __init__(
        self,
        lab: Laboratory,
        spec: MachineSpec,
        study: DateStudy,
        span: tuple[datetime, datetime],
    ) -> None:
        self._answers = {
            probe: answer
            for probe, answer in study.survey.answers.items()
            if probe in study.outcomes
        }
        self.outcomes = {probe: study.outcomes[probe] for probe in self._answers}
        self.first, self.last = map(position, span)
        self._lab = lab
        self._prober = Prober(lab, spec, span[0] if study.is_forked else None)
        self._steps = [_step_name(step.name) for step in lab.case.steps if step.name != "test"]
        self._failures: dict[str, Failure] = {}

    def search(
        self,
        judge: Judge,
        *,
        hints: Sequence[datetime],
        scan: Sequence[datetime] = (),
        repeats: int = 2,
        budget: int | None = None,
    ) -> Survey:
        """Find all changes of what a judge says.

        `budget`: how many more answers to ask for; 0: conclude from those that there are.
        """
        within = sorted({position(hint) for hint in hints})
        plan = Plan(
            first=self.first,
            last=self.last,
            scan=[position(at) for at in scan],
            hints=[at for at in within if self.first <= at <= self.last],
            rhythms=(year_turns, midnights),
            repeats=repeats,
            workers=self._lab.workers,
            budget=budget,
            reveal=0,  # the schedule looks behind hints
        )

        def ask(probes: Sequence[Probe]) -> list[Answer]:
            self._run(probes)
            return [self._judged(probe, judge) for probe in probes]

        known = {probe: self._judged(probe, judge) for probe in self._answers}
        return find_transitions(ask, plan, known)

    def states(self, judge: Judge) -> tuple[State, ...]:
        """Return what a judge says to all answers, in an order that stays."""
        return tuple(self._judged(probe, judge).state for probe in self._answers)

    def failures(self) -> Iterator[tuple[Probe, Outcome, Failure]]:
        """Iterate over the runs that did not pass, ordered by their instants."""
        for probe, outcome in sorted(self.outcomes.items(), key=lambda entry: entry[0]):
            if self._answers[probe].state is State.BAD:
                yield probe, outcome, self.failure(outcome)

    def failure(self, outcome: Outcome) -> Failure:
        """Return what the log of a run that did not pass says."""
        if outcome.id not in self._failures:
            self._failures[outcome.id] = self._read(outcome)
        return self._failures[outcome.id]

    def judge_of(self, test: str) -> Judge:
        """Return what judges one test.

        `test`: its name, or that of a step before the test, as failures name it.
        Returns: GOOD where the whole passes or only others are named as failed, UNKNOWN where the
        test may not have run.
        """

        def judge(outcome: Outcome) -> State:
            state = state_of(outcome)
            if state is not State.BAD:
                return state
            failure = self.failure(outcome)
            if test in failure.tests:
                return State.BAD
            if test in self._steps:  # steps run in order, so it passed if a later one failed
                is_later = self._steps.index(test) < len(self._before(outcome))
                return State.GOOD if is_later else State.UNKNOWN
            return State.GOOD if failure.is_whole else State.UNKNOWN

        return judge

    def nearest(self, judge: Judge, at: int, state: State, *, is_after: bool) -> Outcome | None:
        """Return the outcome nearest to a position, on one side of it, that a judge gives a state.

        Parameters
        ----------
        judge : callable
            Says what an outcome means.
        at : int
            Seconds since 1970.
        state : State
            Which outcomes count.
        is_after : bool
            Whether to look from there on, or up to there.

        Returns
        -------
        Outcome or None
            None where there is none.
        """
        fitting = [
            (abs(probe.at - at), probe, outcome)
            for probe, outcome in self.outcomes.items()
            if (probe.at >= at if is_after else probe.at <= at)
            and self._judged(probe, judge).state is state
        ]
        return min(fitting, key=lambda found: found[:2])[2] if fitting else None

    def _judged(self, probe: Probe, judge: Judge) -> Answer:
        """Let a judge change the state of an answer that can be relied on."""
        answer = self._answers[probe]
        if answer.state is State.UNKNOWN:
            return answer
        return replace(answer, state=judge(self.outcomes[probe]))

    def _run(self, probes: Sequence[Probe]) -> None:
        missing = [probe for probe in probes if probe not in self._answers]
        for probe, outcome in self._prober.run(missing).items():
            self.outcomes[probe] = outcome
            self._answers[probe] = self._prober.answer(probe, outcome)

    def _read(self, outcome: Outcome) -> Failure:
        text = self._lab.log(outcome)
        for step in self._lab.case.steps:
            if step.name == outcome.failing_step:  # what it was told to do is no output of it
                text = text.rpartition(log_header(step))[2]
        if outcome.failing_step is not None and outcome.failing_step != "test":
            named = (_step_name(outcome.failing_step),)
            return Failure(text=text, tests=named, is_whole=False)
        tests = failed_tests(text)
        counts = [step.tests_run for step in outcome.steps if step.name == outcome.failing_step]
        usual = self._usual_count()
        is_short = bool(counts) and usual is not None and (counts[-1] or 0) < usual
        is_whole = (
            bool(tests)
            and outcome.verdict is Verdict.FAILED
            and not is_short
            and not stopped_early(text)
        )
        return Failure(text=text, tests=tests, is_whole=is_whole)

    def _before(self, outcome: Outcome) -> list[str]:
        """Return the steps that passed before the one that failed, as failures name them."""
        names = [step.name for step in self._lab.case.steps]
        failed = outcome.failing_step
        return self._steps[: names.index(failed)] if failed in names else []

    def _usual_count(self) -> int | None:
        """Return how many tests ran where all passed; None: the runner does not say."""
        counts = [
            outcome.steps[-1].tests_run
            for outcome in self.outcomes.values()
            if outcome.verdict is Verdict.PASSED and outcome.steps
        ]
        return max((count for count in counts if count is not None), default=None)


def _step_name(step: str) -> str:
    return f"{step} (step)"


# From surveys of the whole and of its tests to the changes that a forecast tells.

_DAY_S = 86_400
_MOST_SUSPECTS = 8
_MOST_REASONS = 4
"""With more changes of the failing line it says nothing: it holds a time or a number."""
_CHANGE_REPEATS = 1
"""Confirming runs for a test whose change does not change the verdict of the whole."""


@dataclass(frozen=True, kw_only=True)
class Track:
    """Something that passes or fails: the whole, or tests that no run tells apart."""

    tests: tuple[str, ...] = ()
    """Empty: the whole."""
    judge: Judge
    survey: Survey


@dataclass(kw_only=True)
class _Event:
    """Transitions of several tracks at the same time, in the same direction."""

    transition: Transition
    judge: Judge
    of_whole: bool
    tests: list[str] = field(default_factory=list)


def find_tracks(
    timeline: Timeline, hints: Sequence[Hint], runs: Iterable[int | None]
) -> Iterator[Track]:
    """Look at each test that is named as failed somewhere.

    `runs`: how many more runs each search may ask for, asked anew for each.
    """
    instants = [hint.instant for hint in hints if hint.instant]
    budgets = iter(runs)
    done: set[str] = set()
    while left := [test for test in _named(timeline) if test not in done]:
        judge = timeline.judge_of(left[0])
        survey = timeline.search(
            judge, hints=instants, repeats=_CHANGE_REPEATS, budget=next(budgets)
        )
        states = timeline.states(judge)
        alike = [test for test in left if timeline.states(timeline.judge_of(test)) == states]
        done.update(alike, left[:1])
        yield Track(tests=tuple(alike), judge=judge, survey=survey)


def tell_changes(
    timeline: Timeline, tracks: Sequence[Track], hints: Sequence[Hint]
) -> tuple[Change, ...]:
    """Put the changes of all tracks into one list.

    Returns: ordered by time; what changes at the same second in the same direction is one.
    """
    changes = [_change(timeline, event, hints) for event in _events(tracks)]
    if not any(track.tests for track in tracks):
        changes += _new_reasons(timeline, changes, hints)
    return tuple(sorted(changes, key=lambda change: (change.first_after, change.last_before)))


def tell_assumptions(tracks: Sequence[Track], schedule: Schedule) -> Iterator[str]:
    """Say what was taken for granted, to people who do not know how the search works."""
    whole = tracks[0].survey
    steps = [one.step for one in whole.assumptions if one.kind is AssumptionKind.NO_SHORT_WINDOW]
    if steps:
        days = max(steps) // _DAY_S
        yield (
            f"what breaks and heals again between two looks, at most {days} days apart, is not seen"
        )
    if schedule.left_out:
        yield (
            f"{len(schedule.left_out)} ends of certificates, keys and tokens were not looked at "
            "one by one; what they break for good is found all the same"
        )
    if whole.exhausted:
        yield "the budget of runs ended before the questions did"
    if any(track.survey.exhausted for track in tracks[1:]):
        yield "the runs for single tests ended before each of their changes was located"
    if whole.is_flaky:
        places = ", ".join(
            f"{format_instant(when(one.at))} ({one.counts.get(State.GOOD, 0)} of "
            f"{sum(one.counts.values())} passed)"
            for one in whole.disagreements
        )
        yield f"it does not always end alike: {places}"


def _named(timeline: Timeline) -> list[str]:
    """Return the names of failed tests, those that fail first in front."""
    return list(dict.fromkeys(t for _, _, failure in timeline.failures() for t in failure.tests))


def _events(tracks: Sequence[Track]) -> list[_Event]:
    events: list[_Event] = []
    for track in tracks:
        for transition in track.survey.transitions:
            if track.survey.is_flaky and not transition.is_exact:
                continue  # where the same run ends in two ways a bracket shows no change
            same = next((e for e in events if _coincide(e.transition, transition)), None)
            if same is None:
                same = _Event(transition=transition, judge=track.judge, of_whole=not track.tests)
                events.append(same)
            same.tests += track.tests
    return events


def _coincide(one: Transition, other: Transition) -> bool:
    """Tell whether two transitions are one, as far as is known."""
    if one.after is not other.after:
        return False
    if one.is_exact or other.is_exact:
        # a wide bracket around an exact change may be about something that this one hides
        return (one.last_before, one.first_after) == (other.last_before, other.first_after)
    return max(one.last_before, other.last_before) < min(one.first_after, other.first_after)


def _change(timeline: Timeline, event: _Event, hints: Sequence[Hint]) -> Change:
    found = event.transition
    heals = found.after is State.GOOD
    after = timeline.nearest(event.judge, found.first_after, found.after, is_after=True)
    before = timeline.nearest(event.judge, found.last_before, found.before, is_after=False)
    cause = None
    if found.is_exact and found.first_after - found.last_before == 1:
        cause = explain_boundary(hints, found.first_after, becomes_good=heals)
    return Change(
        kind=ChangeKind.HEALS if heals else ChangeKind.BREAKS,
        last_before=when(found.last_before),
        first_after=when(found.first_after),
        is_exact=found.is_exact,
        confirmed=found.confirmed,
        of_whole=event.of_whole,
        verdict=after.verdict if after else (Verdict.PASSED if heals else Verdict.FAILED),
        tests=tuple(dict.fromkeys(event.tests)),
        failing_line=_failing_line(timeline, event, before, after),
        cause=cause,
        suspects=_suspects(hints, found.last_before, found.first_after, known=cause),
        outcome=after.id if after else "",
    )


def _failing_line(
    timeline: Timeline, event: _Event, before: Outcome | None, after: Outcome | None
) -> str:
    """Return the line that tells the failing side from the other one."""
    heals = event.transition.after is State.GOOD
    bad, other = (before, after) if heals else (after, before)
    if bad is None:
        return ""
    if other is None or state_of(other) is not State.BAD:
        return bad.evidence
    text = timeline.failure(bad).text
    about = next(filter(None, (section_of(text, test) for test in event.tests)), "")
    return failing_lines(about) or bad.evidence


def _suspects(
    hints: Sequence[Hint], last_before: int, first_after: int, *, known: Hint | None = None
) -> tuple[Hint, ...]:
    inside = [
        hint
        for hint in hints
        if hint.instant
        and hint != known
        and (hint.kind in VALIDITY_ENDS or hint.kind is HintKind.ROLLOVER)
        and last_before <= position(hint.instant) <= first_after
    ]
    return tuple(dict.fromkeys(inside))[:_MOST_SUSPECTS]


def _new_reasons(
    timeline: Timeline, changes: Sequence[Change], hints: Sequence[Hint]
) -> list[Change]:
    """Tell where the failing line changes while it fails: all there is where no test is named."""
    found: list[Change] = []
    last: tuple[int, Outcome] | None = None
    for probe, outcome, _ in timeline.failures():
        if probe.held:
            continue
        if last and _reason(last[1]) != _reason(outcome):
            ends = (when(last[0]), when(probe.at))
            if not any(ends[0] <= c.last_before and c.first_after <= ends[1] for c in changes):
                found.append(
                    Change(
                        kind=ChangeKind.FAILS_OTHERWISE,
                        last_before=ends[0],
                        first_after=ends[1],
                        is_exact=False,
                        of_whole=False,
                        verdict=outcome.verdict,
                        failing_line=outcome.evidence,
                        suspects=_suspects(hints, last[0], probe.at),
                        outcome=outcome.id,
                    )
                )
        last = probe.at, outcome
    return found if len(found) <= _MOST_REASONS else []


def _reason(outcome: Outcome) -> tuple[str, ...]:
    # the dates of two runs differ, and so may every number that is made of them
    return outcome.verdict, outcome.reason, re.sub(r"\d+", "0", steady(outcome.evidence))


_REPEATS = 2
_RUNS_FOR_TESTS = 60
"""Guest runs, at most, to locate what breaks while the whole is red already."""


def forecast(
    case: Case,
    means: Means,
    *,
    until: datetime,
    start: datetime | None = None,
    budget: int | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Forecast:
    """Find out what in a project breaks between now and a day to come.

    Every outcome is recorded as it comes, so that a forecast that was interrupted goes on where it
    was. Where the whole breaks, a finding is recorded as well.

    `start`: aware; what counts as today. By default today's midnight, or the present minute where
    the project does not pass at midnight: its files may be younger.
    `budget`: guest runs at most.
    Returns: its status says whether the project is sound, breaks, or fails today already.
    Raises `HostError` if this host lacks something, or no machine gives a verdict on today.
    """
    refuse_fixed(overrides, ["date"], "a forecast")
    overrides = {name: value for name, value in (overrides or {}).items() if name != "date"}
    present = start or now()
    if until <= present:
        raise UsageError(
            f"the forecast ends before it begins: until {format_instant(until)}; allowed: after "
            f"{format_instant(present)}"
        )
    with open_laboratory(case, means, overrides, study="forecast", budget=budget) as lab:
        if overrides.get("accelerator") is None:
            cpu_matters = overrides.get("cpu") is not None
            overrides["accelerator"] = lab.accelerator(cpu_matters=cpu_matters)
        lab.have_ready(overrides)
        today = _run_today(lab, overrides, start)
        if state_of(today) is State.BAD:
            return _fails_today(lab, today, until)
        return _Forecasting(lab, means.catalog, today, until).run()


def _run_today(lab: Laboratory, overrides: Mapping[str, Any], start: datetime | None) -> Outcome:
    """Run all steps at the beginning of the range."""
    present = now().replace(second=0, microsecond=0)
    starts = [start] if start else [present.replace(hour=0, minute=0), present]
    for at in starts:
        spec = machine_for(lab.case, {**overrides, "date": at.replace(microsecond=0)}, None)
        [today] = lab.run([Order(case=lab.case, machine=spec)])
        if state_of(today) is State.GOOD:
            break
    if today.verdict is Verdict.UNAVAILABLE:
        raise SourceError(today.reason)
    if state_of(today) is State.UNKNOWN:
        raise HostError(f"no verdict on today: {today.reason}")
    return today


def _fails_today(lab: Laboratory, today: Outcome, until: datetime) -> Forecast:
    return Forecast(
        **_common(lab, today, until),
        status=ForecastStatus.FAILS_TODAY,
        today_line=today.evidence or today.reason,
    )


def _common(lab: Laboratory, today: Outcome, until: datetime) -> dict[str, Any]:
    """Return what is the same whatever comes of it."""
    return {
        "case": lab.case,
        "machine": today.machine,
        "start": today.machine.date,
        "until": until,
        "today": today.verdict,
        "today_outcome": today.id,
        "runs": lab.runs,
        "evidence": tuple(lab.evidence),
        "study": lab.study,
        "tool_version": version("buildvm-nb"),
    }


class _Forecasting:
    """A forecast under way, for a project that passes today."""

    def __init__(
        self,
        lab: Laboratory,
        catalog: "Catalog",
        today: Outcome,
        until: datetime,
    ) -> None:
        self.lab = lab
        self.catalog = catalog
        self.today = today
        self.start = today.machine.date
        self.until = until.replace(microsecond=0)
        self.hints: list[Hint] = []

    def run(self) -> Forecast:
        """Look, locate, follow the tests, conclude."""
        lab, spec = self.lab, self.today.machine
        self._add_hints(collect_hints(lab, spec.image, self.start, self.until))
        schedule = make_schedule(self.start, self.until, self._own_hints())
        span = DateRange(
            first=self.start,
            last=self.until,
            hints=self._instants(),
            repeats=_REPEATS,
            near=self.start,
        )
        study = study_dates(lab, spec, span, [self.today])
        if study.rule or study.unexplained:
            return self._recurring(study, schedule)
        timeline = Timeline(lab, spec, study, (self.start, self.until))
        failed = [outcome for _, outcome, _ in timeline.failures()]
        self._add_hints(dates_in_logs(map(lab.log, failed[:1] + failed[1:][-1:])))
        if study.survey.transitions and not any(f.tests for _, _, f in timeline.failures()):
            # without names of tests nothing is to be seen behind the first break but its reason
            schedule = schedule.without_ends_after(when(study.survey.transitions[0].first_after))
        whole = timeline.search(
            state_of,
            hints=self._instants(),
            scan=[stop.at for stop in schedule.stops],
            repeats=_REPEATS,
        )
        tracks = [Track(judge=state_of, survey=whole)]
        tracks += find_tracks(timeline, self.hints, self._budgets())
        return self._conclude(timeline, tracks, schedule, study)

    def _own_hints(self) -> list[Hint]:
        """Return the hints in the project itself; without a source its packages are the project."""
        lab, image = self.lab, self.today.machine.image
        if not lab.inputs.fetched or not image.packages:
            return self.hints
        bare = image.model_copy(update={"packages": ()})
        return collect_hints(lab, bare, self.start, self.until)

    def _add_hints(self, hints: Sequence[Hint]) -> None:
        self.hints += [
            hint
            for hint in hints
            if hint.kind is not HintKind.CALENDAR
            and hint.instant
            and self.start <= hint.instant <= self.until
        ]

    def _instants(self) -> list[datetime]:
        return [hint.instant for hint in self.hints if hint.instant]

    def _budgets(self) -> Iterator[int]:
        """Iterate over what is left of the runs for tests."""
        before = self.lab.runs
        while True:
            yield max(0, _RUNS_FOR_TESTS - (self.lab.runs - before))

    def _conclude(
        self, timeline: Timeline, tracks: Sequence[Track], schedule: Schedule, study: DateStudy
    ) -> Forecast:
        whole = tracks[0].survey
        changes = () if study.is_open else tell_changes(timeline, tracks, self.hints)
        breaks = [change for change in changes if change.kind is ChangeKind.BREAKS]
        looks = tuple(self._looks(timeline, schedule))
        status = ForecastStatus.BREAKS if breaks else ForecastStatus.SOUND
        gaps = gaps_of(self.lab.evidence.values(), self.lab.case)
        if study.is_open and (seen := seen_so_far(self.lab.evidence.values())):
            gaps = (*gaps, seen)
        if not breaks and (whole.is_flaky or whole.exhausted or gaps):
            status = ForecastStatus.UNDETERMINED
        sound = min((change.last_before for change in breaks), default=self.until)
        if study.change is None:  # else its counts tell more than a search that knows no chance
            study = replace(study, survey=whole, outcomes=timeline.outcomes)
        return Forecast(
            **_common(self.lab, self.today, self.until),
            status=status,
            changes=changes,
            sound_until=None if status is ForecastStatus.UNDETERMINED else sound,
            looks=looks,
            assumptions=(*gaps, *tell_assumptions(tracks, schedule)),
            unstable=tuple(
                test for track in tracks if track.survey.is_flaky for test in track.tests
            ),
            is_exhausted=whole.exhausted,
            finding=self._record(dates_finding(study, self.hints, self._base())),
        )

    def _recurring(self, study: DateStudy, schedule: Schedule) -> Forecast:
        """Conclude from what fails again and again: which test it is does not matter then."""
        found = dates_finding(study, self.hints, self._base())
        failed = next((o for o in study.outcomes.values() if state_of(o) is State.BAD), None)
        rule = study.rule
        changes: tuple[Change, ...] = ()
        if rule and (first := next_within(rule_text(rule), self.start)) and first <= self.until:
            changes = (
                Change(
                    kind=ChangeKind.BREAKS,
                    last_before=first - timedelta(seconds=1),
                    first_after=first,
                    is_exact=True,
                    confirmed=rule.confirmed,
                    of_whole=True,
                    verdict=failed.verdict if failed else Verdict.FAILED,
                    failing_line=failed.evidence if failed else "",
                    outcome=failed.id if failed else "",
                ),
            )
        said = [f"it fails {rule_words(rule)}, and that is the first time"] if rule else []
        if found and study.unexplained:
            said.append(found.summary)
        return Forecast(
            **_common(self.lab, self.today, self.until),
            status=ForecastStatus.BREAKS if changes else ForecastStatus.UNDETERMINED,
            changes=changes,
            sound_until=changes[0].last_before if changes else None,
            looks=tuple(
                Look(at=stop.at, why=stop.why, verdict=None, failed_tests=0)
                for stop in schedule.stops
            ),
            assumptions=(*gaps_of(self.lab.evidence.values(), self.lab.case), *said),
            is_exhausted=study.survey.exhausted,
            finding=self._record(found),
        )

    def _looks(self, timeline: Timeline, schedule: Schedule) -> Iterator[Look]:
        for stop in schedule.stops:
            outcome = timeline.outcomes.get(Probe(at=position(stop.at)))
            failed = outcome is not None and state_of(outcome) is State.BAD
            yield Look(
                at=stop.at,
                why=stop.why,
                verdict=outcome.verdict if outcome else None,
                failed_tests=len(timeline.failure(outcome).tests) if outcome and failed else 0,
            )

    def _base(self) -> Finding:
        return Finding(
            case=self.lab.case,
            kind=FindingKind.UNDETERMINED,
            summary="",
            studied_from=self.start,
            studied_until=self.until,
            environment=self.today.machine,
            confidence=0.0,
            evidence=tuple(self.lab.evidence),
            runs=self.lab.runs,
            study=self.lab.study,
            tool_version=version("buildvm-nb"),
        )

    def _record(self, finding: Finding | None) -> str | None:
        """Record a finding, unless a current one, from no later on, says the same."""
        if finding is None:
            return None
        for earlier in self.catalog.finding_documents(case=finding.case.id):
            if _says_as_much(earlier, finding):
                return earlier.id
        return self.catalog.record_finding(finding).id


def _says_as_much(earlier: Finding, later: Finding) -> bool:
    known = {(boundary.last_before, boundary.first_after) for boundary in earlier.boundaries}
    return (
        later.kind is FindingKind.TIME_TRAP
        and earlier.kind is FindingKind.TIME_TRAP
        and earlier.axis is Axis.DATE
        and earlier.case.build_digest() == later.case.build_digest()
        and earlier.studied_from is not None
        and later.studied_from is not None
        and earlier.studied_from <= later.studied_from
        and {(b.last_before, b.first_after) for b in later.boundaries} <= known
    )
