"""Axes whose values are few and in order, such as kernels; and outputs that vary along an axis."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from shutil import which
from subprocess import DEVNULL, PIPE, run
from typing import cast

from debian.debian_support import NativeVersion

from buildvm_nb.errors import SourceError, Unreachable
from buildvm_nb.image.uml import UML_KERNELS
from buildvm_nb.model.case import GitSource, at_commit
from buildvm_nb.model.finding import Axis, Finding, FindingKind
from buildvm_nb.model.machine import Accelerator, MachineSpec
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.search import Answer, Plan, Probe, State, Survey, coin_confidence, find_transitions
from buildvm_nb.source import Commit, list_commits
from buildvm_nb.study.dates import state_of
from buildvm_nb.study.laboratory import Laboratory, Order
from buildvm_nb.study.prepare import home_of, split_steps
from buildvm_nb.study.run import Part, Setting, kernel_for, run_once
from buildvm_nb.vm import scratch_directory

__all__ = [
    "KERNELS",
    "Line",
    "LineStudy",
    "commit_line",
    "core_line",
    "kernel_line",
    "study_line",
    "study_outputs",
    "zone_line",
]

# An axis of a few values: kernels, numbers of cores, time zones, commits.

KERNELS = ("debian:bullseye", "debian:bookworm", "debian:bookworm-backports", "debian:sid")
"""One for each long-lived series that Debian's mirrors have; trixie has that of the backports."""

ZONES = {
    "UTC": "UTC",
    "<+14>-14": "14 hours east of UTC",
    "<-11>11": "11 hours west of UTC, beyond the date line",
    "CET-1CEST,M3.5.0,M10.5.0/3": "central Europe, with summer time",
}
"""Values of ``TZ``, as POSIX writes them: no image needs zone files for these. Between the second
and the third it is never the same day."""

_SCAN_PARTS = 8
"""What is undone in between shows where both ends are alike: so many parts are looked at."""
_FLAVOUR = re.compile(r"(?:-(?:cloud|rt|amd64|generic|unsigned))+$")


@dataclass(frozen=True, kw_only=True)
class Line:
    """An axis of a few values, and how a case is run at each of them."""

    axis: Axis
    kind: FindingKind
    """What a case is that depends on it."""
    values: tuple[str, ...]
    """In their order, as they are told."""
    order: Callable[[int, int], Order]
    """Makes an order of the index of a value and the number of the repetition."""
    judge: Callable[[Outcome], State] = state_of
    parts: int | None = None
    """Looked at first; None: every value, as bad intervals between good ones do occur."""
    commits: tuple[Commit, ...] = ()
    """Of the commit axis: what its values are."""
    ends: tuple[Outcome, ...] = ()
    """Of the commit axis: runs of the first and the last."""
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    """What should have been tried and could not be had."""

    def tell(self, at: int) -> str:
        """Tell a value in a sentence."""
        value = self.values[at]
        place = ZONES.get(value, value) if self.axis is Axis.TIMEZONE else value
        return value if place == value else f"{value} ({place})"


@dataclass(frozen=True, kw_only=True)
class LineStudy:
    """What was found along an axis of a few values."""

    line: Line
    survey: Survey
    outcomes: dict[Probe, Outcome]
    """By index into the line's values."""

    def at(self, index: int) -> list[Outcome]:
        """Return the outcomes at one value."""
        return [outcome for probe, outcome in self.outcomes.items() if probe.at == index]

    @property
    def disagreeing(self) -> list[Outcome]:
        """The runs at values where the same run does not always end alike."""
        split = sorted({one.at for one in self.survey.disagreements})
        return [outcome for index in split for outcome in self.at(index)]


