"""Axes whose values are few and in order, such as kernels; and outputs that vary along an axis."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from shutil import which
from subprocess import DEVNULL, PIPE, run
from typing import TypeVar

from debian.debian_support import NativeVersion

from buildvm_nb.errors import SourceError, Unreachable
from buildvm_nb.image.uml import UML_KERNELS
from buildvm_nb.model.finding import Axis, Finding, FindingKind
from buildvm_nb.model.machine import Accelerator, MachineSpec
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.search import Answer, Plan, Probe, State, Survey, coin_confidence, find_transitions
from buildvm_nb.study.dates import state_of
from buildvm_nb.study.laboratory import Laboratory, Order
from buildvm_nb.study.prepare import home_of
from buildvm_nb.study.run import Part, Setting, kernel_for, run_once
from buildvm_nb.vm import scratch_directory

__all__ = [
    "KERNELS",
    "ZONES",
    "OrderedStudy",
    "study_cores",
    "study_kernels",
    "study_order",
    "study_outputs",
    "study_zones",
]

# The kernel axis, and others whose values are few and in order: numbers of cores, commits.

KERNELS = ("debian:bullseye", "debian:bookworm", "debian:bookworm-backports", "debian:sid")
"""One for each long-lived series that Debian's mirrors have; trixie has that of the backports."""

_FLAVOUR = re.compile(r"(?:-(?:cloud|rt|amd64|generic|unsigned))+$")
_T = TypeVar("_T")


@dataclass(kw_only=True)
class OrderedStudy:
    """What was found along an axis of a few values."""

    survey: Survey
    values: tuple[str, ...]
    """In the order of the axis."""
    outcomes: dict[Probe, Outcome] = field(default_factory=dict)
    """By index into `values`."""
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """What should have been tried and could not be had."""

    def at(self, index: int) -> list[Outcome]:
        """Return the outcomes at one value."""
        return [outcome for probe, outcome in self.outcomes.items() if probe.at == index]


def study_order(
    lab: Laboratory,
    values: Sequence[_T],
    order: Callable[[_T, int], Order],
    plan: Plan,
    *,
    name: Callable[[_T], str] = str,
    judge: Callable[[Outcome], State] = state_of,
) -> OrderedStudy:
    """Find where the verdict changes along a list of values.

    `values`: in their order.
    `order`: makes an order of a value and the number of the repetition.
    `judge`: what an outcome says; by default as its verdict.
    """
    seen: dict[Probe, Outcome] = {}

    def ask(probes: Sequence[Probe]) -> list[Answer]:
        outcomes = lab.run([order(values[probe.at], probe.attempt) for probe in probes])
        seen.update(zip(probes, outcomes, strict=True))
        return [
            Answer(state=judge(outcome), first=probe.at, last=probe.at)
            for probe, outcome in zip(probes, outcomes, strict=True)
        ]

    survey = find_transitions(ask, plan)
    names = tuple(name(value) for value in values)
    return OrderedStudy(survey=survey, values=names, outcomes=seen)


def study_kernels(
    lab: Laboratory, spec: MachineSpec, names: Sequence[str] = (), *, repeats: int = 2
) -> OrderedStudy:
    """Run a case on kernels, in the order of their versions.

    `names`: kernels to try beside that of `spec`; by default `KERNELS`.
    Returns: values are releases, as ``uname -r`` says them. A kernel that cannot be had is left
    out, with a note.
    """
    releases: dict[str, str] = {}
    notes, missing = [], []
    for name in dict.fromkeys([*(names or _usual(spec)), spec.kernel]):
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
    ordered = sorted(releases, key=_version)

    def order(release: str, attempt: int) -> Order:
        machine = spec.model_copy(update={"kernel": releases[release]})
        probing = {"attempt": attempt, "prepared_on": home_of(lab.case, spec)}
        return Order(case=lab.case, machine=machine, probing=probing)

    study = study_order(lab, ordered, order, _everywhere(len(ordered), repeats, lab.workers))
    study.notes += [*missing, *notes]
    study.missing += missing
    return study


def study_cores(
    lab: Laboratory, spec: MachineSpec, counts: Sequence[int] = (1, 2, 4), *, repeats: int = 2
) -> OrderedStudy:
    """Run a case with several numbers of cores."""
    ordered = sorted({*counts, spec.cpu_count})

    def order(count: int, attempt: int) -> Order:
        machine = spec.model_copy(update={"cpu_count": count})
        return Order(case=lab.case, machine=machine, probing={"attempt": attempt})

    return study_order(lab, ordered, order, _everywhere(len(ordered), repeats, lab.workers))


ZONES = {
    "UTC": "UTC",
    "<+14>-14": "14 hours east of UTC",
    "<-11>11": "11 hours west of UTC, beyond the date line",
    "CET-1CEST,M3.5.0,M10.5.0/3": "central Europe, with summer time",
}
"""Values of ``TZ``, as POSIX writes them: no image needs zone files for these. Between the second
and the third it is never the same day."""


def study_zones(lab: Laboratory, spec: MachineSpec, *, repeats: int = 2) -> OrderedStudy:
    """Run a case with several time zones in its steps' environment.

    Returns: values of ``TZ``, the case's own first.
    """
    own = lab.case.timezone
    zones = list(dict.fromkeys([own, *ZONES]))

    def order(zone: str, attempt: int) -> Order:
        case = lab.case if zone == own else lab.case.in_timezone(zone)
        return Order(case=case, machine=spec, probing={"attempt": attempt})

    return study_order(lab, zones, order, _everywhere(len(zones), repeats, lab.workers))


def _everywhere(count: int, repeats: int, workers: int) -> Plan:
    """Ask at every index: bad intervals between good ones do occur."""
    return Plan(
        first=0,
        last=count - 1,
        scan=range(count),
        repeats=repeats,
        workers=workers,
        can_hold=False,
        reveal=0,
    )


def _version(release: str) -> tuple[NativeVersion, str]:
    """Return what orders releases: as Debian orders versions, ABI numbers among their parts.

    The flavour, such as ``cloud-amd64``, comes last of all. A candidate, ``6.6-rc1``, comes before
    what it becomes.
    """
    plain = re.sub(r"-rc(?=\d)", "~rc", _FLAVOUR.sub("", release))
    return NativeVersion(re.sub(r"[^A-Za-z0-9.+~-]", "-", plain)), release


def _usual(spec: MachineSpec) -> tuple[str, ...]:
    return UML_KERNELS if spec.accelerator is Accelerator.UML else KERNELS


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
    """Return one machine for each further axis on which the case passed elsewhere."""
    for axis, name in ((Axis.CPU, "cpu"), (Axis.KERNEL, "kernel"), (Axis.CORES, "cpu_count")):
        for outcome in lab.evidence.values():
            value = getattr(outcome.machine, name)
            if outcome.verdict is Verdict.PASSED and value != getattr(own, name):
                yield axis, own.model_copy(update={name: value})
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
