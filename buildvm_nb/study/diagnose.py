"""Diagnosis: from one case to one finding, with as few guest runs as possible."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any, Never, cast

from buildvm_nb.errors import BudgetSpent, SearchError, UsageError
from buildvm_nb.model.case import Case
from buildvm_nb.model.finding import Axis, Finding, FindingKind, Hint, HintKind
from buildvm_nb.model.instants import LATEST_CLOCK, format_instant, now
from buildvm_nb.model.machine import CPU_MODELS, OLDEST_QEMU, Accelerator, MachineSpec
from buildvm_nb.model.outcome import Outcome, new_id
from buildvm_nb.search import LEVEL, State, fisher_exact
from buildvm_nb.study.conclusion import (
    assumptions_of,
    both_finding,
    changed_words,
    cpu_finding,
    dates_finding,
    flaky_finding,
    gaps_of,
    line_finding,
    seen_so_far,
    support_of,
)
from buildvm_nb.study.cpus import GENERATIONS, study_cpus
from buildvm_nb.study.dates import (
    DateRange,
    DateStudy,
    collect_hints,
    dates_in_logs,
    state_of,
    study_dates,
    validities_among,
    worth_revealing,
)
from buildvm_nb.study.evidence import missing_part
from buildvm_nb.study.executors import Means
from buildvm_nb.study.laboratory import (
    Laboratory,
    Order,
    Within,
    claimed_line,
    open_laboratory,
)
from buildvm_nb.study.ordered import (
    KERNELS,
    Line,
    LineStudy,
    commit_line,
    core_line,
    kernel_line,
    study_line,
    study_outputs,
    zone_line,
)
from buildvm_nb.study.questions import Effort, Questions, refuse_fixed
from buildvm_nb.study.run import machine_for
from buildvm_nb.study.scouting import (
    AnyStudy,
    Searched,
    scout_of,
    search_and_prove,
    search_and_prove_commits,
)

__all__ = [
    "Outlook",
    "diagnose",
    "diagnose_case",
    "look_ahead",
    "machines_of",
]

_OF_ZONES = re.compile(
    r"time.?zone|zoneinfo|tzinfo|tzset|tzlocal|tzdata|\bpytz\b|\butc.?offset|\bTZ\b", re.IGNORECASE
)
"""What the log of a run that fails by its time zone may say."""
_MOST_AGAIN = 9
"""By then that many runs that agree on each side are no chance."""
_CONSTANTS = frozenset({HintKind.DATE_CONSTANT, HintKind.EPOCH_CONSTANT})
_WEAK = _CONSTANTS | {HintKind.CALENDAR, HintKind.ROLLOVER}


def diagnose(
    lab: Laboratory, questions: Questions, overrides: Mapping[str, Any] | None = None
) -> Finding:
    """Find out when, on which CPU and on which kernel a case stops building."""
    lab = cast("Laboratory", Within(lab, questions.budget))
    study = _Diagnosis(lab, questions, dict(overrides or {}))
    finding = study.run()
    counted = study.counted()
    failed = [outcome for outcome in counted if state_of(outcome) is State.BAD]
    claimed = lab.case.claim.evidence if lab.case.claim else ""
    support = support_of(finding, counted, study.dates)
    if study.is_seen_on_one_engine:  # whatever else ran on the other one
        support = support.model_copy(
            update={"engines": tuple(one for one in support.engines if one.startswith("uml "))}
        )
    known = {
        "evidence": tuple(lab.evidence),
        "runs": lab.runs,
        "support": support.model_copy(update={"crossed": study.crossed}),
        "failing_line": claimed_line(lab, claimed, finding.failing_line, failed),
    }
    return finding.model_copy(update=known | {"id": new_id(), "recorded_at": now()})


def machines_of(
    lab: Laboratory, axes: Sequence[Axis], overrides: Mapping[str, Any]
) -> tuple[MachineSpec, MachineSpec]:
    """Return the machines from which axes are varied.

    Returns: at the case's own date and today; the same one twice where the source tells no date. A
    date among `overrides` holds for both clocks, while each has the CPU of its own time.
    """
    if Axis.DATE in axes:
        refuse_fixed(overrides, ["date"], "a study of dates")
    chosen = lab.accelerator(cpu_matters=Axis.CPU in axes)
    given = {"accelerator": chosen} | _asked(overrides)
    if given["accelerator"] == Accelerator.UML and (fixed := {Axis.CPU, Axis.CORES} & {*axes}):
        names = ", ".join(sorted(axis.value for axis in fixed))
        raise UsageError(
            f"user-mode Linux runs on the host's CPU, on one core; cannot study: {names}",
            hint="--axis date --axis kernel, or --accelerator tcg",
        )
    own = machine_for(lab.case, given, lab.inputs.main)
    today = now().replace(hour=0, minute=0, second=0, microsecond=0)
    latest = machine_for(lab.case, given | {"date": today}, None)
    if given.get("date") is not None:  # of all clocks; the CPU is still today's
        return own, latest.model_copy(update={"date": own.date})
    is_dated = lab.inputs.main and lab.inputs.main.record.dated_at
    return (own if is_dated else latest), latest


class _Diagnosis:
    """One diagnosis under way."""

    def __init__(self, lab: Laboratory, questions: Questions, overrides: dict[str, Any]) -> None:
        self.lab = lab
        self.questions = questions
        self.fixed = set(_asked(overrides))
        self.own, self.today = machines_of(lab, questions.axes, overrides)
        is_quick = questions.effort is Effort.QUICK
        self.repeats = min(questions.repeats, 1) if is_quick else questions.repeats
        self.plain: list[Outcome] = []
        self.dates: DateStudy | None = None
        self.tried: list[str] = []
        self.left_out: list[str] = []
        """What could not be looked at: kernels that cannot be had, outputs that were not made."""
        self.assumed: list[str] = []
        self.crossed = ""
        self.is_seen_on_one_engine = False
        """Whether what decides was seen under user-mode Linux alone."""
        self.is_overruled = False
        """Whether the answers under user-mode Linux count for nothing."""

    def run(self) -> Finding:
        """Ask until something explains the case, and say what could not be told."""
        try:
            finding = self._explain()
        except BudgetSpent:
            finding = self._spent()
        if finding.kind is FindingKind.UNDETERMINED or not (gaps := self._gaps()):
            return finding
        # what was seen to differ stays seen; that it is alike everywhere was not
        return finding.model_copy(update={"summary": "; ".join([finding.summary, *gaps])})

    def _explain(self) -> Finding:
        """Ask one axis after the other until one explains the case."""
        if Axis.COMMIT in self.questions.axes:
            return self._commits()
        self.plain = self._plain([self.own, self.today])
        if all(state_of(outcome) is State.UNKNOWN for outcome in self.plain):
            summary = f"no machine gave a verdict: {self.plain[-1].why}"
            return self._base(kind=FindingKind.UNDETERMINED, summary=summary)
        for axis in self._order():
            if finding := self._study(axis):
                return self._cross(finding)
            self.tried.append(axis)
        return self._pair() or self._hinted_zones() or self._same_everywhere()

    def _cross(self, finding: Finding) -> Finding:
        """Try the failing and the passing point on another CPU and kernel and with two cores.

        All at once first: only where that makes a difference each is tried by itself.
        """
        points = self._points(finding)
        if self.questions.effort is Effort.QUICK or not points:
            return finding
        changes = self._changes(finding, points[0])
        if not changes:
            return finding
        try:
            told = self._crossed_by(points, changes)
        except BudgetSpent:
            told = "not tried on another CPU or kernel: the budget of runs ended first"
        self.crossed = told
        if told.startswith("alike "):
            return finding
        return finding.model_copy(update={"summary": f"{finding.summary}; {told}"})

    def _crossed_by(self, points: Sequence[Outcome], changes: dict[str, Any]) -> str:
        """Say whether points end alike with all changes, else with which of them they do not."""
        where = changed_words(changes)
        if self._alike(points, changes) is None:
            return f"no verdict {where}"
        if self._alike(points, changes):
            return f"alike {where}"
        single = [{field: value} for field, value in changes.items()]
        unlike = [one for one in single if len(changes) > 1 and self._alike(points, one) is False]
        told = [changed_words(one) for one in unlike] or [where]
        return f"not so {', nor '.join(told)}"

    def _alike(self, points: Sequence[Outcome], changes: dict[str, Any]) -> bool | None:
        """Tell whether points end as before with changes; None: some gave no verdict."""
        specs = [one.machine.model_copy(update=changes) for one in points]
        states = [state_of(one) for one in self._plain(specs)]
        if State.UNKNOWN in states:
            return None
        return states == [state_of(one) for one in points]

    def _points(self, finding: Finding) -> list[Outcome]:
        """Return a passing and a failing run of all steps, that the finding is about."""
        if finding.kind in {FindingKind.FLAKY, FindingKind.UNDETERMINED} or finding.reruns:
            return []
        found = []
        for state in (State.GOOD, State.BAD):
            runs = [one for one in self.counted() if state_of(one) is state]
            runs = [one for one in runs if not one.probing.held and "," not in one.machine.cpu]
            runs = [one for one in runs if one.machine.accelerator is not Accelerator.UML]
            plain = [one for one in runs if one in self.plain]
            found += (plain or runs)[:1]
        return found if len(found) > 1 else []

    def _changes(self, finding: Finding, point: Outcome) -> dict[str, Any]:
        """Choose what else to vary: on the axes that were asked for, and do not explain it."""
        machine = point.machine
        others: dict[Axis, Any] = {
            Axis.CPU: "EPYC" if machine.cpu != "EPYC" else "Haswell",
            Axis.KERNEL: next(name for name in KERNELS if name != machine.kernel),
            Axis.CORES: 2 if machine.cpu_count != 2 else 1,  # noqa: PLR2004
        }
        free = {*self.questions.axes} - {finding.axis}
        return {
            axis.field: value
            for axis, value in others.items()
            if axis in free and axis.field not in self.fixed
        }

    def _plain(self, specs: Sequence[MachineSpec]) -> list[Outcome]:
        """Run all steps in machines; the same one only once."""
        different = [spec for at, spec in enumerate(specs) if spec not in specs[:at]]
        return self.lab.run([Order(case=self.lab.case, machine=spec) for spec in different])

    def _order(self) -> tuple[Axis, ...]:
        """Begin with the CPU where it alone makes the difference between both machines."""
        own, today = self.plain[0], self.plain[-1]
        axes = self.questions.axes
        if Axis.CPU in axes and state_of(own) is not state_of(today):
            crossed = self._crossed()
            if crossed and state_of(crossed) is state_of(own):
                return (Axis.CPU, *(axis for axis in axes if axis is not Axis.CPU))
        return axes

    def _crossed(self) -> Outcome | None:
        """Run today on the case's own CPU; None where that is today's."""
        if self.own.cpu == self.today.cpu:
            return None
        return self._plain([self.today.model_copy(update={"cpu": self.own.cpu})])[0]

    def _needs_both(self) -> bool:
        """Tell whether today's verdict takes today's date and today's CPU together."""
        if self.own.cpu == self.today.cpu or self.own.date == self.today.date:
            return False
        own, today = map(state_of, (self.plain[0], self.plain[-1]))
        if State.UNKNOWN in {own, today} or own is today:
            return False
        one_changed = [
            self.today.model_copy(update={"cpu": self.own.cpu}),
            self.own.model_copy(update={"cpu": self.today.cpu}),
        ]
        return all(state_of(outcome) is own for outcome in self._plain(one_changed))

    def _pair(self) -> Finding | None:
        """Study dates on today's CPU, and CPUs today, where neither alone makes the difference."""
        if not {Axis.DATE, Axis.CPU} <= set(self.questions.axes) or not self._needs_both():
            return None
        dated, by_cpu = self._dates(self.today), self._cpus(self.today)
        for finding in (dated, by_cpu):
            if finding is None or finding.kind is FindingKind.FLAKY:
                return finding
        return both_finding(dated, by_cpu) if dated and by_cpu else None

    def _dates(self, spec: MachineSpec | None = None) -> Finding | None:
        spec = spec or self.own
        plain = [outcome for outcome in self.plain if outcome.machine.cpu == spec.cpu]
        is_alike = state_of(self.plain[0]) is state_of(self.plain[-1])
        is_spared = self.questions.effort is Effort.QUICK and is_alike
        crossed = self._crossed() if spec is self.own and not is_spared else None
        plain += [crossed] if crossed else []
        first, last = self.questions.dates(self.own.date, self.today.date)
        plain = [outcome for outcome in plain if first <= outcome.machine.date <= last]
        hints: list[Hint] = []
        named: list[Hint] = []
        if self.questions.use_hints:
            found = collect_hints(self.lab, self.own.image, first, last)
            hints = [hint for hint in found if hint.instant and hint.instant <= last]
            self._tell_later(hint for hint in found if hint not in hints)
            failed = [outcome for outcome in self.plain if state_of(outcome) is State.BAD]
            named = dates_in_logs(self.lab.log(outcome) for outcome in failed)
            hints += named
        span = DateRange(
            first=first,
            last=last,
            hints=[
                *self.questions.around,
                *(h.instant for h in hints if h.instant and h.kind not in _WEAK),
            ],
            likely=validities_among(hints, named),
            constants=[h.instant for h in hints if h.instant and h.kind in _CONSTANTS],
            rollovers=[h.instant for h in hints if h.instant and h.kind is HintKind.ROLLOVER],
            behind=[
                *self.questions.around,
                *worth_revealing(hints, self.own.date, self._used_places()),
            ],
            resolution_s=self.questions.resolution_s,
            repeats=self.repeats,
            near=spec.date,
            today=self.today.date,
            effort=self.questions.effort,
        )
        self.dates = self._searched(spec, span, plain)
        finding = dates_finding(self.dates, hints, self._base())
        if finding and self.dates.is_open:
            self.left_out.append(f"{self._ended()}: changes beside that were not looked at")
        return finding or (self._spent() if self.dates.survey.exhausted else None)

    def _searched(self, spec: MachineSpec, span: DateRange, plain: list[Outcome]) -> DateStudy:
        """Search dates, on a faster engine where nobody asked for this one."""
        scout = self._scout(spec, plain) if plain else None
        if scout is None:
            return study_dates(self.lab, spec, span, plain)
        return self._told_of_engines(search_and_prove(self.lab, spec, scout, span, plain))

    def _scout(self, spec: MachineSpec, plain: Sequence[Outcome] = ()) -> MachineSpec | None:
        """Return a machine to search in, where the engine is ours to choose."""
        if self.fixed & {"accelerator", "cpu"} or self.questions.effort is Effort.QUICK:
            return None
        return scout_of(self.lab, spec, plain, keeps_kernel="kernel" in self.fixed)

    def _told_of_engines(self, found: Searched[AnyStudy]) -> AnyStudy:
        """Return what a search found, and keep what is to be said of its engines."""
        self.is_seen_on_one_engine |= found.is_gap
        self.is_overruled |= found.is_overruled
        if found.told:
            (self.left_out if found.is_gap else self.assumed).append(found.told)
        return found.study

    def _tell_later(self, hints: Iterable[Hint]) -> None:
        """Say which validities end or begin after the dates that are studied, the first one."""
        later = sorted((hint.instant, hint.path) for hint in hints if hint.instant and hint.path)
        instants = {instant for instant, _path in later if instant < LATEST_CLOCK}
        if instants:
            first, path = later[0]
            self.assumed.append(
                f"nothing was run after the last date, though {path} has one at "
                f"{format_instant(first)}: --to {first.year + 1} reaches it"
            )

    def _used_places(self) -> list[str]:
        """Return where the inputs of a case lie that is about a source of its own."""
        case = self.lab.case
        return [entry.path for entry in case.inputs] if case.source else []

    def _cpus(self, spec: MachineSpec | None = None) -> Finding | None:
        cpus = (self.own.cpu, self.today.cpu, *self.questions.cpus)
        spec = spec or self._somewhere()
        if spec.accelerator is not Accelerator.TCG:
            spec = spec.model_copy(update={"accelerator": Accelerator.TCG})
        if self.questions.effort is not Effort.QUICK:
            cpus += GENERATIONS
        if self.questions.effort is Effort.THOROUGH:
            cpus += tuple(model.name for model in CPU_MODELS if model.qemu <= OLDEST_QEMU)
        study = study_cpus(self.lab, spec, cpus, repeats=self.repeats)
        if study.disagreeing:
            return flaky_finding(study.disagreeing, Axis.CPU, self._base())
        if study.good and study.bad:
            if runs := self._by_chance((study.good, study.bad), Axis.CPU):
                return flaky_finding(runs, Axis.CPU, self._base())
            return cpu_finding(study, self._base())
        return None

    def _study(self, axis: Axis) -> Finding | None:
        """Study one axis; None: it makes no difference."""
        lab, asked = self.lab, self.questions
        match axis:
            case Axis.DATE:
                return self._dates()
            case Axis.CPU:
                return self._cpus()
            case Axis.KERNEL:
                return self._along(kernel_line(lab, self._somewhere(), asked.kernels))
            case Axis.CORES:
                counts = asked.cores[:2] if asked.effort is Effort.QUICK else asked.cores
                return self._along(core_line(lab, self._somewhere(), counts))
            case Axis.TIMEZONE:
                return self._along(zone_line(lab, self._somewhere()))
            case Axis.COMMIT:
                return self._between(asked.good, asked.bad)

    def _hinted_zones(self) -> Finding | None:
        """Try time zones, unasked, where a failing run speaks of them and nothing else explains it.

        They are none of the default axes: guests run in UTC, as most build daemons do.
        """
        if Axis.TIMEZONE in self.questions.axes:
            return None
        failed = [one for one in self._judged() if state_of(one) is State.BAD]
        if not any(_OF_ZONES.search(self.lab.log(one) or one.evidence) for one in failed[:3]):
            return None
        finding = self._study(Axis.TIMEZONE)
        if finding is None:
            self.tried.append(Axis.TIMEZONE)
        return finding

    def _commits(self) -> Finding:
        good, bad = self.questions.good, self.questions.bad
        if not (good and bad) or self.questions.axes != (Axis.COMMIT,):
            raise UsageError(
                "the commit axis needs a good and a bad commit, and no other axis beside it",
                hint="--axis commit --good v1.0 --bad HEAD",
            )
        if finding := self._study(Axis.COMMIT):
            return finding
        self.tried.append(Axis.COMMIT)
        return self._same_everywhere()

    def _between(self, good: str, bad: str) -> Finding | None:
        """Study commits, on a faster engine where nobody asked for this one."""
        line = commit_line(self.lab, self.today, good, bad)
        scout = self._scout(self.today)
        if scout is None:
            return self._along(line)
        fast = commit_line(self.lab, scout, good, bad)
        found = search_and_prove_commits(self.lab, line, fast, self.repeats)
        return self._concluded(self._told_of_engines(found))

    def _along(self, line: Line) -> Finding | None:
        """Study an axis of a few values."""
        self.left_out += line.missing
        self.assumed += line.notes
        return self._concluded(study_line(self.lab, line, self.repeats))

    def _concluded(self, study: LineStudy) -> Finding | None:
        """Conclude from an axis of a few values; None: it makes no difference."""
        line = study.line
        if study.survey.is_flaky:
            return flaky_finding(study.disagreeing, line.axis, self._base())
        for change in study.survey.transitions if line.axis is not Axis.COMMIT else ():
            sides = ((change.last_before, change.before), (change.first_after, change.after))
            ends = [
                next(one for one in study.at(index) if state_of(one) is state)
                for index, state in sides
            ]
            if runs := self._by_chance(ends, line.axis):
                return flaky_finding(runs, line.axis, self._base())
        if study.survey.transitions:
            return line_finding(study, self._base())
        return self._spent() if study.survey.exhausted else None

    def _by_chance(self, ends: Sequence[Outcome], axis: Axis) -> list[Outcome]:
        """Ask both sides of a change again until chance does not explain it.

        Three runs that fail by chance are no wonder where many values are tried.
        Returns: the runs at one side where these do not agree; none where they do.
        """
        if self.questions.effort is Effort.QUICK:
            return []
        for attempt in range(self.repeats + 1, self.repeats + _MOST_AGAIN):
            judged = [one for one in self._judged() if not one.probing.held]
            same = [[one for one in judged if _is_repeated(one, end)] for end in ends]
            like = [[o for o in judged if _value(o, axis) == _value(end, axis)] for end in ends]
            if mixed := next((runs for runs in same if len({*map(state_of, runs)}) > 1), None):
                return mixed
            if any(fisher_exact(*map(_counted, sides)) < LEVEL for sides in (same, like)):
                return []
            self.lab.run([_again(end, attempt) for end in ends])
        return []

    def _somewhere(self) -> MachineSpec:
        """Return a machine to vary other axes from: today's, unless only the other one passes."""
        own, today = self.plain[0], self.plain[-1]
        only_own = state_of(own) is State.GOOD and state_of(today) is not State.GOOD
        return self.own if only_own else self.today

    def _same_everywhere(self) -> Finding:
        """Conclude where no axis made a difference."""
        outcomes = self._judged()
        tried = ", ".join(self.tried) or "no axis"
        if {state_of(one) for one in outcomes} == {State.GOOD} and (varying := self._outputs()):
            return varying
        if flaky := self._asked_again():
            return flaky
        outcomes = self._judged()
        states, count = {state_of(one) for one in outcomes}, len(outcomes)
        if states == {State.GOOD}:
            kind, summary = FindingKind.SOUND, f"passed in each of {count} runs along {tried}"
        elif states == {State.BAD}:
            kind = FindingKind.ALWAYS_FAILING
            summary = f"failed in each of {count} runs along {tried}"
            missing = {missing_part(one.evidence) for one in outcomes}
            if len(missing) == 1 and any(missing):
                summary += f" (note: {missing.pop()})"
        else:
            kind = FindingKind.UNDETERMINED
            summary = f"verdicts differ, but not along {tried}"
        if gaps := self._gaps():
            kind, summary = FindingKind.UNDETERMINED, "; ".join([*gaps, summary])
        elif kind is not FindingKind.UNDETERMINED and (
            taken := (*self._of_dates(), *self._of_cores())
        ):
            summary += f"; taken for granted: {'; '.join(taken)}"
        bad = next((one for one in outcomes if state_of(one) is State.BAD), None)
        good = next((one for one in outcomes if state_of(one) is State.GOOD), None)
        return self._base(
            kind=kind,
            summary=summary,
            failing_line=bad.evidence if bad else "",
            environment=good.machine if good else None,
            confidence=0.0 if kind is FindingKind.UNDETERMINED else 1 - 0.5 ** max(count - 1, 0),
        )

    def _asked_again(self) -> Finding | None:
        """Repeat what failed where no axis tells why: what then passes fails by chance.

        Where all failed, a few runs do not tell that from chance.
        """
        outcomes = self._judged()
        failed = next((one for one in outcomes if state_of(one) is State.BAD), None)
        is_split = any(state_of(one) is State.GOOD for one in outcomes)
        is_enough = len(outcomes) >= _MOST_AGAIN or self.questions.effort is Effort.QUICK
        if failed is None or (is_enough and not is_split):
            return None
        again = [_again(failed, number) for number in range(1, 2 * self.repeats + 2)]
        runs = [failed, *self.lab.run(again)]
        if State.GOOD not in map(state_of, runs):
            return None
        return flaky_finding(runs, None, self._base())

    def counted(self) -> list[Outcome]:
        """Return the runs that count: where engines do not agree, those of the strict one."""
        told = self.lab.evidence.values()
        return [
            one
            for one in told
            if not (self.is_overruled and one.machine.accelerator is Accelerator.UML)
        ]

    def _judged(self) -> list[Outcome]:
        return [one for one in self.counted() if state_of(one) is not State.UNKNOWN]

    def _gaps(self) -> tuple[str, ...]:
        """Say where there is no verdict; features added to a CPU may be more than QEMU can give."""
        asked = {self.own.cpu, self.today.cpu, *self.questions.cpus}
        runs = [
            one for one in self.counted() if "," not in one.machine.cpu or one.machine.cpu in asked
        ]
        return (*gaps_of(runs, self.lab.case), *self.left_out)

    def _of_dates(self) -> tuple[str, ...]:
        """Say what the search along the dates took for granted."""
        if not self.dates:
            return ()
        taken = assumptions_of(self.dates.survey)
        if self.dates.unexplained:  # each change would tell of its own, and none explains a thing
            taken = ("nothing is known of the dates between those that were looked at",)
        if self.questions.effort is Effort.QUICK:
            return (*taken, "no rule of the calendar, such as a weekday, was looked for")
        if self.dates.lacking:
            taken = (*taken, f"of the calendar not met: {', '.join(self.dates.lacking)}")
        return (
            *taken,
            "no rule that takes two features of the calendar together (Friday the 13th)",
        )

    def _of_cores(self) -> tuple[str, ...]:
        """Say where nothing was run with more than one virtual CPU."""
        counts = {one.machine.cpu_count for one in self._judged()}
        if counts != {1}:
            return ()
        told = (
            "all runs had one virtual CPU, the default: what needs or breaks with several at once "
            "was not tried (--axis cores)"
        )
        return (told,)

    def _spent(self) -> Finding:
        """Conclude where the budget ended first."""
        told = [self._ended(), seen_so_far(self._judged())]
        return self._base(summary="; ".join([": ".join(filter(None, told)), *self._gaps()]))

    def _ended(self) -> str:
        return f"the budget of {self.questions.budget} runs ended before the questions did"

    def _outputs(self) -> Finding | None:
        repeats = self.repeats
        finding, failed = study_outputs(
            self.lab, self.own, self.today, self._base(), repeats=repeats
        )
        for outcome in failed[:1]:
            why = outcome.why or outcome.verdict.value
            told = f"outputs were not compared: it does not pass with a held clock ({why})"
            is_trouble = state_of(outcome) is State.UNKNOWN
            (self.left_out if is_trouble else self.assumed).append(told)
        return finding

    def _base(self, **fields: Any) -> Finding:  # noqa: ANN401 - fields of Finding
        """Return what is the same whatever is found."""
        first, last = self.questions.dates(self.own.date, self.today.date)
        passed = [one for one in self.plain if state_of(one) is State.GOOD] or sorted(
            (one for one in self.counted() if state_of(one) is State.GOOD),
            key=lambda one: (one.machine.accelerator is Accelerator.UML, one.probing.held),
        )
        known = {
            "case": self.lab.case,
            "kind": FindingKind.UNDETERMINED,
            "summary": "",
            "studied_from": first if self.dates else None,
            "studied_until": last if self.dates else None,
            "environment": passed[0].machine if passed else None,
            "confidence": 0.0,
            "assumptions": (*self._of_dates(), *self._of_cores(), *self.assumed),
            "study": self.lab.study,
            "tool_version": version("buildvm-nb"),
        }
        return Finding.model_validate(known | fields)


