"""The choice of an environment: which findings to follow, and what they ask for at least."""

import platform
import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import reduce
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildvm_nb.catalog import find_case, find_case_file
from buildvm_nb.catalog.curated import curated_findings, proposed_cases
from buildvm_nb.catalog.reported import reported_rows
from buildvm_nb.errors import HostError, SourceError, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.case import (
    ArchiveSource,
    Case,
    LocalSource,
    Source,
    WheelsSource,
    Window,
    plain_name,
)
from buildvm_nb.model.finding import Axis, Finding, FindingKind
from buildvm_nb.model.instants import EARLIEST, now
from buildvm_nb.model.machine import MachineSpec, cpu_at, instruction_sets
from buildvm_nb.model.outcome import Verdict
from buildvm_nb.study.choice import (
    Basis,
    Choice,
    Mention,
    Package,
    Unproved,
    common_windows,
    holds,
    nearest_inside,
    package_of,
    packages_of,
    passes_at,
    shown_windows,
)
from buildvm_nb.vm import linux_flag

if TYPE_CHECKING:
    from buildvm_nb.catalog import Catalog

__all__ = [
    "Host",
    "allows",
    "choose_environment",
    "environment",
    "passes_with",
    "this_host",
]

# What a finding says of machines other than its own: where its case passes besides.


def allows(finding: Finding, machine: MachineSpec, shown: Finding) -> bool | None:
    """Tell what a finding says of a machine in which another one shows that the same case passes.

    Returns: whether the case passes in it; None: the finding does not say.
    """
    chosen = {
        FindingKind.CPU_DEPENDENT: machine.cpu,
        FindingKind.KERNEL_DEPENDENT: machine.kernel,
        FindingKind.TIMEZONE_DEPENDENT: finding.case.timezone,
    }
    if finding.kind in chosen:
        _passing, failing = _named(finding)
        return chosen[finding.kind] not in failing
    match finding.kind:
        case FindingKind.TIME_TRAP | FindingKind.RECURRING:
            if machine.cpu in finding.passing_cpus or passes_at(finding, machine.date):
                return True
            return None if _was_spared(finding, machine, shown) else False
        case FindingKind.CORES_DEPENDENT:
            return passes_with(finding, machine.cpu_count)
    return None


def passing_cpus(finding: Finding) -> tuple[str, ...]:
    """Return the CPUs on which a case was seen to pass, the least unusual one first."""
    seen = [finding.environment.cpu] if finding.environment else []
    return tuple(dict.fromkeys([*seen, *finding.passing_cpus]))


def passing_kernels(finding: Finding) -> tuple[str, ...]:
    """Return the kernels on which a case was seen to pass, the least unusual one first."""
    seen = [finding.environment.kernel] if finding.environment else []
    return tuple(dict.fromkeys([*seen, *finding.passing_kernels]))


def passes_with(finding: Finding, count: int) -> bool:
    """Tell whether a case passes with a number of virtual CPUs.

    Returns: false, too, where that was not studied: between both sides of a change.
    """
    if finding.environment is not None and finding.environment.cpu_count == count:
        return True
    passes = bool(finding.boundaries) and finding.boundaries[0].before is Verdict.PASSED
    for edge in finding.boundaries:
        if count >= int(edge.first_after):
            passes = edge.after is Verdict.PASSED
        elif count > int(edge.last_before):
            return False
    return passes


def passing_zone(finding: Finding) -> str:
    """Return the value of ``TZ`` with which a finding saw its case pass; empty: it says nothing."""
    is_of_zones = finding.kind is FindingKind.TIMEZONE_DEPENDENT
    return next((edge.last_before for edge in finding.boundaries if is_of_zones), "")


def _was_spared(trap: Finding, machine: MachineSpec, shown: Finding) -> bool:
    """Tell whether the case was seen to pass in such a machine at a date that the trap excludes.

    Then it does not spring there, and was only studied elsewhere.
    """
    seen, sprung = shown.environment, trap.environment
    if seen is None or passes_at(trap, seen.date):
        return False
    is_elsewhere = sprung is None or (machine.cpu, machine.kernel) != (sprung.cpu, sprung.kernel)
    cpus, kernels = passing_cpus(shown), passing_kernels(shown)
    return is_elsewhere and machine.cpu in cpus and machine.kernel in kernels


