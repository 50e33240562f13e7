"""What one finding shows: a machine in which the case passed, and what of it has to be chosen."""

import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from buildvm_nb.model.cpu import cpu_at, instruction_sets
from buildvm_nb.model.finding import Axis, Finding, FindingKind
from buildvm_nb.model.instants import now
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.study.windows import holds, nearest_inside, shown_windows
from buildvm_nb.vm import linux_flag

__all__ = [
    "EVERYWHERE",
    "Host",
    "Shown",
    "has_a_passing_cpu",
    "has_a_passing_kernel",
    "passing_date",
    "shown_by",
    "this_host",
]

EVERYWHERE = frozenset({FindingKind.SOUND, FindingKind.OUTPUT_VARIES})
"""Kinds of findings on cases that passed wherever they were run."""

_SHOWING = EVERYWHERE | {
    FindingKind.TIME_TRAP,
    FindingKind.RECURRING,
    FindingKind.CPU_DEPENDENT,
    FindingKind.KERNEL_DEPENDENT,
    FindingKind.CORES_DEPENDENT,
}
_SERIES = {
    "5.10": "debian:bullseye",
    "6.1": "debian:bookworm",
    "6.12": "debian:bookworm-backports",
}
"""Debian's kernel of each long-lived series; trixie's is that of the backports."""
_ALL_FEATURES = "max"
"""QEMU's model with every feature that the accelerator has."""
_SERIES_OF_TRIXIE = "debian:trixie"


@dataclass(frozen=True, kw_only=True)
class Host:
    """What matters of the host that something may be built on without a machine."""

    date: datetime
    """Aware, whole seconds: the present."""
    cpu_flags: frozenset[str] = frozenset()
    """As in ``/proc/cpuinfo``; empty: not known."""
    kernels: frozenset[str] = frozenset()
    """Names of guest kernels of the same series; empty: not known."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One machine in which a case passed."""

    finding: Finding
    machine: MachineSpec
    axes: frozenset[Axis]
    """What has to be chosen, as the host itself would not do; none: no machine is needed."""


def this_host() -> Host:
    """Return what matters of this host.

    Returns
    -------
    Host
        At the present second.
    """
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        text = ""
    flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    series = ".".join(platform.release().split(".")[:2])
    name = _SERIES.get(series)
    kernels = {name} if name else set()
    if name == "debian:bookworm-backports":
        kernels.add(_SERIES_OF_TRIXIE)
    return Host(
        date=now().replace(microsecond=0),
        cpu_flags=frozenset(flags[1].split() if flags else ()),
        kernels=frozenset(kernels),
    )


def shown_by(finding: Finding, host: Host, own_date: datetime | None = None) -> Shown | None:
    """Return the least unusual machine in which a finding shows that its case passes.

    Parameters
    ----------
    finding : Finding
        Any.
    host : Host
        Where it would be built without a machine.
    own_date : datetime, optional
        Aware; commit or release date of what is built. Taken where it lies in a window.

    Returns
    -------
    Shown or None
        None: it shows none, as of a flaky or always failing case.
    """
    if finding.kind not in _SHOWING or finding.environment is None:
        return None
    if _springs_elsewhere(finding, host):
        changes = {"date": host.date, "cpu": _passing_cpu(finding, host)}
        machine = finding.environment.model_copy(update=changes)
        return Shown(finding=finding, machine=machine, axes=frozenset())
    date = passing_date(finding, host.date, own_date)
    if date is None:
        return None
    deciding, is_needed = _deciding_field(finding, host)
    machine = finding.environment.model_copy(update={"date": date, **deciding})
    axes = {Axis.DATE} if date != host.date else set()
    if is_needed and finding.axis is not None:
        axes.add(finding.axis)
    if finding.kind in EVERYWHERE and not axes:
        machine = machine.model_copy(update={"cpu": cpu_at(host.date).name})
    return Shown(finding=finding, machine=machine, axes=frozenset(axes))


