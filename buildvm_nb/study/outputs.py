"""Outputs that vary: artifacts that differ along an axis although every run passes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from shutil import which
from subprocess import DEVNULL, PIPE, run

from buildvm_nb.model.finding import Axis, Finding, FindingKind
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.search import coin_confidence
from buildvm_nb.study.laboratory import Laboratory
from buildvm_nb.study.probe import Order
from buildvm_nb.study.trial import Part, Setting, run_once
from buildvm_nb.vm import scratch_directory

__all__ = ["study_outputs"]

_SHOWN_LINES = 40
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

    Parameters
    ----------
    lab : Laboratory
        Runs the case.
    own, today : MachineSpec
        Machines at two dates.
    base : Finding
        What is the same whatever is found.
    repeats : int
        How often the first machine is asked again.

    Returns
    -------
    (Finding or None, tuple of Outcome)
        None where the case has no artifacts, or they are the same everywhere; and the runs that
        did not pass, so that nothing of theirs was compared.

    Raises
    ------
    HostError
        If the executor breaks.
    CatalogError
        If an outcome cannot be recorded.
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
    """Show how the first file differs, where diffoscope is installed; else nothing."""
    program = which("diffoscope")
    if program is None:
        return ""
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
