"""Search dates and commits on the fast engine, prove on the strict one.

User-mode Linux runs a test at nearly the host's speed, on the host's CPU and a kernel that is fast
at it; QEMU emulates the CPU that was asked for, ten times slower. So dates and commits are searched
on the first, and the runs that decide are repeated on the second, with the kernel that was asked
for: its answer counts.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Generic, TypeVar

from buildvm_nb.errors import BudgetSpent, BuildVMError
from buildvm_nb.image.uml import UML_KERNELS
from buildvm_nb.model.case import GitSource
from buildvm_nb.model.finding import Axis
from buildvm_nb.model.instants import format_instant
from buildvm_nb.model.machine import Accelerator, MachineSpec, Network
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.search import Probe, State
from buildvm_nb.study.conclusion import nearest
from buildvm_nb.study.dates import (
    DateRange,
    DateStudy,
    Prober,
    position,
    state_of,
    study_dates,
)
from buildvm_nb.study.laboratory import Laboratory, Order
from buildvm_nb.study.ordered import Line, LineStudy, study_line
from buildvm_nb.study.prepare import split_steps
from buildvm_nb.study.run import kernel_for, uml_status

__all__ = [
    "SEARCH_KERNEL",
    "AnyStudy",
    "Searched",
    "scout_of",
    "search_and_prove",
    "search_and_prove_commits",
]

_WORTH_S = 1.5
"""A fork boots anew under user-mode Linux, 0.6 s against 0.4: a test that is over sooner under
emulation gains nothing (docs/engines.md)."""
SEARCH_KERNEL = "debian:trixie"
"""Of the kernels of stable releases the one under which programs start soonest: see there."""


def scout_of(
    lab: Laboratory, spec: MachineSpec, plain: Sequence[Outcome] = (), *, keeps_kernel: bool = False
) -> MachineSpec | None:
    """Return the machine to search in.

    `keeps_kernel`: whether somebody asked for its kernel; else the default one gives way to one
    under which programs start sooner.
    `plain`: where forks are tested, runs of all steps in machines as `spec`, which show how long
    the test takes; none where each run boots anyway.
    Returns: None where user-mode Linux cannot stand in for it, or would not be faster.
    """
    can_stand_in = (
        spec.accelerator is Accelerator.TCG
        and spec.cpu_count == 1
        and spec.network is Network.OFF
        and spec.kernel in UML_KERNELS
        and not lab.is_remote  # a worker may have none
    )
    if not can_stand_in or (plain and _tested_s(lab, plain) < _WORTH_S):
        return None
    scout = spec.model_copy(update={"accelerator": Accelerator.UML, "cpu": "host"})
    try:
        works, _ = uml_status(lab.cache)
    except (BuildVMError, OSError):  # its kernel cannot be had
        return None
    if not works:
        return None
    return scout if keeps_kernel else _on_fast_kernel(scout, lab)


def _on_fast_kernel(scout: MachineSpec, lab: Laboratory) -> MachineSpec:
    if scout.kernel != MachineSpec.model_fields["kernel"].default:
        return scout
    faster = scout.model_copy(update={"kernel": SEARCH_KERNEL})
    try:
        kernel_for(faster, lab.cache, lab.progress)
    except (BuildVMError, OSError):
        return scout
    return faster


AnyStudy = TypeVar("AnyStudy", DateStudy, LineStudy)


@dataclass(frozen=True, kw_only=True)
class Searched(Generic[AnyStudy]):
    """What a search on two engines found."""

    study: AnyStudy
    told: str = ""
    """What is to be said of the engines."""
    is_gap: bool = False
    """Whether what decides was not seen on both."""
    is_overruled: bool = False
    """Whether they do not agree, or the fast one breaks down: all was searched on the strict one,
    and the other one's answers count for nothing."""


def search_and_prove(
    lab: Laboratory,
    strict: MachineSpec,
    scout: MachineSpec,
    span: DateRange,
    plain: Sequence[Outcome],
) -> Searched[DateStudy]:
    """Find all changes in a range of dates under user-mode Linux, and see what decides under QEMU.

    `plain`: runs of all steps in machines as `strict`.
    """

    def on_strict(told: str) -> Searched[DateStudy]:
        study = study_dates(lab, strict, span, plain)
        return Searched(study=study, told=told, is_overruled=True)

    ends = lab.run([Order(case=lab.case, machine=_at(scout, one)) for one in plain])
    if told := _differing(plain, ends):
        return on_strict(told)
    study = study_dates(lab, scout, span, ends)
    if told := _unclear(study):
        return on_strict(told)
    prober = Prober(lab, strict, span.first if study.is_forked else None)
    deciding = dict.fromkeys([*_deciding(study), *_passing(study, plain)])
    try:
        proven, pairs, lost = _prove(prober, study, deciding, _lasts_s(prober, plain))
    except BudgetSpent:
        told = f"{_alone(scout)}: {_SPENT}"
        return Searched(study=study, told=told, is_gap=True)
    if told := _differing([one for one, _ in pairs], [other for _, other in pairs]):
        return on_strict(told)
    study.outcomes = proven | {p: one for p, one in study.outcomes.items() if p not in proven}
    told = f"{_alone(scout)}: {lost}" if lost else _told_of(scout, strict)
    return Searched(study=study, told=told, is_gap=bool(lost))


