"""Verification: the claims of curated cases, asked of machines again."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Literal

from buildvm_nb.errors import SourceError, Unreachable, UsageError
from buildvm_nb.model.case import Case, Claim
from buildvm_nb.model.claims import Agreement, ClaimCheck, claim_agrees, weigh
from buildvm_nb.model.finding import Axis, Finding
from buildvm_nb.model.instants import EARLIEST, LATEST_CLOCK, format_instant
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.model.value import Value
from buildvm_nb.search import Probe, State
from buildvm_nb.study.dates import Prober, position, state_of, when
from buildvm_nb.study.diagnose import diagnose_case, machines_of
from buildvm_nb.study.executors import Means, OnOutcome
from buildvm_nb.study.laboratory import (
    Laboratory,
    Order,
    claimed_line,
    open_laboratory,
    quote_line,
)
from buildvm_nb.study.ordered import KERNELS
from buildvm_nb.study.prepare import home_of, split_steps
from buildvm_nb.study.questions import DEFAULT_AXES, Questions

__all__ = [
    "Verification",
    "points_of",
    "questions_of",
    "spot_check",
    "verify_case",
]

# Spot checks: a claim's own points, asked of machines, and nothing between them.

_YEAR = timedelta(days=366)
_ATTEMPTS = 8
"""How often a case that is claimed to be flaky is run until it has ended in both ways."""
_SAYS = {State.GOOD: "passes", State.BAD: "fails"}


@dataclass(frozen=True, kw_only=True)
class Point:
    """A second of the date axis and what is claimed of it."""

    at: int
    """Seconds since 1970."""
    expected: State


@dataclass(kw_only=True)
class _Tally:
    """What was asked, and what came of it."""

    wrong: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    bad: list[Outcome] = field(default_factory=list)

    def count(self, where: str, expected: State, seen: State, outcome: Outcome) -> None:
        """Compare one answer with what is claimed."""
        why = outcome.why
        if seen is State.UNKNOWN:
            self.silent.append(
                f"no answer {where}: {why or 'the clock was not where it was meant'}"
            )
            return
        self.told.append(f"{_SAYS[seen]} {where}")
        if seen is State.BAD:
            self.bad.append(outcome)
        if seen is not expected:
            self.wrong.append(f"it {_SAYS[seen]} {where}")


def points_of(claim: Claim) -> tuple[Point, ...]:
    """Return the seconds on both sides of each instant that is claimed.

    Returns: ascending; as far from the instant as the claim's resolution leaves open. What no
    guest's clock can be set to is left out.
    """
    slack = claim.resolution_s - 1
    points = {}
    for window in claim.stretches():
        if window.passes_from is not None:
            first = position(window.passes_from)
            points[first - 1 - slack] = State.BAD
            points[first + slack] = State.GOOD
        if window.passes_until is not None:
            last = position(window.passes_until)
            points[last - slack] = State.GOOD
            points[last + 1 + slack] = State.BAD
    earliest, latest = position(EARLIEST), position(LATEST_CLOCK)
    inside = sorted(at for at in points if earliest <= at <= latest)
    return tuple(Point(at=at, expected=points[at]) for at in inside)


def spot_check(
    lab: Laboratory, claim: Claim, overrides: Mapping[str, Any] | None = None
) -> ClaimCheck:
    """Run a case at its claim's own points.

    Returns: what lies between the points was not looked at, nor were CPU features.
    """
    check = _Check(lab, claim, overrides or {})
    tally = check.run()
    if claim.evidence and tally.bad:
        said = claimed_line(lab, claim.evidence, tally.bad[-1].evidence, tally.bad)
        if not quote_line(claim.evidence, [said]):
            tally.silent.append(f"the log is claimed to say {claim.evidence!r}, but says {said!r}")
    shown = "; ".join(tally.told) or "nothing was shown"
    return weigh(claim, shown, tally.wrong, tally.silent)


class _Check:
    """A spot check under way."""

    def __init__(self, lab: Laboratory, claim: Claim, overrides: Mapping[str, Any]) -> None:
        self.lab = lab
        self.claim = claim
        is_of_dates = claim.kind == "time-trap" and not claim.failing_cpus
        axes = (Axis.DATE,) if is_of_dates else (Axis.CPU,)
        self.own, self.today = machines_of(lab, axes, overrides)
        self.tally = _Tally()

    def run(self) -> _Tally:
        """Ask what this kind of claim is about."""
        claim = self.claim
        if claim.kind == "time-trap":
            self._dates()
        elif claim.kind == "cpu-dependent":
            self._machines(Axis.CPU, claim.passing_cpus, claim.failing_cpus)
        elif claim.kind == "kernel-dependent":
            self._machines(Axis.KERNEL, claim.passing_kernels, claim.failing_kernels)
        elif claim.kind == "flaky":
            self._flaky()
        elif claim.kind == "output-varies":
            self._outputs()
        else:
            self._everywhere(State.GOOD if claim.kind == "sound" else State.BAD)
        return self.tally

    def _dates(self) -> None:
        points = points_of(self.claim)
        if not points:
            self.tally.silent.append("the claim names no instant that a guest's clock can show")
            return
        probes = [Probe(at=point.at, held=True) for point in points]
        spec = self.own
        if self.claim.failing_cpus:  # it springs on some CPUs only
            spec = spec.model_copy(update={"cpu": self.claim.failing_cpus[0]})
        in_forks = Prober(self.lab, spec, when(points[0].at))
        outcomes = in_forks.run(probes)
        states = {probe: in_forks.answer(probe, one).state for probe, one in outcomes.items()}
        expected = {probe: point.expected for probe, point in zip(probes, points, strict=True)}
        builds = bool(split_steps(self.lab.case)[0])  # which a fork does not do at its date
        again = [
            probe
            for probe in probes
            if states[probe] is State.UNKNOWN or (builds and states[probe] is not expected[probe])
        ]
        if again:
            anew = Prober(self.lab, spec, None)
            outcomes |= anew.run(again)
            states |= {probe: anew.answer(probe, outcomes[probe]).state for probe in again}
        for probe in probes:
            where = f"at {format_instant(when(probe.at))}"
            self.tally.count(where, expected[probe], states[probe], outcomes[probe])
        late = [point.at for point in points if point.expected is State.BAD][-1:]
        for at in late if self.claim.failing_cpus else ():
            spec = self.own.model_copy(update={"date": when(at)})
            self._machines(Axis.CPU, self.claim.passing_cpus, self.claim.failing_cpus, spec)

    def _machines(
        self,
        axis: Axis,
        passing: Sequence[str],
        failing: Sequence[str],
        spec: MachineSpec | None = None,
    ) -> None:
        spec = spec or self.own
        values = [*passing, *failing]
        home = home_of(self.lab.case, spec)
        orders = [
            self._order(spec.model_copy(update={axis.field: value}), prepared_on=home)
            for value in values
        ]
        expected = [State.GOOD] * len(passing) + [State.BAD] * len(failing)
        for value, state, outcome in zip(values, expected, self.lab.run(orders), strict=True):
            self.tally.count(f"on {value}", state, state_of(outcome), outcome)

    def _everywhere(self, expected: State) -> None:
        specs = list(dict.fromkeys((self.own, self.today)))
        outcomes = self.lab.run([self._order(spec) for spec in specs])
        for spec, outcome in zip(specs, outcomes, strict=True):
            where = f"at {format_instant(spec.date)} on {spec.cpu}"
            self.tally.count(where, expected, state_of(outcome), outcome)

    def _flaky(self) -> None:
        seen: dict[State, int] = {}
        for attempt in range(_ATTEMPTS):
            [outcome] = self.lab.run([self._order(self.own, attempt=attempt)])
            state = state_of(outcome)
            seen[state] = seen.get(state, 0) + 1
            if state is State.BAD:
                self.tally.bad.append(outcome)
            if {State.GOOD, State.BAD} <= seen.keys():
                break
        good, bad = seen.get(State.GOOD, 0), seen.get(State.BAD, 0)
        self.tally.told.append(f"{good} of {good + bad} runs passed")
        if not (good and bad):
            self.tally.silent.append(f"{good} of {good + bad} runs passed: more may tell")

    def _outputs(self) -> None:
        orders = [self._order(self.own, held=True), self._other_output()]
        outcomes = self.lab.run(orders)
        if any(outcome.verdict is not Verdict.PASSED for outcome in outcomes):
            why = next(one.reason for one in outcomes if one.verdict is not Verdict.PASSED)
            self.tally.silent.append(f"it does not pass with a held clock: {why}")
            return
        first, second = ({one.path: one.digest for one in each.artifacts} for each in outcomes)
        for path in self.claim.varying_files:
            if first.get(path) == second.get(path):
                self.tally.wrong.append(f"{path} does not vary")
            else:
                self.tally.told.append(f"{path} varies")

    def _other_output(self) -> Order:
        """Return a run elsewhere on the axis of the claim; without one, the same run again."""
        own, today = self.own, self.today
        if self.claim.axis is None:
            return self._order(own, held=True, attempt=1)
        is_dated = today.date - own.date > _YEAR
        elsewhere: dict[Axis, Any] = {
            Axis.DATE: today.date if is_dated else own.date - _YEAR,
            Axis.CPU: today.cpu if today.cpu != own.cpu else "max",
            Axis.KERNEL: next(name for name in KERNELS if name != own.kernel),
            Axis.CORES: own.cpu_count + 1,
        }
        axis = Axis(self.claim.axis)
        return self._order(own.model_copy(update={axis.field: elsewhere[axis]}), held=True)

    def _order(self, spec: MachineSpec, **probing: Any) -> Order:  # noqa: ANN401 - of Probing
        return Order(case=self.lab.case, machine=spec, probing=probing)


Trouble = Literal["", "unavailable", "machine"]
"""What kept every machine from saying anything about the case; empty: nothing did."""

_SILENT = frozenset({Verdict.ERROR, Verdict.UNAVAILABLE})


class Verification(Value):
    """What came of verifying one case."""

    case_id: str
    check: ClaimCheck
    is_quick: bool
    """Whether only the claim's own points were run."""
    runs: int
    """Guest runs that were made; answers that were there already do not count."""
    trouble: Trouble = ""
    finding: Finding | None = None
    """As recorded; None where only points were run, or nothing could be."""


