"""A forecast: which day breaks what in a project, until a given one.

The project's own tests run at chosen instants of the years to come: just after each end of a
certificate, key or token in its tree, at round distances, and where counters of time overflow.
Each change is then located to the second, as a diagnosis does. Once one test fails, the whole
stays red and hides what breaks later; so each test that the runner names is followed by itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildvm_nb.errors import HostError, SourceError, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.case import Case
from buildvm_nb.model.finding import Axis, Finding, FindingKind
from buildvm_nb.model.forecast import Change, ChangeKind, Forecast, ForecastStatus, Look
from buildvm_nb.model.hint import Hint, HintKind
from buildvm_nb.model.instants import format_instant, now
from buildvm_nb.model.machine import Accelerator
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.model.recurrence import next_within
from buildvm_nb.search import Probe, State
from buildvm_nb.study.changes import Track, find_tracks, tell_assumptions, tell_changes
from buildvm_nb.study.conclusion import date_finding, flaky_finding, gaps_of
from buildvm_nb.study.dates import DateRange, DateStudy, position, state_of, study_dates, when
from buildvm_nb.study.environment import kvm_status
from buildvm_nb.study.executors import is_local, open_executor
from buildvm_nb.study.hinting import collect_hints, dates_in_logs
from buildvm_nb.study.jobs import default_jobs, fit_jobs
from buildvm_nb.study.laboratory import Laboratory, OnOutcome
from buildvm_nb.study.probe import Order
from buildvm_nb.study.questions import refuse_fixed
from buildvm_nb.study.recurring import (
    rule_text,
    rule_words,
    unexplained_finding,
    with_rule,
)
from buildvm_nb.study.schedule import Schedule, make_schedule
from buildvm_nb.study.timeline import Timeline
from buildvm_nb.study.trial import machine_for

if TYPE_CHECKING:
    from buildvm_nb.catalog import Catalog

__all__ = ["forecast"]

_REPEATS = 2
_RUNS_FOR_TESTS = 60
"""Guest runs, at most, to locate what breaks while the whole is red already."""


def forecast(  # noqa: PLR0913 - all but case and end have defaults or are places
    case: Case,
    *,
    until: datetime,
    start: datetime | None = None,
    cache: Cache,
    catalog: "Catalog",
    jobs: int | None = None,
    scheduler: str | None = None,
    executor: Executor | None = None,
    base: Path = Path(),
    progress: Progress = SILENT,
    on_outcome: OnOutcome | None = None,
    fresh: bool = False,
    budget: int | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Forecast:
    """Find out what in a project breaks between now and a day to come.

    Every outcome is recorded as it comes, so that a forecast that was interrupted goes on where it
    was. Where the whole breaks, a finding is recorded as well.

    Parameters
    ----------
    case : Case
        The project: its source, what it needs, its tests.
    until : datetime
        Aware; the last instant to look at.
    start : datetime, optional
        Aware; what counts as today. By default today's midnight, or the present minute where the
        project does not pass at midnight: its files may be younger.
    cache : Cache
        Keeps sources, images, kernels and checkpoints; a remote worker has its own.
    catalog : Catalog
        Gets outcomes and the finding, and is asked for what it has.
    jobs : int, optional
        Guests side by side; by default as many as there are cores and fit into memory.
    scheduler : str, optional
        Address of a Dask scheduler to use instead.
    executor : Executor, optional
        Where runs are executed, of any kind; it is not shut down. By default one is opened.
    base : Path
        Directory that relative paths of the case are below.
    progress : Progress
        Shows what is being fetched or made.
    on_outcome : callable, optional
        Gets each outcome as it comes, and whether the catalog had it already.
    fresh : bool
        Run everything anew.
    budget : int, optional
        Guest runs at most.
    overrides : mapping, optional
        Fields of `MachineSpec` that hold for every machine; not its date.

    Returns
    -------
    Forecast
        Its status says whether the project is sound, breaks, or fails today already.

    Raises
    ------
    UsageError
        If the request is wrong.
    SourceError
        If a source, a package or a kernel cannot be had.
    HostError
        If this host lacks something, or no machine gives a verdict on today.
    CatalogError
        If something cannot be recorded.
    """
    refuse_fixed(overrides, ["date"], "a forecast")
    overrides = {name: value for name, value in (overrides or {}).items() if name != "date"}
    present = start or now()
    if until <= present:
        raise UsageError(
            f"the forecast ends before it begins: until {format_instant(until)}; allowed: after "
            f"{format_instant(present)}"
        )
    remote = scheduler is not None if executor is None else not is_local(executor)
    if scheduler is None:
        jobs = fit_jobs(jobs, machine_for(case, overrides, None).memory_mib)
    with nullcontext(executor) if executor else open_executor(jobs, scheduler) as chosen:
        lab = Laboratory(
            case,
            cache=cache,
            catalog=catalog,
            executor=chosen,
            workers=jobs or default_jobs(),
            base=base,
            progress=progress,
            on_outcome=on_outcome,
            fresh=fresh,
            is_remote=remote,
            study=f"forecast-{case.build_digest()[:16]}",
            budget=budget,
        )
        if overrides.get("accelerator") is None:
            overrides["accelerator"] = _accelerator(lab, overrides)
        today = _run_today(lab, overrides, start)
        if state_of(today) is State.BAD:
            return _fails_today(lab, today, until)
        return _Forecasting(lab, catalog, today, until).run()


def _accelerator(lab: Laboratory, overrides: Mapping[str, Any]) -> Accelerator:
    """Choose what executes guests, as a diagnosis of the date axis does."""
    if lab.is_remote or overrides.get("cpu") is not None:
        return Accelerator.TCG
    works, _ = kvm_status(lab.cache)
    return Accelerator.KVM if works else Accelerator.TCG


def _run_today(lab: Laboratory, overrides: Mapping[str, Any], start: datetime | None) -> Outcome:
    """Run all steps at the beginning of the range.

    Raises
    ------
    SourceError
        If something that it needs cannot be had.
    HostError
        If no machine gives a verdict.
    """
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
        return self._conclude(timeline, tracks, schedule, is_forked=study.is_forked)

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
        self, timeline: Timeline, tracks: Sequence[Track], schedule: Schedule, *, is_forked: bool
    ) -> Forecast:
        whole = tracks[0].survey
        changes = tell_changes(timeline, tracks, self.hints)
        breaks = [change for change in changes if change.kind is ChangeKind.BREAKS]
        looks = tuple(self._looks(timeline, schedule))
        status = ForecastStatus.BREAKS if breaks else ForecastStatus.SOUND
        gaps = gaps_of(self.lab.evidence.values(), self.lab.case)
        if not breaks and (whole.is_flaky or whole.exhausted or gaps):
            status = ForecastStatus.UNDETERMINED
        sound = min((change.last_before for change in breaks), default=self.until)
        study = DateStudy(survey=whole, outcomes=timeline.outcomes, is_forked=is_forked)
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
            finding=self._find(study),
        )

    def _recurring(self, study: DateStudy, schedule: Schedule) -> Forecast:
        """Conclude from what fails again and again: which test it is does not matter then."""
        found = self._find(study)
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
        if study.unexplained:
            said += ["it fails at some dates, by no rule that was tried and in no window with ends"]
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
            finding=found,
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

    def _find(self, study: DateStudy) -> str | None:
        """Conclude as a diagnosis does, and record it; None where there is nothing to record."""
        if study.survey.is_flaky:
            places = {(one.at, one.held) for one in study.survey.disagreements}
            runs = [o for probe, o in study.outcomes.items() if (probe.at, probe.held) in places]
            return self._record(flaky_finding(runs, Axis.DATE, self._base()))
        if study.unexplained:
            return self._record(unexplained_finding(study, self._base()))
        located = None
        if study.survey.transitions:
            located = date_finding(study, self.hints, self._base())
        if study.rule:
            return self._record(with_rule(study, self._base(), located))
        return self._record(located) if located else None

    def _record(self, finding: Finding) -> str:
        """Record a finding, unless a current one, from no later on, says the same."""
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
