"""From what the axes showed to one finding."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from itertools import chain, product
from typing import TYPE_CHECKING, Any

from buildvm_nb.model.case import GitSource, Window
from buildvm_nb.model.finding import (
    Axis,
    Boundary,
    Count,
    Finding,
    FindingKind,
    Hint,
    Reruns,
    Support,
)
from buildvm_nb.model.instants import format_instant, parse_instant
from buildvm_nb.model.machine import Accelerator
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.search import (
    LEVEL,
    Assumption,
    AssumptionKind,
    Probe,
    State,
    Survey,
    Transition,
    coin_confidence,
)
from buildvm_nb.study.choice import passes_at
from buildvm_nb.study.dates import (
    DateStudy,
    explain_boundary,
    hint_within,
    state_of,
    unexplained_finding,
    when,
    with_rule,
)

if TYPE_CHECKING:
    from buildvm_nb.model.case import Case
    from buildvm_nb.model.machine import MachineSpec
    from buildvm_nb.source import Commit
    from buildvm_nb.study.cpus import CpuStudy
    from buildvm_nb.study.ordered import LineStudy

__all__ = [
    "assumptions_of",
    "both_finding",
    "changed_words",
    "cpu_finding",
    "dates_finding",
    "flaky_finding",
    "gaps_of",
    "line_finding",
    "nearest",
    "reruns_of",
    "seen_so_far",
    "support_of",
    "windows_of",
]

_SECOND = timedelta(seconds=1)


def dates_finding(study: DateStudy, hints: Sequence[Hint], base: Finding) -> Finding | None:
    """Conclude from a search along the date axis.

    Returns: None where nothing was seen to change.
    """
    survey = study.survey
    if survey.is_flaky:
        split = {(one.at, one.held) for one in survey.disagreements}
        runs = [one for probe, one in study.outcomes.items() if (probe.at, probe.held) in split]
        flaky = flaky_finding(runs, Axis.DATE, base)
        if study.change is None:
            return flaky
        return flaky_boundary(flaky, date_finding(study, hints, base), study)
    if study.unexplained:
        return unexplained_finding(study, base)
    is_told = survey.transitions and not study.is_open
    located = date_finding(study, hints, base) if is_told else None
    return with_rule(study, base, located) if study.rule else located


def date_finding(study: DateStudy, hints: Sequence[Hint], base: Finding) -> Finding:
    """Conclude from changes along the date axis.

    `study`: with one change at least.
    """
    transitions = study.survey.transitions
    boundaries = tuple(_date_boundary(study, change, hints) for change in transitions)
    windows = windows_of(study.survey)
    failing = [change for change in transitions if change.after is State.BAD] or transitions
    bad = _beside(study.outcomes, failing[-1], State.BAD)
    changes = {
        "kind": FindingKind.TIME_TRAP,
        "axis": Axis.DATE,
        "boundaries": boundaries,
        "windows": windows,
        "failing_line": bad.evidence if bad else "",
        "confidence": coin_confidence(min(change.confirmed for change in transitions)),
        "assumptions": _each_once(assumptions_of(study.survey), base.assumptions),
    }
    told = [
        _tell_change(boundary, _candidate(change, hints))
        for boundary, change in zip(boundaries, transitions, strict=True)
    ]
    return base.model_copy(update=changes | {"summary": "; ".join(told)})


def cpu_finding(study: "CpuStudy", base: Finding) -> Finding:
    """Conclude from differences between CPUs."""
    good, bad = study.good, study.bad
    if good is None or bad is None:
        raise AssertionError("a CPU finding needs a passing and a failing model")
    if study.features:
        why = f"{good.machine.cpu} fails without {_listed(study.features)}"
        if study.needed:
            why += f", {bad.machine.cpu} passes with {_listed(study.needed)}"
        if study.needs_vendor:
            other, vendor = study.needs_vendor
            why += f"; {other.machine.cpu}, which has that, passes as {vendor} only"
    elif study.harmful:
        why = f"{good.machine.cpu} fails with {_listed(study.harmful)}"
    elif study.vendor:
        why = f"the vendor decides it: {bad.machine.cpu} passes as {study.vendor}"
    else:
        why = "no set of features was seen to decide it"
    return base.model_copy(
        update={
            "kind": FindingKind.CPU_DEPENDENT,
            "axis": Axis.CPU,
            "summary": f"{bad.verdict} on {bad.machine.cpu}, passes on {good.machine.cpu}: {why}",
            "passing_cpus": tuple(one.machine.cpu for one in study.passing),
            "failing_cpus": tuple(one.machine.cpu for one in study.failing),
            "features": study.features,
            "features_harmful": study.harmful,
            "features_base": good.machine.cpu,
            "features_needed": study.needed,
            "failing_line": bad.evidence or bad.reason,
            "environment": good.machine,
            "confidence": coin_confidence(study.confirmed),
            "assumptions": (*base.assumptions, *study.notes),
        }
    )


def both_finding(dated: Finding, by_cpu: Finding) -> Finding:
    """Conclude from a date and a CPU that make a difference only together.

    Returns: a time trap that only some CPUs have.
    """
    return dated.model_copy(
        update={
            "summary": f"{dated.summary}; and that on some CPUs only: {by_cpu.summary}",
            "passing_cpus": by_cpu.passing_cpus,
            "failing_cpus": by_cpu.failing_cpus,
            "features": by_cpu.features,
            "features_base": by_cpu.features_base,
            "features_needed": by_cpu.features_needed,
            "features_harmful": by_cpu.features_harmful,
            "confidence": min(dated.confidence, by_cpu.confidence),
            "assumptions": _each_once(dated.assumptions, by_cpu.assumptions),
        }
    )


def line_finding(study: "LineStudy", base: Finding) -> Finding:
    """Conclude from changes along an axis of a few values.

    `study`: with one change at least.
    """
    line, transitions = study.line, study.survey.transitions
    if line.axis is Axis.TIMEZONE:
        return _zone_finding(study, base)
    boundaries = tuple(_line_boundary(study, change) for change in transitions)
    bad = _first(study.outcomes.values(), State.BAD)
    good = _first(reversed(list(study.outcomes.values())), State.GOOD)
    told = (
        [_tell_commit(line.commits, change) for change in transitions]
        if line.commits
        else [
            f"{_verdict_words(b.before)} up to {line.axis} {b.last_before}, "
            f"{_verdict_words(b.after)} from {b.first_after} on"
            for b in boundaries
        ]
    )
    changes = {
        "kind": line.kind,
        "axis": line.axis,
        "summary": "; ".join(told),
        "boundaries": boundaries,
        "failing_line": bad.evidence if bad else "",
        "environment": good.machine if good else None,
        "confidence": coin_confidence(min(change.confirmed for change in transitions)),
        "assumptions": _each_once(base.assumptions, line.missing, line.notes),
    }
    if line.axis is Axis.KERNEL:
        changes["passing_kernels"] = _kernels(study, State.GOOD)
        changes["failing_kernels"] = _kernels(study, State.BAD)
    return base.model_copy(update=changes)


def _zone_finding(study: "LineStudy", base: Finding) -> Finding:
    """Conclude where it passes in some time zones and fails in others, which have no order."""
    values = study.line.values
    by_state: dict[State, list[int]] = {State.GOOD: [], State.BAD: []}
    for index in range(len(values)):
        states = {state_of(one) for one in study.at(index)} - {State.UNKNOWN}
        if len(states) == 1:
            by_state[states.pop()].append(index)
    good, bad = by_state[State.GOOD], by_state[State.BAD]
    shown = study.at(good[0])[0]
    failed = next(one for one in study.at(bad[0]) if state_of(one) is State.BAD)
    boundaries = tuple(
        Boundary(
            axis=Axis.TIMEZONE,
            last_before=values[good[0]],
            first_after=values[index],
            before=Verdict.PASSED,
            after=failed.verdict,
            is_exact=True,
            confirmed=len(study.at(index)) - 1,
        )
        for index in bad
    )
    told = [_listed([study.line.tell(index) for index in some]) for some in (bad, good)]
    changes = {
        "kind": study.line.kind,
        "axis": Axis.TIMEZONE,
        "summary": f"fails with TZ={told[0]}; passes with TZ={told[1]}",
        "boundaries": boundaries,
        "failing_line": failed.evidence,
        "environment": shown.machine,
    }
    return base.model_copy(update=changes)


def _tell_commit(commits: "Sequence[Commit]", change: Transition) -> str:
    verb, first = "passes" if change.after is State.GOOD else "fails", commits[change.first_after]
    told = f"{verb} from commit {first.id[:12]} on ({first.committed_at:%Y-%m-%d}, {first.subject})"
    if skipped := change.first_after - change.last_before - 1:
        told += f", or from one of the {skipped} before it, which do not build"
    return told


def flaky_finding(disagreeing: Iterable[Outcome], axis: Axis | None, base: Finding) -> Finding:
    """Conclude from runs of the same thing in the same environment that do not agree."""
    runs = list(disagreeing)
    bad = _first(runs, State.BAD)
    good = _first(runs, State.GOOD)
    counts = Counter(state_of(one) for one in runs)
    total = counts[State.GOOD] + counts[State.BAD]
    summary = (
        f"the same run in the same environment does not always end alike: "
        f"{counts[State.GOOD]} of {total} repeated runs passed"
    )
    changes = {
        "kind": FindingKind.FLAKY,
        "axis": axis,
        "summary": summary,
        "reruns": reruns_of(runs),
        "failing_line": bad.evidence if bad else "",
        "environment": good.machine if good else base.environment,
        "confidence": 1.0 if good and bad else 0.0,
    }
    return base.model_copy(update=changes)


def flaky_boundary(flaky: Finding, located: Finding, study: DateStudy) -> Finding:
    """Conclude where it fails by chance, and from some date on much more or less often."""
    change = study.change
    if change is None:
        raise AssertionError("without a change it is only flaky")
    counts = [f"{failed} of {passed + failed}" for passed, failed in (change.before, change.after)]
    told = (
        f"{located.summary}; not always alike: before, {counts[0]} runs failed, and {counts[1]} "
        f"after (Fisher's exact test at {LEVEL})"
    )
    return located.model_copy(update={"summary": told, "reruns": flaky.reruns, "confidence": 0.0})


def seen_so_far(judged: Iterable[Outcome]) -> str:
    """Say of the runs that are most alike, but did not end alike, what tells them apart.

    Returns: empty where all ended alike.
    """
    runs = [one for one in judged if not one.probing.held]
    pairs = [
        (good, bad)
        for good, bad in product(runs, runs)
        if (state_of(good), state_of(bad)) == (State.GOOD, State.BAD)
        and good.machine.accelerator is bad.machine.accelerator
    ]
    if not pairs:
        return ""

    def unlikeness(pair: tuple[Outcome, Outcome]) -> tuple[int, timedelta, int]:
        good, bad = (one.machine for one in pair)
        cores = abs(good.cpu_count - bad.cpu_count)
        return len(_differences(*pair)), abs(good.date - bad.date), cores

    good, bad = min(pairs, key=unlikeness)
    passed, failed = _differences(good, bad), _differences(bad, good)
    if not passed:
        return "the same run in the same environment did not always end alike"
    other = ", nor a window or a rule" if "date" in passed else ""
    return (
        f"so far it passed {changed_words(passed)} and failed {changed_words(failed)}; chance was "
        f"not excluded{other}"
    )


def _differences(one: Outcome, other: Outcome) -> dict[str, Any]:
    """Return where a run's case and machine are not as another one's, with its values."""
    here, there = _varied(one), _varied(other)
    return {field: value for field, value in here.items() if value != there[field]}


def _varied(outcome: Outcome) -> dict[str, Any]:
    case, machine = outcome.case, outcome.machine
    return {
        "commit": case.source.commit if isinstance(case.source, GitSource) else None,
        "date": format_instant(machine.date),
        "cpu": machine.cpu,
        "kernel": machine.kernel,
        "cpu_count": machine.cpu_count,
        "timezone": case.timezone,
    }


_VARIED_WORDS = {
    "commit": "at commit {:.12}",
    "date": "at {}",
    "cpu": "on CPU {}",
    "kernel": "on kernel {}",
    "cpu_count": "with {} cores",
    "timezone": "with TZ={}",
}


def changed_words(changes: Mapping[str, Any]) -> str:
    """Say what was varied, for example ``on CPU EPYC, with 2 cores``.

    `changes`: fields of a machine, ``commit`` or ``timezone``, with their values.
    """
    told = (_VARIED_WORDS[field].format(value) for field, value in changes.items())
    return ", ".join(told).replace("with 1 cores", "with 1 core")


def assumptions_of(survey: Survey) -> tuple[str, ...]:
    """Say what a search along the date axis took for granted."""
    return tuple(map(_in_words, survey.assumptions))


def support_of(finding: Finding, outcomes: Iterable[Outcome], study: DateStudy | None) -> Support:
    """Count what a finding rests on."""
    told = [one for one in outcomes if _is_told(one)]
    expected = [(one, _expected(finding, one)) for one in told]
    counts = {}
    for state in (State.GOOD, State.BAD):
        side = [one for one, wanted in expected if wanted is state]
        agreed = sum(state_of(one) is state for one in side)
        counts[state] = Count(agreed=agreed, of=len(side))
    steps = [one.step for one in study.survey.assumptions if one.step] if study else []
    return Support(
        passing=counts[State.GOOD],
        failing=counts[State.BAD],
        dates=len({one.machine.date for one in told}),
        shortest_window_s=max(steps, default=None),
        calendar=study.covered if study else (),
        calendar_left=study.lacking if study else (),
        cpus=tuple(sorted({one.machine.cpu for one in told if "," not in one.machine.cpu})),
        kernels=tuple(sorted({one.machine.kernel for one in told})),
        cores=tuple(sorted({one.machine.cpu_count for one in told})),
        engines=tuple(
            sorted({one.environment.engine for one in told if one.environment is not None})
        ),
    )


def _expected(finding: Finding, outcome: Outcome) -> State | None:
    """Return what a finding says of a run; None: nothing, or its clock ran across a change."""
    match finding.kind:
        case FindingKind.SOUND | FindingKind.OUTPUT_VARIES:
            return State.GOOD
        case FindingKind.ALWAYS_FAILING:
            return State.BAD
        case FindingKind.TIME_TRAP | FindingKind.RECURRING:
            return _expected_at(finding, outcome)
        case FindingKind.CPU_DEPENDENT:
            return _among(outcome.machine.cpu, finding.passing_cpus, finding.failing_cpus)
        case FindingKind.KERNEL_DEPENDENT:
            kernels = finding.passing_kernels, finding.failing_kernels
            return _among(outcome.machine.kernel, *kernels)
    return None


def _among(value: str, passing: Sequence[str], failing: Sequence[str]) -> State | None:
    if value in passing:
        return State.GOOD
    return State.BAD if value in failing else None


def _expected_at(finding: Finding, outcome: Outcome) -> State | None:
    """Return what a finding on dates says of a run in its own machine, wholly on one side."""
    machine, shown = outcome.machine, finding.environment
    if shown and machine.kernel != shown.kernel:
        return None
    # user-mode Linux has the host's CPU, whatever was asked for
    if shown and machine.cpu != shown.cpu and machine.accelerator is not Accelerator.UML:
        return None
    ends = [one.clock_ended_at for one in outcome.steps if one.clock_ended_at]
    last = max([machine.date, *ends])
    edges = [
        (parse_instant(one.last_before), parse_instant(one.first_after))
        for one in finding.boundaries
    ]
    if any(machine.date < after and before < last for before, after in edges):
        return None
    first, second = (passes_at(finding, at) for at in (machine.date, last))
    return (State.GOOD if first else State.BAD) if first is second else None


def gaps_of(outcomes: Iterable[Outcome], base: "Case") -> tuple[str, ...]:
    """Say where a case was run and no run gave a verdict.

    `outcomes`: all runs. Those under a held clock do not count: they locate what running clocks
    show.
    Returns: one for each CPU, kernel or number of cores without any verdict, and for other dates
    and commits, with the reason.
    """
    places: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        if not outcome.probing.held:
            place = (outcome.case.build_digest(), outcome.machine.content_digest())
            places.setdefault(place, []).append(outcome)
    told = [runs for runs in places.values() if any(map(_is_told, runs))]
    silent = [runs[-1] for runs in places.values() if not any(map(_is_told, runs))]
    gaps = []
    words = {Axis.CPU: "CPU", Axis.KERNEL: "kernel", Axis.CORES: "number of cores"}
    for axis, what in words.items():
        known = {getattr(runs[0].machine, axis.field) for runs in told}
        lost = {getattr(one.machine, axis.field): one for one in silent}
        gaps += [
            _gap(f"on {what} {value}", one) for value, one in lost.items() if value not in known
        ]
        silent = [one for one in silent if getattr(one.machine, axis.field) in known]
    own = base.build_digest()
    others = [one for one in silent if one.case.build_digest() != own]
    dates = sorted(
        (one for one in silent if one.case.build_digest() == own), key=lambda one: one.machine.date
    )
    if others:
        what = "time zones" if others[-1].case.source == base.source else "commits"
        gaps.append(_gap(f"on {len(others)} other {what}", others[-1]))
    if dates:
        first, last = (format_instant(one.machine.date) for one in (dates[0], dates[-1]))
        span = f"at {first}" if first == last else f"at {len(dates)} dates from {first} to {last}"
        gaps.append(_gap(span, dates[-1]))
    return tuple(gaps)


def _is_told(outcome: Outcome) -> bool:
    return state_of(outcome) is not State.UNKNOWN


def _gap(where: str, outcome: Outcome) -> str:
    return f"no verdict {where} ({outcome.why or outcome.verdict.value})"


def _each_once(*told: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(chain.from_iterable(told)))


def reruns_of(outcomes: Iterable[Outcome]) -> tuple[Reruns, ...]:
    """Count verdicts for each machine.

    `outcomes`: in any order.
    Returns: one for each machine, in the order of its first run.
    """
    counts: dict[str, Counter[Verdict]] = {}
    machines: dict[str, MachineSpec] = {}
    for outcome in outcomes:
        key = outcome.machine.content_digest()
        machines.setdefault(key, outcome.machine)
        counts.setdefault(key, Counter())[outcome.verdict] += 1
    return tuple(Reruns(machine=machines[key], verdicts=dict(counts[key])) for key in machines)


def windows_of(survey: Survey) -> tuple[Window, ...]:
    """Return when a case passes.

    Returns: in order. Where a change is not exact, only what is known to pass belongs to them.
    """
    windows = []
    starts: int | None = None
    is_good = bool(survey.stretches) and survey.stretches[0].state is State.GOOD
    for change in survey.transitions:
        if change.after is State.GOOD:
            starts, is_good = change.first_after, True
        elif change.before is State.GOOD:
            windows.append(_window(starts, change.last_before))
            starts, is_good = None, False
    if is_good:
        windows.append(_window(starts, None))
    return tuple(windows)


def _window(first: int | None, last: int | None) -> Window:
    return Window(
        passes_from=None if first is None else when(first),
        passes_until=None if last is None else when(last),
    )


def _date_boundary(study: DateStudy, change: Transition, hints: Sequence[Hint]) -> Boundary:
    becomes_good = change.after is State.GOOD
    cause = None
    if _is_exact(change):
        cause = explain_boundary(hints, change.first_after, becomes_good=becomes_good)
    return Boundary(
        axis=Axis.DATE,
        last_before=format_instant(when(change.last_before)),
        first_after=format_instant(when(change.first_after)),
        before=_verdict(_beside(study.outcomes, change, change.before), change.before),
        after=_verdict(_beside(study.outcomes, change, change.after), change.after),
        is_exact=_is_exact(change),
        confirmed=change.confirmed,
        cause=cause,
    )


def _line_boundary(study: "LineStudy", change: Transition) -> Boundary:
    return Boundary(
        axis=study.line.axis,
        last_before=study.line.values[change.last_before],
        first_after=study.line.values[change.first_after],
        before=_verdict(_first(study.at(change.last_before), change.before), change.before),
        after=_verdict(_first(study.at(change.first_after), change.after), change.after),
        is_exact=_is_exact(change),
        confirmed=change.confirmed,
    )


def _is_exact(change: Transition) -> bool:
    """Tell whether nothing lies between both sides, however coarse an answer was asked for."""
    return change.is_exact and change.first_after - change.last_before == 1


def nearest(outcomes: Mapping[Probe, Outcome], change: Transition, state: State) -> Probe | None:
    """Return the run of a state that is nearest to a change, from its own side if there is one.

    A run whose clock went on may have begun on the other side, so of two a held one comes first.
    """

    def rank(probe: Probe) -> tuple[bool, int, bool, int]:
        is_before = state is change.before
        is_beside = probe.at <= change.last_before if is_before else probe.at >= change.first_after
        return not is_beside, abs(probe.at - change.first_after), not probe.held, probe.attempt

    fitting = (probe for probe, outcome in outcomes.items() if state_of(outcome) is state)
    return min(fitting, key=rank, default=None)


def _beside(outcomes: Mapping[Probe, Outcome], change: Transition, state: State) -> Outcome | None:
    probe = nearest(outcomes, change, state)
    return outcomes[probe] if probe else None


def _first(outcomes: Iterable[Outcome], state: State) -> Outcome | None:
    return next((outcome for outcome in outcomes if state_of(outcome) is state), None)


def _verdict(outcome: Outcome | None, state: State) -> Verdict:
    if outcome:
        return outcome.verdict
    return Verdict.PASSED if state is State.GOOD else Verdict.FAILED


def _kernels(study: "LineStudy", state: State) -> tuple[str, ...]:
    return tuple(
        dict.fromkeys(
            outcome.machine.kernel
            for _, outcome in sorted(study.outcomes.items())
            if state_of(outcome) is state
        )
    )


def _candidate(change: Transition, hints: Sequence[Hint]) -> Hint | None:
    """Return what would explain a change that is not exact."""
    if _is_exact(change):
        return None
    becomes_good = change.after is State.GOOD
    return hint_within(hints, change.last_before, change.first_after, becomes_good=becomes_good)


def _tell_change(boundary: Boundary, candidate: Hint | None) -> str:
    verb = "passes" if boundary.after is Verdict.PASSED else _verdict_words(boundary.after)
    if boundary.is_exact:
        why = f" ({_tell_hint(boundary.cause)})" if boundary.cause else ""
        return f"{verb} from {boundary.first_after} on{why}"
    why = f" (in between, but not proven to be why: {_tell_hint(candidate)})" if candidate else ""
    return f"{verb} from a moment between {boundary.last_before} and {boundary.first_after} on{why}"


def _tell_hint(hint: Hint) -> str:
    line = "" if hint.line is None else f":{hint.line}"
    place = f"{hint.path}{line}: " if hint.path else ""
    return f"{place}{hint.why}"


def _verdict_words(verdict: Verdict) -> str:
    return {
        Verdict.PASSED: "passes",
        Verdict.FAILED: "fails",
        Verdict.CRASHED: "crashes",
        Verdict.TIMEOUT: "hangs",
    }.get(verdict, str(verdict))


def _in_words(assumption: Assumption) -> str:
    first, last = (format_instant(when(at)) for at in (assumption.first, assumption.last))
    if assumption.kind is AssumptionKind.NO_SHORT_WINDOW:
        step = _lasting(assumption.step)
        return f"between {first} and {last} no further change that is undone within {step}"
    if assumption.kind is AssumptionKind.ONE_CHANGE:
        return f"only one change between {first} and {last}"
    if assumption.kind is AssumptionKind.HELD_DISAGREED:
        return (
            f"between {first} and {last} runs with a held clock do not end alike; they were left "
            "out, and a running clock locates a change no closer than the run is long: a case "
            "with the failing test alone may tell more"
        )
    return (
        f"between {first} and {last} runs with a held clock contradict runs whose clock goes on; "
        "they were left out"
    )


def _lasting(seconds: int) -> str:
    for size, unit in ((365.25 * 86_400, "years"), (86_400, "days"), (3600, "hours")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds} seconds"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
