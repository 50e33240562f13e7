"""Several findings at once: one machine that is what each of them asks for, or those that clash."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from itertools import combinations, product

from buildvm_nb.model.cpu import cpu_at
from buildvm_nb.model.finding import Axis, Finding, FindingKind, Window
from buildvm_nb.model.instants import EARLIEST
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.study.allowing import passes_with, passing_cpus, passing_kernels
from buildvm_nb.study.showing import (
    Host,
    Shown,
    has_a_passing_cpu,
    has_a_passing_kernel,
    passing_date,
)
from buildvm_nb.study.windows import common_windows, holds, nearest_inside, shown_windows

__all__ = ["RESTRICTING", "combined", "conflicting"]

RESTRICTING = (
    FindingKind.TIME_TRAP,
    FindingKind.RECURRING,
    FindingKind.CPU_DEPENDENT,
    FindingKind.KERNEL_DEPENDENT,
    FindingKind.CORES_DEPENDENT,
)
"""Kinds of findings that exclude machines, those first whose machine is the base of others."""


@dataclass(frozen=True, kw_only=True)
class _Term:
    """What one finding asks of a machine on one axis."""

    finding: Finding
    axis: Axis
    windows: tuple[Window, ...] = ()
    """Of a date."""
    names: tuple[str, ...] = ()
    """Of CPUs or kernels."""


def combined(
    findings: Sequence[Finding], host: Host, own_date: datetime | None = None
) -> Shown | None:
    """Return the least unusual machine that is what each of several findings asks for.

    Each finding is taken to say the same on whatever the others vary. So the machine is not known
    to pass: each of its fields is.

    Parameters
    ----------
    findings : sequence of Finding
        At least one; those that exclude no machine may say at which date they were seen to pass.
    host : Host
        Where it would be built without a machine.
    own_date : datetime, optional
        Aware; commit or release date of what is built. Taken where it lies in all windows.

    Returns
    -------
    Shown or None
        With the first of the findings that decide; None: no machine is what all ask for.
    """
    ordered = [one for kind in RESTRICTING for one in findings if one.kind is kind]
    ordered += [one for one in findings if one not in ordered]
    ways = product(*(_ways(one, host, own_date) for one in ordered))
    machines = [_machine(ordered, terms, host, own_date) for terms in ways]
    return min((one for one in machines if one), key=lambda one: len(one.axes), default=None)


def conflicting(
    findings: Sequence[Finding], host: Host, own_date: datetime | None = None
) -> tuple[Finding, ...]:
    """Return the fewest findings that no machine is what all of them ask for.

    Parameters
    ----------
    findings : sequence of Finding
        Any.
    host : Host
        Where it would be built without a machine.
    own_date : datetime, optional
        Aware; commit or release date of what is built.

    Returns
    -------
    tuple of Finding
        In their order; empty where one machine is what all ask for.
    """
    sets = (some for size in range(1, len(findings) + 1) for some in combinations(findings, size))
    return next((some for some in sets if combined(some, host, own_date) is None), ())


def _ways(finding: Finding, host: Host, own_date: datetime | None) -> list[_Term | None]:
    """Return each way in which a machine can be what a finding asks for; None: any machine is."""
    match finding.kind:
        case FindingKind.TIME_TRAP | FindingKind.RECURRING:
            own = finding.environment.date if finding.environment else None
            windows = shown_windows(finding, host.date, own_date, own)
            ways: list[_Term | None] = [_Term(finding=finding, axis=Axis.DATE, windows=windows)]
            if finding.passing_cpus:
                studied = Window(
                    passes_from=finding.studied_from or EARLIEST,
                    passes_until=finding.studied_until or host.date,
                )
                names = finding.passing_cpus
                ways.append(_Term(finding=finding, axis=Axis.CPU, names=names, windows=(studied,)))
            return ways
        case FindingKind.CPU_DEPENDENT:
            return [_Term(finding=finding, axis=Axis.CPU, names=passing_cpus(finding))]
        case FindingKind.KERNEL_DEPENDENT:
            return [_Term(finding=finding, axis=Axis.KERNEL, names=passing_kernels(finding))]
        case FindingKind.CORES_DEPENDENT:
            return [_Term(finding=finding, axis=Axis.CORES)]
    return [None]


def _machine(
    findings: Sequence[Finding],
    terms: Sequence[_Term | None],
    host: Host,
    own_date: datetime | None,
) -> Shown | None:
    """Return the machine that meets all terms; None: there is none."""
    asked = [one for one in terms if one]
    date = _date(findings, asked, host, own_date)
    base = next((one.environment for one in findings if one.environment), None)
    if date is None or base is None:
        return None
    cpus = [one for one in asked if one.axis is Axis.CPU]
    kernels = [one for one in asked if one.axis is Axis.KERNEL]
    cores = [one.finding for one in asked if one.axis is Axis.CORES]
    usual = base.cpu if asked or date != host.date else cpu_at(host.date).name
    cpu, kernel = _cpu(cpus, usual, host), _kernel(kernels, base.kernel)
    count = _count(cores, base.cpu_count)
    if cpu is None or kernel is None or count is None:
        return None
    fields = {"date": date, "cpu": cpu, "kernel": kernel, "cpu_count": count}
    if cpus and cpus[0].finding.environment:  # where a missing feature is missing indeed
        fields["accelerator"] = cpus[0].finding.environment.accelerator
    needed = {
        Axis.DATE: date != host.date,
        Axis.CPU: not all(has_a_passing_cpu(one.finding, host) for one in cpus),
        Axis.KERNEL: not all(has_a_passing_kernel(one.finding, host) for one in kernels),
        Axis.CORES: bool(cores),
    }
    axes = frozenset(axis for axis, is_needed in needed.items() if is_needed)
    deciding = next((one.finding for one in asked if one.axis in axes), findings[0])
    return Shown(finding=deciding, machine=base.model_copy(update=fields), axes=axes)


def _date(
    findings: Sequence[Finding], terms: Sequence[_Term], host: Host, own_date: datetime | None
) -> datetime | None:
    """Return today where all pass today, else a date in all windows."""
    spans = [one.windows for one in terms if one.windows or one.axis is Axis.DATE]
    trapped = [one.finding for one in terms if one.windows or one.axis is Axis.DATE]
    free = [one for one in findings if one not in trapped]
    seen = [passing_date(one, host.date, own_date) for one in free]
    elsewhere = [date for date in seen if date != host.date]
    if not elsewhere and all(holds(windows, host.date) for windows in spans):
        return host.date
    dates = [date for date in elsewhere if date is not None]
    if not spans:
        return min(dates, key=lambda date: abs(date - (own_date or dates[0])), default=None)
    own = [one.environment.date for one in trapped if one.environment]
    wanted = own_date or next(iter([*dates, *own]), host.date)
    common = reduce(common_windows, spans)
    return nearest_inside(common, wanted)


def _cpu(terms: Sequence[_Term], usual: str, host: Host) -> str | None:
    """Return today's model where all pass on it, as it is or changed, else the first that does."""
    if not terms:
        return usual
    current = cpu_at(host.date).name
    common = [name for name in terms[0].names if name in _common(terms)]
    changed = sorted((name for name in common if name.split(",")[0] == current), key=len)
    return next(iter([*changed, *common]), None)


def _kernel(terms: Sequence[_Term], usual: str) -> str | None:
    """Return the usual kernel where all pass on it, else the first on which they do."""
    if not terms:
        return usual
    common = [name for name in terms[0].names if name in _common(terms)]
    default: str = MachineSpec.model_fields["kernel"].default
    return default if default in common else next(iter(common), None)


def _count(findings: Sequence[Finding], usual: int) -> int | None:
    """Return the least number of virtual CPUs with which all were seen to pass."""
    counts = sorted({one.environment.cpu_count for one in findings if one.environment})
    passing = [count for count in counts if all(passes_with(one, count) for one in findings)]
    return next(iter(passing), None) if findings else usual


def _common(terms: Iterable[_Term]) -> frozenset[str]:
    return frozenset.intersection(*(frozenset(one.names) for one in terms))