def study_line(lab: Laboratory, line: Line, repeats: int) -> LineStudy:
    """Find where the verdict changes along a line."""
    seen: dict[Probe, Outcome] = {}

    def ask(probes: Sequence[Probe]) -> list[Answer]:
        outcomes = lab.run([line.order(probe.at, probe.attempt) for probe in probes])
        seen.update(zip(probes, outcomes, strict=True))
        return [
            Answer(state=line.judge(outcome), first=probe.at, last=probe.at)
            for probe, outcome in zip(probes, outcomes, strict=True)
        ]

    last, parts = len(line.values) - 1, line.parts
    plan = Plan(
        first=0,
        last=last,
        scan=range(last + 1) if parts is None else [last * n // parts for n in range(1, parts)],
        repeats=repeats,
        workers=lab.workers,
        can_hold=False,
        reveal=0,
    )
    return LineStudy(line=line, survey=find_transitions(ask, plan), outcomes=seen)


def kernel_line(lab: Laboratory, spec: MachineSpec, names: Sequence[str] = ()) -> Line:
    """Put kernels into the order of their versions.

    `names`: kernels to try beside that of `spec`; by default `KERNELS`.
    Returns: values are releases, as ``uname -r`` says them. A kernel that cannot be had is left
    out, with a note.
    """
    releases: dict[str, str] = {}
    notes, missing = [], []
    usual = UML_KERNELS if spec.accelerator is Accelerator.UML else KERNELS
    for name in dict.fromkeys([*(names or usual), spec.kernel]):
        try:
            kernel = kernel_for(spec.model_copy(update={"kernel": name}), lab.cache, lab.progress)
        except (SourceError, Unreachable) as error:
            missing.append(f"kernel {name} cannot be had: {error.message}")
        else:
            release = kernel.release
            other = releases.setdefault(release, name)
            if other == name:
                continue
            if name.startswith("debian:") and other.startswith("debian:"):
                notes.append(f"kernel {name} is the same as {other}: {release}")
            else:  # one's own may differ all the same
                missing.append(f"kernel {name} is left out: it has the release of {other}")
    values = tuple(sorted(releases, key=_version))
    home = home_of(lab.case, spec)

    def order(at: int, attempt: int) -> Order:
        machine = spec.model_copy(update={"kernel": releases[values[at]]})
        probing = {"attempt": attempt, "prepared_on": home}
        return Order(case=lab.case, machine=machine, probing=probing)

    return Line(
        axis=Axis.KERNEL,
        kind=FindingKind.KERNEL_DEPENDENT,
        values=values,
        order=order,
        notes=tuple(notes),
        missing=tuple(missing),
    )


def core_line(lab: Laboratory, spec: MachineSpec, counts: Sequence[int]) -> Line:
    """Put numbers of cores into order."""
    ordered = sorted({*counts, spec.cpu_count})

    def order(at: int, attempt: int) -> Order:
        machine = spec.model_copy(update={"cpu_count": ordered[at]})
        return Order(case=lab.case, machine=machine, probing={"attempt": attempt})

    return Line(
        axis=Axis.CORES,
        kind=FindingKind.CORES_DEPENDENT,
        values=tuple(map(str, ordered)),
        order=order,
    )


def zone_line(lab: Laboratory, spec: MachineSpec) -> Line:
    """List time zones for the environment of a case's steps, the case's own first."""
    own = lab.case.timezone
    zones = tuple(dict.fromkeys([own, *ZONES]))

    def order(at: int, attempt: int) -> Order:
        case = lab.case.in_timezone(zones[at]) if at else lab.case
        return Order(case=case, machine=spec, probing={"attempt": attempt})

    return Line(axis=Axis.TIMEZONE, kind=FindingKind.TIMEZONE_DEPENDENT, values=zones, order=order)


def commit_line(lab: Laboratory, spec: MachineSpec, good: str, bad: str) -> Line:
    """List the commits between two, at a fixed date, in one machine.

    What the ends show decides what failing means: where an end does not build, that is it; else
    commits that do not build are skipped. Where both ends are alike, some between are looked at.
    """
    commits = between_commits(lab, good, bad)
    builders = {step.name for step in split_steps(lab.case)[0]}

    def order(at: int, attempt: int) -> Order:
        case = at_commit(lab.case, commits[at].id)
        return Order(case=case, machine=spec, probing={"attempt": attempt})

    ends = lab.run([order(at, 0) for at in (0, len(commits) - 1)])
    failing = [one for one in ends if state_of(one) is State.BAD]
    is_of_build = any(one.failing_step in builders for one in failing)

    def judge(outcome: Outcome) -> State:
        """Skip what does not build, unless that is what an end fails by."""
        is_skipped = outcome.failing_step in builders and not is_of_build
        return State.UNKNOWN if is_skipped else state_of(outcome)

    is_alike = len({state_of(one) for one in ends}) == 1
    return Line(
        axis=Axis.COMMIT,
        kind=FindingKind.COMMIT_DEPENDENT,
        values=tuple(commit.id for commit in commits),
        order=order,
        judge=judge,
        parts=min(len(commits) - 1, _SCAN_PARTS if is_alike else 1) or 1,
        commits=commits,
        ends=tuple(ends),
    )


def between_commits(lab: Laboratory, good: str, bad: str) -> tuple[Commit, ...]:
    """List the commits to search, from the older one of both on.

    Raises `SourceError` if a commit cannot be had, or neither is an ancestor of the other.
    """
    source = cast("GitSource", at_commit(lab.case, good).source)
    listed = partial(list_commits, source, cache=lab.cache, base=lab.base, progress=lab.progress)
    try:
        return listed(good, bad)
    except SourceError as error:
        try:
            return listed(bad, good)
        except SourceError:
            raise error from None


def _version(release: str) -> tuple[NativeVersion, str]:
    """Return what orders releases: as Debian orders versions, ABI numbers among their parts.

    The flavour, such as ``cloud-amd64``, comes last of all. A candidate, ``6.6-rc1``, comes before
    what it becomes.
    """
    plain = re.sub(r"-rc(?=\d)", "~rc", _FLAVOUR.sub("", release))
    return NativeVersion(re.sub(r"[^A-Za-z0-9.+~-]", "-", plain)), release


# Outputs that vary: artifacts that differ along an axis although every run passes.

_SHOWN_LINES = 40
_NO_DIFFOSCOPE = "not shown: diffoscope is not installed on this host (apt install diffoscope)"
_TIMEOUT_S = 600


@dataclass(frozen=True, kw_only=True)
class _Variation:
    """Two runs that passed and left different files."""

    axis: Axis | None
    first: Outcome
    second: Outcome

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of the artifacts that differ, or that only one run left."""
        left = {artifact.path: artifact.digest for artifact in self.first.artifacts}
        right = {artifact.path: artifact.digest for artifact in self.second.artifacts}
        return tuple(sorted(path for path in left | right if left.get(path) != right.get(path)))


def study_outputs(
    lab: Laboratory, own: MachineSpec, today: MachineSpec, base: Finding, *, repeats: int = 2
) -> tuple[Finding | None, tuple[Outcome, ...]]:
    """Compare the artifacts of a case that passes everywhere, along every axis that was run.

    Clocks are held while steps run, so that a time stamp in an artifact tells the date alone, and
    not how long a build took. The same machine is asked again first: an artifact that differs
    there says nothing about an axis.

    Returns: None where the case has no artifacts, or they are the same everywhere; and the runs
    that did not pass, so that nothing of theirs was compared.
    """
    if not lab.case.artifacts:
        return None, ()
    controls = lab.run([_order(lab, own, attempt) for attempt in range(repeats + 1)])
    failed = [one for one in controls if one.verdict is not Verdict.PASSED]
    if failed:
        return None, tuple(failed)
    first = controls[0]
    varying = [_Variation(axis=None, first=first, second=one) for one in controls[1:]]
    if not any(one.files for one in varying):
        others = dict(_tried(lab, own))
        if other := _other_date(lab, own.date, today.date):
            others = {Axis.DATE: own.model_copy(update={"date": other})} | others
        outcomes = lab.run([_order(lab, spec) for spec in others.values()])
        ran = list(zip(others, outcomes, strict=True))
        varying = [
            _Variation(axis=axis, first=first, second=outcome)
            for axis, outcome in ran
            if outcome.verdict is Verdict.PASSED
        ]
        failed = [outcome for outcome in outcomes if outcome.verdict is not Verdict.PASSED]
    found = next((one for one in varying if one.files), None)
    return (_conclude(lab, found, base, repeats) if found else None), tuple(failed)


def _order(lab: Laboratory, spec: MachineSpec, attempt: int = 0) -> Order:
    return Order(case=lab.case, machine=spec, probing={"held": True, "attempt": attempt})


def _other_date(lab: Laboratory, own: datetime, today: datetime) -> datetime | None:
    """Choose today or a date that was tried: one that differs in year, month, day and time."""
    dates = [today, *(one.machine.date for one in lab.evidence.values())]
    others = [date for date in dates if date.date() != own.date()]

    def differing(date: datetime) -> int:
        return sum(a != b for a, b in zip(date.timetuple()[:6], own.timetuple()[:6], strict=True))

    return max(others, key=differing, default=None)


def _tried(lab: Laboratory, own: MachineSpec) -> Iterable[tuple[Axis, MachineSpec]]:
    """Return one machine for each further axis on which the case passed elsewhere.

    What passed under another engine may be nothing that this one has: a CPU called ``host``.
    """
    alike = [
        one
        for one in lab.evidence.values()
        if (one.machine.accelerator is Accelerator.UML) is (own.accelerator is Accelerator.UML)
    ]
    for axis in (Axis.CPU, Axis.KERNEL, Axis.CORES):
        for outcome in alike:
            value = getattr(outcome.machine, axis.field)
            if outcome.verdict is Verdict.PASSED and value != getattr(own, axis.field):
                yield axis, own.model_copy(update={axis.field: value})
                break


def _conclude(lab: Laboratory, found: _Variation, base: Finding, repeats: int) -> Finding:
    files = ", ".join(found.files[:5]) + (", …" if len(found.files) > 5 else "")  # noqa: PLR2004
    if found.axis is None:
        summary = f"passes, but leaves different files each time: {files}"
    else:
        summary = f"passes, but leaves different files along the {found.axis} axis: {files}"
    return base.model_copy(
        update={
            "kind": FindingKind.OUTPUT_VARIES,
            "axis": found.axis,
            "summary": summary,
            "varying_files": found.files,
            "difference": _difference(lab, found),
            "environment": found.first.machine,
            "confidence": coin_confidence(repeats),
        }
    )


def _difference(lab: Laboratory, found: _Variation) -> str:
    """Show the first difference, where this host lets us: the finding does not depend on it."""
    try:
        return _first_difference(lab, found)
    except OSError:
        return ""


def _first_difference(lab: Laboratory, found: _Variation) -> str:
    """Show how the first file differs, as diffoscope does; else say that it is not there."""
    program = which("diffoscope")
    if program is None:
        return _NO_DIFFOSCOPE
    with scratch_directory(lab.cache.root / "machines", "difference-") as place:
        sides = [place / name for name in ("first", "second")]
        for side, outcome in zip(sides, (found.first, found.second), strict=True):
            side.mkdir()
            setting = Setting(case=lab.case, cache=lab.cache, artifacts=side)
            run_once(setting, outcome.machine, lab.inputs, Part(held=True))
        return _compare(program, place, [side / found.files[0] for side in sides])


def _compare(program: str, place: Path, paths: Sequence[Path]) -> str:
    if not all(path.exists() for path in paths):
        return ""
    # it prints names as it gets them, and those of this host mean nothing to others
    names = [str(path.relative_to(place)) for path in paths]
    argv = [program, "--text", "-", "--max-text-report-size", "4000", *names]
    result = run(
        argv, cwd=place, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, timeout=_TIMEOUT_S, check=False
    )
    lines = result.stdout.decode(errors="replace").splitlines()[:_SHOWN_LINES]
    return "\n".join(lines)