def _again(outcome: Outcome, attempt: int) -> Order:
    """Ask once more for what an outcome is of."""
    probing = outcome.probing.model_copy(update={"drift_s": None, "attempt": attempt})
    return Order(case=outcome.case, machine=outcome.machine, probing=probing)


def _is_repeated(one: Outcome, other: Outcome) -> bool:
    return (one.machine, one.case) == (other.machine, other.case)


def _value(outcome: Outcome, axis: Axis) -> object:
    return getattr(outcome.machine, axis.field) if axis.field else outcome.case.timezone


def _counted(outcomes: Iterable[Outcome]) -> tuple[int, int]:
    """Count how many runs passed, and how many failed."""
    states = [state_of(one) for one in outcomes]
    return states.count(State.GOOD), states.count(State.BAD)


def _asked(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a machine somebody asked for: a panel names every field, asked for or not."""
    left_open = {"accelerator": Accelerator.AUTO}
    return {
        name: value
        for name, value in overrides.items()
        if value is not None and value != left_open.get(name)
    }


# What a diagnosis would ask first, without a guest.


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What a diagnosis would do."""

    axes: tuple[Axis, ...]
    orders: tuple[Order, ...]
    """Its first runs."""
    dates: tuple[datetime, datetime] | None
    """Beginning and end of the dates, where they are studied."""
    hints: int | None
    """Dates found in sources and packages; None: they are not looked for."""

    def document(self) -> dict[str, Any]:
        """Return it as plain JSON.

        Returns: axes, the machines of the first runs, dates and the number of hints.
        """
        return {
            "axes": [axis.value for axis in self.axes],
            "machines": [order.machine.model_dump(mode="json") for order in self.orders],
            "dates": None if self.dates is None else [format_instant(at) for at in self.dates],
            "hints": self.hints,
        }


def look_ahead(
    case: Case,
    questions: Questions,
    overrides: Mapping[str, Any],
    means: Means,
) -> Outlook:
    """Work out what a diagnosis would ask first; sources are fetched for it."""
    lab = _ClosedLaboratory(case, means)
    orders = _first_orders(lab, questions, overrides)
    if Axis.DATE not in questions.axes:
        return Outlook(axes=questions.axes, orders=orders, dates=None, hints=None)
    own, today = orders[0].machine, orders[-1].machine
    first, last = questions.dates(own.date, today.date)
    hints = None
    if questions.use_hints:
        found = collect_hints(lab, own.image, first, last)
        hints = len({hint.instant for hint in found if hint.kind is not HintKind.CALENDAR})
    return Outlook(axes=questions.axes, orders=orders, dates=(first, last), hints=hints)


class _Asked(Exception):
    """The first question of a diagnosis: a way out of it, no error."""

    def __init__(self, orders: Sequence[Order]) -> None:
        super().__init__()
        self.orders = tuple(orders)


class _ClosedLaboratory(Laboratory):
    """Runs nothing."""

    def run(self, orders: Sequence[Order]) -> Never:
        """Stop the diagnosis at its question."""
        raise _Asked(orders)


def _first_orders(
    lab: Laboratory, questions: Questions, overrides: Mapping[str, Any]
) -> tuple[Order, ...]:
    try:
        diagnose(lab, questions, overrides)
    except _Asked as asked:
        return asked.orders
    raise SearchError("the diagnosis ended without a question")


# A whole diagnosis: a laboratory opened, questions asked, the finding recorded.

_DEFAULT_QUESTIONS = Questions()


def diagnose_case(
    case: Case,
    means: Means,
    questions: Questions = _DEFAULT_QUESTIONS,
    overrides: Mapping[str, Any] | None = None,
) -> Finding:
    """Find out when, on which CPU and on which kernel a case stops building, and record it.

    Every answer is recorded as it comes, so that a diagnosis that was interrupted goes on where it
    was when it is asked for again.

    `overrides`: fields of `MachineSpec` that hold for every machine; no date where dates are
    varied.
    """
    if Axis.DATE in questions.axes:
        refuse_fixed(overrides, ["date"], "a diagnosis of dates")
    with open_laboratory(case, means, overrides, study="diagnose") as lab:
        lab.have_ready(overrides)
        return means.catalog.record_finding(diagnose(lab, questions, overrides))