def _prove(
    prober: Prober, study: DateStudy, probes: Iterable[Probe], lasts_s: int
) -> tuple[dict[Probe, Outcome], list[tuple[Outcome, Outcome]], str]:
    """Repeat probes of a study on the strict engine, each in the first way that gives an answer.

    `lasts_s`: see `_ways`.
    Returns: the runs that answered; each beside what it repeats; and why something was not
    answered, empty where all was.
    """
    ways = {probe: list(_ways(study, probe, lasts_s)) for probe in probes}
    proven: dict[Probe, Outcome] = {}
    pairs: list[tuple[Outcome, Outcome]] = []
    lost = ""
    while ways:
        tried = {probe: left.pop(0) for probe, left in ways.items()}
        outcomes = prober.run(list(dict.fromkeys(tried.values())))
        for probe, way in tried.items():
            found, repeated = outcomes[way], study.outcomes[probe]
            why = _silent(prober, study, way, found)
            is_borne = found.verdict is not Verdict.TIMEOUT
            if not why and way.held and not probe.held and _is_worse(found, repeated):
                why, is_borne = _STRAYED, False  # a running clock is to tell
            if not why:
                proven[way] = found
                pairs.append((found, repeated))
                del ways[probe]
                continue
            if not is_borne:  # what does not bear a clock that stands still never will
                ways[probe] = [other for other in ways[probe] if not other.held]
            if not ways[probe]:
                del ways[probe]
                lost = why
    return proven, pairs, lost


def _ways(study: DateStudy, probe: Probe, lasts_s: int) -> Iterator[Probe]:
    """Choose how a run may be repeated on the strict engine, the most telling way first.

    `lasts_s`: how long the clock runs on in a test there. Where it would run across a change, it
    is held: what took a second on the fast engine may take ten.
    """
    is_beside = _is_across(study, probe.at - 1, probe.at + lasts_s)  # or begins on a change
    if probe.held or not lasts_s or not is_beside:
        yield from (replace(probe, attempt=probe.attempt + number) for number in range(_TRIES))
        return
    yield from (Probe(at=probe.at, held=True, attempt=number) for number in range(_TRIES))
    farther = (
        other
        for other in sorted(_in_state(study, state_of(study.outcomes[probe])), reverse=True)
        if not other.held
        and other.at <= probe.at
        and not _is_across(study, other.at, other.at + lasts_s)
    )
    yield from islice(farther, _TRIES)


def _silent(prober: Prober, study: DateStudy, probe: Probe, outcome: Outcome) -> str:
    """Say why a run of the strict engine answers nothing; empty where it does."""
    answer = prober.answer(probe, outcome)
    if answer.state is State.UNKNOWN:
        return outcome.why if state_of(outcome) is State.UNKNOWN else _STRAYED
    return _ACROSS if _is_across(study, answer.first, answer.last) else ""


def _is_across(study: DateStudy, first: int, last: int) -> bool:
    """Tell whether a clock went on across a change: its run then shows no side of it."""
    changes = study.survey.transitions if not study.unexplained else ()
    return any(first < change.first_after <= last for change in changes)


def _is_worse(outcome: Outcome, other: Outcome) -> bool:
    return state_of(outcome) is State.BAD and state_of(other) is State.GOOD


def _lasts_s(prober: Prober, plain: Sequence[Outcome]) -> int:
    """Return how long the clock runs on in a test on the strict engine."""
    answers = [prober.answer(Probe(at=position(one.machine.date)), one) for one in plain]
    return max((answer.last - answer.first for answer in answers), default=0)