def questions_of(claim: Claim) -> Questions:
    """Return what a diagnosis must be asked so that it can prove a claim, or refute it.

    Returns: the whole search along the claim's axis, reaching around its instants and with the CPUs
    and kernels that it names; all axes where the claim is about none.
    """
    axes: dict[str, tuple[Axis, ...]] = {
        "time-trap": (Axis.DATE,),
        "cpu-dependent": (Axis.CPU,),
        "kernel-dependent": (Axis.KERNEL,),
    }
    named = (*claim.failing_kernels, *claim.passing_kernels)
    chosen = axes.get(claim.kind, DEFAULT_AXES)
    if claim.kind == "time-trap" and claim.failing_cpus:
        chosen = (Axis.DATE, Axis.CPU)  # it takes both together
    if claim.kind == "output-varies" and claim.axis == "cores":
        chosen = (*DEFAULT_AXES, Axis.CORES)
    return Questions(
        axes=chosen,
        around=claim.instants(),
        cpus=(*claim.passing_cpus, *claim.failing_cpus),
        kernels=tuple(dict.fromkeys([*named, *KERNELS])) if named else (),
    )


def verify_case(
    case: Case,
    means: Means,
    overrides: Mapping[str, Any] | None = None,
    *,
    quick: bool = False,
) -> Verification:
    """Ask machines whether a case's claim holds.

    Outcomes are recorded as they come, and so is the finding of a whole search.

    `quick`: run only the claim's own points.
    Returns: a source that cannot be had, or machines that break, tell nothing about the claim.
    """
    claim = case.claim
    if claim is None:
        raise UsageError(f"case {case.id} claims nothing", hint="`buildvm diagnose` needs no claim")
    seen = _Seen(means.on_outcome)
    means = replace(means, on_outcome=seen.tell)
    finding = None
    try:
        if quick:
            with open_laboratory(case, means, overrides, study="verify") as lab:
                lab.have_ready(overrides)
                check = spot_check(lab, claim, overrides)
                seen.runs = lab.runs
        else:
            finding = diagnose_case(case, means, questions_of(claim), overrides)
            check = claim_agrees(claim, finding)
    except SourceError as error:
        check = weigh(claim, "nothing was shown", (), [f"unavailable: {error.message}"])
        seen.verdicts.append(Verdict.UNAVAILABLE)
    except Unreachable as error:
        check = weigh(claim, "nothing was shown", (), [f"error: {error.message}"])
        seen.verdicts.append(Verdict.ERROR)
    return Verification(
        case_id=case.id,
        check=check,
        is_quick=quick,
        runs=finding.runs if finding else seen.runs,
        trouble=_trouble(check, seen.verdicts),
        finding=finding,
    )


class _Seen:
    """Counts outcomes as they come."""

    def __init__(self, on_outcome: OnOutcome | None) -> None:
        self._tell = on_outcome
        self.verdicts: list[Verdict] = []
        self.runs = 0

    def tell(self, outcome: Outcome, is_known: bool) -> None:  # noqa: FBT001 - a callback's argument
        self.verdicts.append(outcome.verdict)
        self.runs += not is_known
        if self._tell:
            self._tell(outcome, is_known)


def _trouble(check: ClaimCheck, verdicts: Collection[Verdict]) -> Trouble:
    """Name the trouble where it alone is why nothing can be told."""
    if check.agreement is not Agreement.CANNOT_TELL or not verdicts or set(verdicts) - _SILENT:
        return ""
    return "machine" if Verdict.ERROR in verdicts else "unavailable"