def passing_date(finding: Finding, today: datetime, own_date: datetime | None) -> datetime | None:
    """Return the date at which a finding shows that its case passes.

    Parameters
    ----------
    finding : Finding
        Any.
    today : datetime
        Aware.
    own_date : datetime, optional
        Aware; commit or release date of what is built.

    Returns
    -------
    datetime or None
        Today where it passes today, else the date nearest to its own; None: it never does.
    """
    if finding.kind in {FindingKind.TIME_TRAP, FindingKind.RECURRING}:
        wanted = own_date or (finding.environment.date if finding.environment else today)
        windows = shown_windows(finding, today, wanted)
        if holds(windows, today):
            return today
        return nearest_inside(windows, wanted)
    first, last = finding.studied_from, finding.studied_until
    was_studied = first is not None and last is not None and first <= today <= last
    if finding.kind in EVERYWHERE and was_studied:
        return today
    shown = finding.environment.date if finding.environment else today
    day = finding.recorded_at.replace(hour=0, minute=0, second=0, microsecond=0)
    # a diagnosis that began yesterday took that day for today
    was_today = shown >= day - timedelta(days=1) and (last is None or today <= last)
    return today if was_today else shown


def _deciding_field(finding: Finding, host: Host) -> tuple[dict[str, str], bool]:
    """Return what of a machine decides beside its date, and whether the host has no such thing."""
    match finding.kind:
        case FindingKind.CPU_DEPENDENT:
            return {"cpu": _passing_cpu(finding, host)}, not has_a_passing_cpu(finding, host)
        case FindingKind.KERNEL_DEPENDENT:
            return {"kernel": _passing_kernel(finding)}, not has_a_passing_kernel(finding, host)
        case FindingKind.CORES_DEPENDENT:
            return {}, True
    return {}, False


def _springs_elsewhere(finding: Finding, host: Host) -> bool:
    """Tell whether it is a time trap that springs on some CPUs only, and not on the host's."""
    last = finding.studied_until
    is_of_some = finding.kind is FindingKind.TIME_TRAP and bool(finding.passing_cpus)
    was_studied = last is not None and host.date <= last
    return is_of_some and was_studied and has_a_passing_cpu(finding, host)


def has_a_passing_cpu(finding: Finding, host: Host) -> bool:
    """Tell whether the host's own CPU is of the kind that passes, as far as features decide it.

    It is where it has what the finding names, every instruction set that all passing models have,
    and these tell each failing model apart: so a host like a failing model never is.

    Parameters
    ----------
    finding : Finding
        On a case that depends on the CPU.
    host : Host
        With its flags; without, it may be any.

    Returns
    -------
    bool
        Whether it is known to be.
    """
    flags, harmful = host.cpu_flags, frozenset(finding.features_harmful)
    needed = finding.features_needed or finding.features
    if not flags or not (needed or harmful):
        return False
    # any of the harmful may be enough elsewhere, so none of them may be there
    if flags & _flags(harmful) or (not harmful and not _flags(needed) <= flags):
        return False
    seen = [finding.environment.cpu] if finding.environment else []
    passing = [known for cpu in (*seen, *finding.passing_cpus) if (known := instruction_sets(cpu))]
    common = frozenset.intersection(*passing) if passing else frozenset[str]()
    if not common or not _flags(common) <= flags:
        return False  # one minimal set does not tell why each of the models failed
    return all(_is_told_apart(cpu, common, harmful) for cpu in finding.failing_cpus)


def _is_told_apart(cpu: str, common: frozenset[str], harmful: frozenset[str]) -> bool:
    """Tell whether instruction sets explain that a model fails where others pass."""
    known = instruction_sets(cpu)
    if known is None:
        return cpu.split(",", maxsplit=1)[0] == _ALL_FEATURES and bool(harmful)
    return bool(known & harmful or common - known)


def has_a_passing_kernel(finding: Finding, host: Host) -> bool:
    """Tell whether the host's own kernel is of a series that passes, and of none that does not.

    Parameters
    ----------
    finding : Finding
        On a case that depends on the kernel.
    host : Host
        With the names of its kernel; without, it may be any.

    Returns
    -------
    bool
        Whether it is known to be.
    """
    is_passing = bool(host.kernels & set(finding.passing_kernels))
    return is_passing and not host.kernels & set(finding.failing_kernels)


def _flags(features: Iterable[str]) -> frozenset[str]:
    return frozenset(map(linux_flag, features))


def _passing_cpu(finding: Finding, host: Host) -> str:
    """Return today's model where it was seen to pass, as it is or with something taken away."""
    current = cpu_at(host.date).name
    passing = [cpu for cpu in finding.passing_cpus if cpu.split(",")[0] == current]
    shown = finding.environment.cpu if finding.environment else current
    return min(passing, key=len, default=shown)


def _passing_kernel(finding: Finding) -> str:
    usual: str = MachineSpec.model_fields["kernel"].default
    shown = finding.environment.kernel if finding.environment else usual
    return usual if usual in finding.passing_kernels else shown