def search_and_prove_commits(
    lab: Laboratory, strict: Line, scout: Line, repeats: int
) -> Searched[LineStudy]:
    """Find changes along commits under user-mode Linux; see both sides of each under QEMU."""

    def on_strict(told: str) -> Searched[LineStudy]:
        return Searched(study=study_line(lab, strict, repeats), told=told, is_overruled=True)

    fast_spec, strict_spec = scout.ends[0].machine, strict.ends[0].machine
    if told := _differing(strict.ends, scout.ends, Axis.COMMIT):
        return on_strict(told)
    study = study_line(lab, scout, repeats)
    if told := _unclear(study):
        return on_strict(told)
    sides = {at for one in study.survey.transitions for at in (one.last_before, one.first_after)}
    deciding = [probe for probe in study.outcomes if probe.at in sides]
    orders = [strict.order(probe.at, probe.attempt) for probe in deciding]
    try:
        proven = dict(zip(deciding, lab.run(orders), strict=True))
    except BudgetSpent:
        return Searched(study=study, told=f"{_alone(fast_spec)}: {_SPENT}", is_gap=True)
    fast = [study.outcomes[probe] for probe in proven]
    if told := _differing(list(proven.values()), fast, Axis.COMMIT):
        return on_strict(told)
    others = {probe: one for probe, one in study.outcomes.items() if probe not in proven}
    study = replace(study, outcomes=others | proven)  # the last that passes is named
    lost = [one for one in proven.values() if state_of(one) is State.UNKNOWN]
    told = f"{_alone(fast_spec)}: {lost[0].why}" if lost else _told_of(fast_spec, strict_spec)
    return Searched(study=study, told=told, is_gap=bool(lost))


_TRIES = 3
_SPENT = "the budget of runs ended first"
_STRAYED = "under QEMU the guest's clock could not be held there"
_ACROSS = "under QEMU the test lasts longer, and its clock went on across the change"


def _alone(scout: MachineSpec) -> str:
    return f"what decides it was seen under user-mode Linux alone, with kernel {scout.kernel}"


def _told_of(scout: MachineSpec, strict: MachineSpec) -> str:
    """Say where the search had another kernel than what decides; empty where it had not."""
    if scout.kernel == strict.kernel:
        return ""
    return (
        f"the search was made with kernel {scout.kernel}, under user-mode Linux; what decides was "
        f"seen with {strict.kernel} as well"
    )


def _tested_s(lab: Laboratory, plain: Sequence[Outcome]) -> float:
    """Return how long the steps took that every fork repeats."""
    names = {step.name for step in split_steps(lab.case)[1]}
    return max(sum(s.duration_s for s in one.steps if s.name in names) for one in plain)


def _at(scout: MachineSpec, outcome: Outcome) -> MachineSpec:
    return scout.model_copy(update={"date": outcome.machine.date})


def _differing(strict: Sequence[Outcome], fast: Sequence[Outcome], axis: Axis = Axis.DATE) -> str:
    """Say where the engines do not agree; empty where they do, or one gave no verdict."""
    for one, other in zip(strict, fast, strict=True):
        states = state_of(one), state_of(other)
        if states[0] is not states[1] and State.UNKNOWN not in states:
            where = format_instant(one.machine.date)
            if axis is Axis.COMMIT and isinstance(one.case.source, GitSource):
                where = f"commit {one.case.source.commit:.12}"
            return (
                f"at {where} it {one.verdict} under QEMU and {other.verdict} under user-mode "
                "Linux: QEMU's answers count, and all was searched there"
            )
    return ""


def _unclear(study: DateStudy | LineStudy) -> str:
    """Say that a search is better made anew, and why; empty where it is not."""
    why = "did not always end alike" if study.survey.is_flaky else ""
    if any(one.verdict is Verdict.ERROR for one in study.outcomes.values()):
        why = "lost some of its guests"
    return f"user-mode Linux {why}: all was searched under QEMU" if why else ""


def _deciding(study: DateStudy) -> Iterator[Probe]:
    """Choose the runs next to each change, and some where a rule, or nothing, tells why."""
    if odd := set(study.unexplained):
        failing = (p for p in _in_state(study, State.BAD) if p.at in odd)
        yield from islice(failing, 2)
        yield from islice(_in_state(study, State.GOOD), 2)
        return
    for change in study.survey.transitions:
        for state in (change.before, change.after):
            probe = nearest(study.outcomes, change, state)
            if probe is not None:
                yield probe
    for state, is_wanted in ((State.BAD, True), (State.GOOD, False)) if study.rule else ():
        chosen = (
            probe
            for probe, outcome, is_ruled in study.running()
            if is_ruled is is_wanted and state_of(outcome) is state
        )
        yield from islice(chosen, 1)


def _in_state(study: DateStudy, state: State) -> Iterator[Probe]:
    return (probe for probe, one in study.outcomes.items() if state_of(one) is state)


def _passing(study: DateStudy, plain: Sequence[Outcome]) -> Iterator[Probe]:
    """Choose a passing run for the finding to name as its environment, where QEMU has none yet."""
    if not any(state_of(one) is State.GOOD for one in plain):
        passing = (p for p, one, _ in study.running() if state_of(one) is State.GOOD)
        yield from islice(passing, 1)