# What one finding shows: a machine in which the case passed, and what of it has to be chosen.

EVERYWHERE = frozenset({FindingKind.SOUND, FindingKind.OUTPUT_VARIES})
"""Kinds of findings on cases that passed wherever they were run."""

_SHOWING = EVERYWHERE | {
    FindingKind.TIME_TRAP,
    FindingKind.RECURRING,
    FindingKind.CPU_DEPENDENT,
    FindingKind.KERNEL_DEPENDENT,
    FindingKind.CORES_DEPENDENT,
    FindingKind.TIMEZONE_DEPENDENT,
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
    zone: str = ""
    """Value of ``TZ`` that its steps had; empty: the case's own."""


def this_host() -> Host:
    """Return what matters of this host.

    Returns: at the present second.
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

    `own_date`: aware; commit or release date of what is built. Taken where it lies in a window.
    Returns: None: it shows none, as of a flaky or always failing case.
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
    zone = passing_zone(finding)
    return Shown(finding=finding, machine=machine, axes=frozenset(axes), zone=zone)


def passing_date(finding: Finding, today: datetime, own_date: datetime | None) -> datetime | None:
    """Return the date at which a finding shows that its case passes.

    Returns: today where it passes today, else the date nearest to its own; None: it never does.
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
        case FindingKind.CORES_DEPENDENT | FindingKind.TIMEZONE_DEPENDENT:
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
    """Tell whether the host's own kernel is of a series that passes, and of none that does not."""
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


# Several findings at once: one machine that is what each of them asks for, or those that clash.

RESTRICTING = (
    FindingKind.TIME_TRAP,
    FindingKind.RECURRING,
    FindingKind.CPU_DEPENDENT,
    FindingKind.KERNEL_DEPENDENT,
    FindingKind.CORES_DEPENDENT,
    FindingKind.TIMEZONE_DEPENDENT,
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
    """Of CPUs, kernels or time zones."""


def combined(
    findings: Sequence[Finding], host: Host, own_date: datetime | None = None
) -> Shown | None:
    """Return the least unusual machine that is what each of several findings asks for.

    Each finding is taken to say the same on whatever the others vary. So the machine is not known
    to pass: each of its fields is.

    `findings`: at least one; those that exclude no machine may say at which date they were seen to
    pass.
    `own_date`: aware; commit or release date of what is built. Taken where it lies in all windows.
    Returns: with the first of the findings that decide; None: no machine is what all ask for.
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

    Returns: in their order; empty where one machine is what all ask for.
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
        case FindingKind.TIMEZONE_DEPENDENT:
            names = (passing_zone(finding),)
            return [_Term(finding=finding, axis=Axis.TIMEZONE, names=names)]
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
    zones = [one for one in asked if one.axis is Axis.TIMEZONE]
    zone = next(iter(_common(zones)), None) if zones else ""
    usual = base.cpu if asked or date != host.date else cpu_at(host.date).name
    cpu, kernel = _cpu(cpus, usual, host), _kernel(kernels, base.kernel)
    count = _count(cores, base.cpu_count)
    if cpu is None or kernel is None or count is None or zone is None:
        return None
    fields = {"date": date, "cpu": cpu, "kernel": kernel, "cpu_count": count}
    if cpus and cpus[0].finding.environment:  # where a missing feature is missing indeed
        fields["accelerator"] = cpus[0].finding.environment.accelerator
    needed = {
        Axis.DATE: date != host.date,
        Axis.CPU: not all(has_a_passing_cpu(one.finding, host) for one in cpus),
        Axis.KERNEL: not all(has_a_passing_kernel(one.finding, host) for one in kernels),
        Axis.CORES: bool(cores),
        Axis.TIMEZONE: bool(zones),
    }
    axes = frozenset(axis for axis, is_needed in needed.items() if is_needed)
    deciding = next((one.finding for one in asked if one.axis in axes), findings[0])
    machine = base.model_copy(update=fields)
    return Shown(finding=deciding, machine=machine, axes=axes, zone=zone)


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


_ORDER = (Axis.TIMEZONE, Axis.DATE, Axis.CPU, Axis.KERNEL, Axis.CORES)
"""What is chosen more easily comes first."""
_WHOLE = EVERYWHERE | {FindingKind.ALWAYS_FAILING}
"""Kinds that speak of all axes at once."""
_BY_NAME = frozenset(
    {
        FindingKind.CPU_DEPENDENT,
        FindingKind.KERNEL_DEPENDENT,
        FindingKind.TIMEZONE_DEPENDENT,
    }
)
"""Kinds that name what passes and what does not."""


@dataclass(frozen=True, kw_only=True)
class _Known:
    """A finding, and whose it is."""

    finding: Finding
    is_curated: bool

    @property
    def rank(self) -> tuple[datetime, bool]:
        """The newer counts more, then the user's own."""
        return self.finding.recorded_at, not self.is_curated

    def mention(self) -> Mention:
        return Mention.of(self.finding, is_curated=self.is_curated)


def choose_environment(
    subject: Case | Package,
    own: Iterable[Finding],
    curated: Iterable[Finding] = (),
    *,
    host: Host,
    own_date: datetime | None = None,
) -> Choice:
    """Choose the least invasive environment in which something was shown to build.

    Findings on the very case count (whatever its id, title and claim), else those on the same
    version of the package. Of findings on one case that contradict each other the newest is
    followed, of those that say the same the user's own; all that are left are followed together.
    Where nothing is known, the date of the source and the CPU of that date are a guess.

    Returns: without an environment where a finding says that none is known, where findings exclude
    each other, or where nothing is known about a package that is not further described.
    """
    known = [_Known(finding=one, is_curated=False) for one in own]
    known += [_Known(finding=one, is_curated=True) for one in curated]
    packages = packages_of(subject) if isinstance(subject, Case) else (subject,)
    related = [one for one in known if _is_about(one.finding, packages)]
    same = [one for one in related if _is_version(one.finding, packages)]
    others = tuple(one.mention() for one in related if one not in same)
    name = subject.id if isinstance(subject, Case) else str(subject)
    exact: list[_Known] = []
    if isinstance(subject, Case):
        digest = subject.build_digest()
        exact = [one for one in known if one.finding.case.build_digest() == digest]
    if exact or same:
        choice = _follow(exact or same, name, host, own_date)
        is_same = bool(exact) or not isinstance(subject, Case)
        return choice.model_copy(update={"is_same_case": is_same, "other_versions": others})
    return _guess(subject, name, host, own_date).model_copy(update={"other_versions": others})


def _is_about(finding: Finding, packages: Sequence[Package]) -> bool:
    others = packages_of(finding.case)
    return any(one.is_same(other) for one in packages for other in others)


def _is_version(finding: Finding, packages: Sequence[Package]) -> bool:
    others = packages_of(finding.case)
    return any(
        bool(one.version) and one.version == other.version and one.is_same(other)
        for one in packages
        for other in others
    )


def _guess(subject: Case | Package, name: str, host: Host, own_date: datetime | None) -> Choice:
    if own_date is None and not isinstance(subject, Case):
        return Choice(basis=Basis.NONE, subject=name)
    fields: dict[str, Any] = {"date": (own_date or host.date).replace(microsecond=0)}
    if isinstance(subject, Case):
        limits = subject.limits
        fields |= {"memory_mib": limits.memory_mib, "cpu_count": limits.cpu_count}
        fields["image"] = subject.image
    axes = (Axis.DATE, Axis.CPU) if own_date else ()
    machine = MachineSpec.parse(fields)
    return Choice(basis=Basis.GUESS, subject=name, axes=axes, environment=machine)


def _follow(known: Sequence[_Known], name: str, host: Host, own_date: datetime | None) -> Choice:
    """Choose by findings on one thing."""
    valid, refuted = _settle(known)
    by_id = {one.finding.id: one for one in known}
    telling = [one for one in valid if shown_by(one.finding, host, own_date)]
    silent = [one for one in valid if one.finding.kind is FindingKind.FLAKY]
    if silent or not telling:
        last = max(silent or valid, key=lambda one: one.rank)
        return Choice(
            basis=Basis.NONE,
            subject=name,
            because=last.finding,
            is_curated=last.is_curated,
            against=tuple(one.mention() for one in refuted),
        )
    refuted += [one for one in valid if one not in telling]
    against = tuple(one.mention() for one in refuted)
    findings = [one.finding for one in sorted(telling, key=lambda one: one.rank, reverse=True)]
    is_one_case = len({one.case.build_digest() for one in findings}) == 1
    # what passed in a machine is no evidence that another case does
    viable = _viable(findings, host, own_date) if is_one_case else []
    one_for_all = combined(findings, host, own_date)
    if not viable and one_for_all is None:
        clash = [by_id[one.id].mention() for one in conflicting(findings, host, own_date)]
        return Choice(basis=Basis.NONE, subject=name, conflict=tuple(clash), against=against)
    best = min([*viable, *([one_for_all] if one_for_all else [])], key=_effort)
    is_seen = best in viable
    chosen = by_id[best.finding.id]
    others = [
        by_id[one.id].mention()
        for one in findings
        if one is not best.finding
        and one.kind in RESTRICTING
        and (not is_seen or allows(one, best.machine, best.finding))
    ]
    return Choice(
        basis=Basis.CURATED_FINDING if chosen.is_curated else Basis.OWN_FINDING,
        subject=name,
        axes=tuple(axis for axis in _ORDER if axis in best.axes),
        environment=best.machine,
        timezone=best.zone,
        because=best.finding,
        is_curated=chosen.is_curated,
        also=tuple(others),
        is_combined=bool(others) and not is_seen,
        against=against,
    )


def _effort(shown: Shown) -> tuple[int, list[int]]:
    """Return what orders machines: the fewer has to be chosen, and the more easily, the less."""
    return len(shown.axes), sorted(map(_ORDER.index, shown.axes))


def _viable(findings: Sequence[Finding], host: Host, own_date: datetime | None) -> list[Shown]:
    """Return the machines that findings show and no other finding speaks against."""
    proposals = [shown for one in findings if (shown := shown_by(one, host, own_date))]
    viable = []
    for one in proposals:
        others = [other for other in proposals if other is not one]
        says = [allows(other.finding, one.machine, one.finding) for other in others]
        if False not in says:
            more = [other.axes for other, is_told in zip(others, says, strict=True) if is_told]
            today = {Axis.DATE} if one.machine.date == host.date else set()
            zone = next((shown.zone for shown in (one, *others) if shown.zone), "")
            viable.append(replace(one, axes=one.axes.union(*more) - today, zone=zone))
    return viable


def _settle(known: Sequence[_Known]) -> tuple[list[_Known], list[_Known]]:
    """Choose one finding for each question on each case; return those, and those that differ."""
    cases: dict[str, list[_Known]] = {}
    for one in known:
        cases.setdefault(one.finding.case.build_digest(), []).append(one)
    settled = [_settle_case(same) for same in cases.values()]
    valid = [one for winners, _ in settled for one in winners]
    telling = [one for one in valid if one.finding.kind is not FindingKind.UNDETERMINED]
    return telling or valid, [one for _, refuted in settled for one in refuted]


def _settle_case(known: Sequence[_Known]) -> tuple[list[_Known], list[_Known]]:
    told = [one for one in known if one.finding.kind is not FindingKind.UNDETERMINED] or [*known]
    questions: dict[Axis | None, list[_Known]] = {}
    for one in told:
        questions.setdefault(_question(one.finding), []).append(one)
    winners, refuted = list[_Known](), list[_Known]()
    for same in questions.values():
        held, left = _hold_together(same)
        winners += held
        refuted += left
    whole = [one for one in winners if one.finding.kind in _WHOLE]
    single = [one for one in winners if one not in whole]
    if not (whole and single):
        return winners, refuted
    newest = max(winners, key=lambda one: one.rank)
    kept, left = (
        (whole, single) if newest in whole and _asked_for_dates(newest) else (single, whole)
    )
    return kept, refuted + left


def _hold_together(same: Sequence[_Known]) -> tuple[list[_Known], list[_Known]]:
    """Return the newest answer to one question and all that do not contradict it, and the others.

    Two diagnoses of CPUs or kernels may have tried different ones: then both are true.
    """
    held, left = list[_Known](), list[_Known]()
    for one in sorted(same, key=lambda one: one.rank, reverse=True):
        is_refuted = any(_contradicts(one.finding, newer.finding) for newer in held)
        (left if is_refuted else held).append(one)
    answers: dict[object, list[_Known]] = {}
    for one in held:
        answers.setdefault((_conclusion(one.finding), *_named(one.finding)), []).append(one)
    # of those that say the same, the user's own
    own = [max(same, key=lambda one: (not one.is_curated, one.rank)) for same in answers.values()]
    return own, left


def _contradicts(older: Finding, newer: Finding) -> bool:
    """Tell whether two findings on one question cannot both be true."""
    if older.kind is newer.kind and newer.kind in _BY_NAME:
        (passing, failing), (passes, fails) = _named(older), _named(newer)
        return bool(passing & fails or failing & passes)
    return _conclusion(older) != _conclusion(newer)


def _named(finding: Finding) -> tuple[frozenset[str], frozenset[str]]:
    """Return the CPUs, kernels or zones with which a case passes, and those with which not."""
    match finding.kind:
        case FindingKind.CPU_DEPENDENT:
            return frozenset(finding.passing_cpus), frozenset(finding.failing_cpus)
        case FindingKind.KERNEL_DEPENDENT:
            return frozenset(finding.passing_kernels), frozenset(finding.failing_kernels)
        case FindingKind.TIMEZONE_DEPENDENT:
            failing = frozenset(edge.first_after for edge in finding.boundaries)
            return frozenset({passing_zone(finding)}), failing
    return frozenset(), frozenset()


def _asked_for_dates(one: _Known) -> bool:
    """Tell whether what passes everywhere was run at many dates, or at one or two."""
    return one.finding.studied_from is not None


def _question(finding: Finding) -> Axis | None:
    return None if finding.kind in _WHOLE else finding.axis


def _conclusion(finding: Finding) -> object:
    """Return what must be the same in two findings that agree."""
    match finding.kind:
        case FindingKind.TIME_TRAP:
            return finding.kind, finding.windows
        case FindingKind.RECURRING:
            return finding.kind, finding.recurs, finding.windows
        case FindingKind.CPU_DEPENDENT:
            return finding.kind, finding.features, finding.features_harmful
        case FindingKind.KERNEL_DEPENDENT | FindingKind.CORES_DEPENDENT:
            edges = tuple((edge.last_before, edge.first_after) for edge in finding.boundaries)
            return finding.kind, edges
    return finding.kind


# Advice on where to build something: findings looked up, then an environment chosen.


def environment(
    subject: Case | Source | str | Path,
    version: str | None = None,
    *,
    catalog: "Catalog | None" = None,
    cache: Cache | None = None,
    base: Path | None = None,
    progress: Progress = SILENT,
) -> Choice:
    """Choose the environment in which something was shown to build.

    Findings of the user's own catalog and the verified ones of the curated catalog are consulted;
    nothing is run. The source is only fetched where its date is needed.

    Parameters
    ----------
    subject : Case, Source, str or Path
        A case or its file, the id of a curated case, a source, or the name of a package.
    version : str, optional
        Of the package that is named.
    catalog : Catalog, optional
        The user's own findings; by default those of the user's catalog.
    cache : Cache, optional
        Keeps the source.
    base : Path, optional
        Directory that relative paths of the case are below; by default that of its file, else
        the current one.
    progress : Progress
        Shows what is fetched.

    Returns
    -------
    Choice
        What to choose, the finding that says so, and an explanation.

    Raises
    ------
    UsageError
        If a version is given of something that is no package's name, or a case file is wrong.
    CatalogError
        If a catalog cannot be read.
    """
    wanted, source, beside = _read(subject, version)
    with ExitStack() as stack:
        if catalog is None:
            from buildvm_nb.catalog import Catalog  # noqa: PLC0415 - imports pandas

            catalog = stack.enter_context(Catalog())
        packages = packages_of(wanted) if isinstance(wanted, Case) else (wanted,)
        digest = wanted.build_digest() if isinstance(wanted, Case) else ""
        own = _own_findings(catalog, packages, digest)
    curated = curated_findings()
    if isinstance(wanted, Package) and not wanted.version:
        wanted = _only_version(wanted, (*own, *curated))
    host = this_host()
    unproved = _unproved(packages)
    choice = choose_environment(wanted, own, curated, host=host)
    choice = choice.model_copy(update={"unproved": unproved})
    is_known = choice.because is not None or bool(choice.conflict)
    needs_date = not is_known or Axis.DATE in choice.axes
    if source is None or not needs_date:
        return choice
    dated_at = _date_of(source, cache or Cache(), base or beside, progress)
    choice = choose_environment(wanted, own, curated, host=host, own_date=dated_at)
    return choice.model_copy(update={"unproved": unproved})


def _read(
    subject: Case | Source | str | Path, version: str | None
) -> tuple[Case | Package, Source | None, Path]:
    """Return what is meant, its source where there is one, and where relative paths start."""
    if version is not None:
        if not isinstance(subject, str):
            raise UsageError(f"a version belongs to a package's name; got {type(subject).__name__}")
        return Package(name=subject, version=version), None, Path()
    if isinstance(subject, str) and "/" not in subject and subject.strip("."):
        try:
            subject = find_case_file(subject)
        except UsageError:  # also where a directory has that name, as in a checkout of the package
            return Package(name=subject), None, Path()
    if isinstance(subject, Case | str | Path):
        case, place = find_case(subject)
        return case, case.source, place
    package = package_of(subject)
    if package is None:
        raise UsageError(f"a source without a name of its own: {subject.kind}; give a case")
    return package, subject, Path()


def _own_findings(catalog: "Catalog", packages: Sequence[Package], digest: str) -> list[Finding]:
    """Return the findings that may be on a subject: what decides reads only few whole."""
    found = {one.id: one for one in catalog.finding_documents(case_digest=digest)} if digest else {}
    for name in {plain_name(package.name): package.name for package in packages}.values():
        found |= {one.id: one for one in catalog.finding_documents(package=name)}
    return sorted(found.values(), key=lambda one: (one.recorded_at, one.id))


def _only_version(package: Package, findings: tuple[Finding, ...]) -> Package:
    """Fill in the version where findings are on one alone."""
    others = [other for finding in findings for other in packages_of(finding.case)]
    versions = {other.version for other in others if other.is_same(package)}
    return package.model_copy(update={"version": versions.pop()}) if len(versions) == 1 else package


def _unproved(packages: Sequence[Package]) -> tuple[Unproved, ...]:
    """Return what is proposed or reported on packages, in any version."""
    found = []
    for case in proposed_cases():
        about = next((one for one in packages_of(case) if _is_any(one, packages)), None)
        if about and case.claim:
            url = case.provenance.url if case.provenance else ""
            found.append(
                Unproved(
                    id=case.id,
                    tier="proposed",
                    package=str(about),
                    kind=case.claim.kind,
                    told=case.title,
                    url=url,
                )
            )
    for entry in reported_rows():
        names = (entry.name, entry.words)
        if any(_is_any(Package(name=name, kind=entry.ecosystem), packages) for name in names):
            about_it = f"{entry.words} {entry.version}".strip()
            found.append(
                Unproved(
                    id=entry.id,
                    tier="reported",
                    package=about_it,
                    kind=entry.kind,
                    told=entry.symptom,
                    url=entry.source_url,
                )
            )
    return tuple(found)


def _is_any(package: Package, others: Sequence[Package]) -> bool:
    return any(package.is_same(other) for other in others)


def _date_of(source: Source, cache: Cache, base: Path, progress: Progress) -> datetime | None:
    match source:
        case LocalSource() | ArchiveSource():
            return None  # they have none, so there is no need to copy them
        case WheelsSource():
            return source.as_of
    from buildvm_nb.source import fetch  # noqa: PLC0415 - 0.1 s that most choices do without

    try:
        return fetch(source, cache, base=base, progress=progress).record.dated_at
    except (SourceError, HostError):
        return None  # it is a preference only, and building will tell
